"""The server that runs, not its settings: command line, reloads, Ctrl-C, and what a wrong start says."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from faults.upstreams import Peer, Upstream

from .service import Service, eventually
from .test_process import holding

Behind = Callable[[Callable[[Peer], None]], Upstream]
Start = Callable[..., Service]
NOT_RELOADED = "Not reloaded, the workers go on as before: "


def test_the_command_line_is_what_runs(serve: Start, behind: Behind) -> None:
    """gunicorn -b and --threads: strangers are warned of, and two threads are left that refuse and say how it is."""
    release = threading.Event()
    far_end = behind(holding(release))
    settings = {"LLM_BACKEND": "openai", "OPENAI_BASE_URL": far_end.address, "LLM_FALLBACK": "none"}
    service = serve(GUNICORN_CMD_ARGS="-b 0.0.0.0:0 --threads 4", WEB_CONCURRENCY=1, **settings)

    config = service.get("/config").body
    assert (config["bind"], config["threads"]) == (f"0.0.0.0:{service.port}", 4)
    assert f"[WARNING] EVERYBODY WHO REACHES 0.0.0.0:{service.port} MAY USE THIS SERVICE" in service.output()
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(service.generate, "Hello") for _ in range(2)]
        eventually(lambda: far_end.asked == 2)
        assert service.generate("Hello").body["error"]["code"] == "no_capacity"
        assert service.get("/health").status == 200
        release.set()
        assert [future.result().status for future in running] == [200, 200]


@pytest.mark.parametrize("args", ["--preload", "--reload", "-k sync", "-e MAX_RETRIES=7"])
def test_what_gunicorn_must_not_do(tmp_path: Path, args: str) -> None:
    """What would break promises in silence ends the start with the reason."""
    service = Service(tmp_path, {"LLM_BACKEND": "stub", "GUNICORN_CMD_ARGS": args})

    assert service.process.wait(20) != 0
    assert re.search(rf"(?m)^llm_api: .*{args.split()[0]}", service.output())


def test_another_configuration_with_the_factory(tmp_path: Path) -> None:
    """The app says itself that ours was not read, and that strangers may use it."""
    settings = {"GUNICORN_CMD_ARGS": "-c /dev/null -b 127.0.0.1:0 --no-control-socket", "LLM_BACKEND": "stub"}
    service = Service(tmp_path, settings, app="llm_api:create_app()")
    try:
        service.wait_until_up()
    finally:
        service.stop()
    assert f"llm_api: WARNING: gunicorn has not read {tmp_path}/gunicorn.conf.py" in service.output()
    assert "whoever reaches it needs no key" in service.output()


def test_where_gunicorn_finds_no_configuration(tmp_path_factory: pytest.TempPathFactory, behind: Behind) -> None:
    """gunicorn --chdir reads none: that is said, and a worker that it aborts leaves a line that blames no client."""
    release = threading.Event()
    far_end = behind(holding(release))
    home = tmp_path_factory.mktemp("home")
    settings = {"LLM_BACKEND": "openai", "OPENAI_BASE_URL": far_end.address, "LLM_FALLBACK": "none"}
    args = f"--chdir {home} -b 127.0.0.1:0 --timeout 1 --no-control-socket"
    service = Service(home, settings | {"GUNICORN_CMD_ARGS": args}, cwd=tmp_path_factory.mktemp("elsewhere"))
    try:
        eventually(lambda: service.port and service.workers())
        with service.ask("Hello"):
            (line,) = eventually(service.log, 20)
    finally:
        release.set()
        service.stop()
    assert f"llm_api: WARNING: gunicorn has not read {home}/gunicorn.conf.py" in service.output()
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("error", 500, "internal_error")


def test_the_app_by_its_factory(tmp_path: Path) -> None:
    """gunicorn 'llm_api:create_app()' runs with what the configuration and the command line say, too."""
    (tmp_path / ".env").write_text("MAX_RETRIES=7")
    args = "-e OTHER=1 --threads 4 -w 1"
    service = Service(tmp_path, {"LLM_BACKEND": "stub", "GUNICORN_CMD_ARGS": args}, app="llm_api:create_app()")
    try:
        service.wait_until_up()
        config = service.get("/config").body
        assert (config["threads"], config["max_retries"]) == (4, 7)
    finally:
        service.stop()


def reload(service: Service, text: bytes) -> str:
    """Write `.env`, reload, and return what the master says until it is through."""
    (service.home / ".env").write_bytes(text)
    before = len(service.output())
    service.process.send_signal(signal.SIGHUP)
    return eventually(
        lambda: said if re.search(r"Not reloaded|Answers come", said := service.output()[before:]) else ""
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"LLM_BACKEND=sub", "LLM_BACKEND='sub' is not valid"),
        (b"RATE_LIMIT=often", "RATE_LIMIT='often' is not valid"),
        (b"export THREADS=4", "write NAME=value, without export"),
        (b"\xff", "is not UTF-8 text"),
    ],
)
def test_a_reload_that_can_not_be(serve: Start, text: bytes, why: str) -> None:
    """SIGHUP with a typo in .env: the error is logged and the old workers stay; one that dies is replaced as it was."""
    service = serve(WEB_CONCURRENCY=1)
    before = service.workers()

    said = reload(service, text)
    assert NOT_RELOADED in said
    assert why in said
    assert service.workers() == before

    os.kill(before[0], signal.SIGKILL)
    eventually(lambda: service.workers() and service.workers() != before)
    assert service.generate("Hello").status == 200

    assert NOT_RELOADED not in reload(service, b"MAX_RETRIES=7")
    eventually(lambda: service.get("/config").body["max_retries"] == 7)


def test_a_broken_configuration_file_is_not_reloaded(serve: Start) -> None:
    """What holds for settings holds for gunicorn.conf.py, as a half-done upgrade leaves it."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1)
    before = service.workers()
    (service.home / "gunicorn.conf.py").unlink()
    (service.home / "gunicorn.conf.py").write_text("workers = (")

    assert NOT_RELOADED in reload(service, b"")
    assert service.workers() == before
    assert service.generate("Hello").status == 200


def test_what_needs_a_restart(tmp_path: Path) -> None:
    """A reload that would close the socket says that it needs a restart."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        before = f"BIND=127.0.0.1:{free.getsockname()[1]}\n"
    (tmp_path / ".env").write_text(before)
    service = Service(tmp_path, {"LLM_BACKEND": "stub", "BIND": "", "WEB_CONCURRENCY": 1})
    try:
        service.wait_until_up()
        workers = service.workers()
        assert f"{NOT_RELOADED}BIND needs a restart" in reload(service, b"BIND=127.0.0.1:1")
        assert service.workers() == workers
    finally:
        service.stop()


def ctrl_c(service: Service) -> None:
    """Do what a terminal does: tell each process of the group."""
    for pid in (*service.workers(), service.process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)


def test_ctrl_c_lets_requests_end(serve: Start, behind: Behind) -> None:
    """One Ctrl-C: what runs is answered and logged, then the exit is clean and says nothing odd."""
    release = threading.Event()
    far_end = behind(holding(release))
    service = serve(LLM_BACKEND="openai", OPENAI_BASE_URL=far_end.address, LLM_FALLBACK="none")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(service.generate, "Hello")
        eventually(lambda: far_end.asked == 1)
        ctrl_c(service)
        eventually(lambda: "Handling signal: int" in service.output())
        release.set()
        assert asked.result().body == {"response": "held"}
    assert service.process.wait(20) == 0
    assert [line["status"] for line in service.log()] == ["ok"]
    assert "Traceback" not in service.output()


def test_a_second_ctrl_c_ends_at_once(serve: Start, behind: Behind) -> None:
    """Two: the end comes before what runs has ended, and without a traceback."""
    release = threading.Event()
    far_end = behind(holding(release))
    service = serve(LLM_BACKEND="openai", OPENAI_BASE_URL=far_end.address, LLM_FALLBACK="none")
    with service.ask("Hello"):
        eventually(lambda: far_end.asked == 1)
        ctrl_c(service)
        eventually(lambda: "Handling signal: int" in service.output())
        eventually(lambda: [ctrl_c(service), service.process.poll()][1] is not None)
        release.set()
    assert "Traceback" not in service.output()


def test_a_wrong_start_is_said_at_the_start(serve: Start) -> None:
    """One warning of two workers names what can't serve; it serves all the same, and says how often by a fallback."""
    service = serve(LLM_BACKEND="openai", OPENAI_BASE_URL="http://127.0.0.1:1/v1")

    eventually(lambda: "[WARNING] openai can't serve: " in service.output())
    assert {service.generate("Hello").status for _ in range(4)} == {200}
    eventually(
        lambda: "[WARNING] openai could not serve (unreachable), and stub answers in its place: 1 " in service.output()
    )
    service.stop()
    assert service.output().count("openai can't serve: ") == 1
    assert 1 <= service.output().count("openai could not serve") <= 2  # each worker says its own


def test_the_first_health_does_not_wait(serve: Start, behind: Behind) -> None:
    """Before a backend that hangs, a new worker says at once who would answer."""
    over = threading.Event()
    far_end = behind(lambda peer: None)
    far_end.probe = lambda peer: over.wait(20)
    service = serve(LLM_BACKEND="openai", OPENAI_BASE_URL=far_end.address, WEB_CONCURRENCY=1)
    reply = service.get("/health")
    over.set()

    assert (reply.status, reply.body["status"]) == (200, "degraded")
    assert reply.body["reason"].startswith("openai: it ")
    assert reply.seconds < 0.8  # what a probe takes


@pytest.fixture
def upgraded(serve: Start) -> Iterator[Service]:
    """A service that SIGUSR2 has given a second master; that is stopped with the test."""
    service = serve(LLM_BACKEND="stub")
    service.process.send_signal(signal.SIGUSR2)
    eventually(lambda: service.output().count("Booting worker") == 4, 30)
    yield service
    for pid in re.findall(r"\[(\d+)\] \[INFO\] Starting gunicorn", service.output())[1:]:
        os.kill(int(pid), signal.SIGTERM)


def test_usr2_upgrades_without_a_gap(upgraded: Service) -> None:
    """A second master takes over the socket; when the first one stops, it answers."""
    upgraded.terminate()
    assert upgraded.process.wait(30) == 0
    assert [upgraded.generate("Hello").status for _ in range(4)] == [200] * 4
