"""LLMAPI.of(app).generate and .stream: a request's whole life without HTTP, in views, commands, threads and forks."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from asking import Log, Serve
from fakes import Fake
from flask import Flask, current_app

from llm_api import LLMAPI
from llm_api.dialects.generate import GenerateSchema
from llm_api.errors import (
    InternalError,
    LogUnavailable,
    MalformedBody,
    NoCapacity,
    Overloaded,
    ServerError,
    TimedOut,
    ValidationFailed,
)
from llm_api.testing import ScriptedBackend
from llm_api.types import Chunk, Usage
from llm_api.web.service import Fields, Service

Make = Callable[..., Flask]
HELLO = [{"role": "user", "content": "Hello"}]
PATIENCE = 20  # seconds; only a broken program lets a wait take them


@pytest.fixture
def llm(make_app: Make) -> Service:
    return LLMAPI.of(make_app())


# --- what comes back


def test_an_answer(llm: Service, log_lines: Log) -> None:
    """It is the text as a string, and says who gave it as the log does."""
    answer = llm.generate("Hello", system="Be brief.", temperature=0, caller="nightly")
    (line,) = log_lines()
    assert str(answer) == answer.text == line["response"]
    assert answer.text.startswith("[stub]")
    assert (answer.backend, answer.model, answer.finish_reason) == ("stub", "stub", "stop")
    assert (answer.fallback, answer.fallback_reason) == (False, None)
    assert answer.usage == Usage(line["input_tokens"], line["output_tokens"])
    assert answer.request_id == line["request_id"]
    assert (line["operation"], line["prompt"], line["system"]) == ("generate", "Hello", "Be brief.")
    assert (line["caller"], line["client_ip"], line["stream"]) == ("nightly", None, False)
    assert (line["parameters"], line["status"], line["http_status"]) == ({"temperature": 0}, "ok", 200)


def test_a_stream(llm: Service, log_lines: Log) -> None:
    """Pieces make the same text; the line is there when the last one is; the generator returns the whole answer."""
    whole = llm.generate("Hello").text
    pieces: list[str] = []

    def read() -> Iterator[str]:
        answer = yield from llm.stream("Hello")
        pieces.append(answer.text)

    said = list(read())
    assert len(said) > 5
    assert all(said)
    assert "".join(said) == pieces[0] == whole
    assert [(line["stream"], line["response"]) for line in log_lines()] == [(False, whole), (True, whole)]


def test_a_stream_is_not_begun_before_it_is_read(llm: Service, log_lines: Log) -> None:
    """A generator that nobody reads asks nobody, and has no line."""
    llm.stream("Hello").close()
    assert log_lines() == []


def test_a_stream_that_is_left(llm: Service, log_lines: Log) -> None:
    """Closing it stops the backend; the line says `aborted`, with what was read."""
    pieces = llm.stream("Hello")
    first = next(pieces)
    pieces.close()
    (line,) = log_lines()
    assert (line["status"], line["error"]["code"], line["response"]) == ("aborted", "client_gone", first)


# --- what goes wrong


def test_fallback(make_app: Make, llm_stub: ScriptedBackend) -> None:
    """The next backend answers, and the answer says why; with fallback=False the failure is raised."""
    llm = LLMAPI.of(make_app(llm_backend="ollama", llm_fallback=("stub",)))
    llm_stub.fails(Overloaded("busy"))
    llm_stub.fails(Overloaded("busy"))
    answer = llm.generate("Hello")
    assert (answer.backend, answer.fallback, answer.fallback_reason) == ("stub", True, "overloaded")
    with pytest.raises(Overloaded, match="busy"):
        llm.generate("Hello", fallback=False)
    assert [line["http_status"] for line in llm_stub.records] == [200, 503]


@pytest.mark.parametrize("way", ["generate", "stream"])
def test_the_deadline(make_app: Make, llm_stub: ScriptedBackend, way: str) -> None:
    """A backend that hangs is left at REQUEST_TIMEOUT."""
    llm_stub.answers("too late", delay=600)
    llm = LLMAPI.of(make_app(request_timeout=0.1))
    with pytest.raises(TimedOut):
        list(llm.stream("Hello")) if way == "stream" else llm.generate("Hello")
    assert [line["error"]["code"] for line in llm_stub.records] == ["timeout"]


def test_an_error_is_raised_and_logged(llm: Service, llm_stub: ScriptedBackend) -> None:
    """A backend's error comes as it is; what nobody foresaw as InternalError, which has no text of its own."""
    llm_stub.fails(ServerError("it broke"))
    with pytest.raises(ServerError, match="it broke"):
        llm.generate("Hello")
    llm_stub.fails(RuntimeError("canary"))
    with pytest.raises(InternalError) as caught:
        list(llm.stream("Hello"))
    assert "canary" not in str(caught.value)
    assert [line["error"]["code"] for line in llm_stub.records] == ["server_error", "internal_error"]


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"prompt": ""}, ValidationFailed, "prompt"),
        ({"prompt": 5}, ValidationFailed, "prompt"),
        ({"prompt": "a\x00b"}, MalformedBody, "NUL"),
        ({"prompt": "a\udcff"}, MalformedBody, "surrogate"),
        ({"prompt": "Hello", "temperature": 3}, ValidationFailed, "temperature"),
        ({"prompt": "Hello", "tempereture": 0}, ValidationFailed, "tempereture"),
        ({"prompt": "Hello", "stop": [""]}, ValidationFailed, "stop"),
        ({"messages": HELLO, "temperature": 3}, ValidationFailed, "temperature"),
        ({"messages": HELLO, "tempereture": 0}, ValidationFailed, "tempereture"),
        ({"messages": HELLO, "system": "Be brief."}, ValidationFailed, "system: Unknown field beside messages"),
        ({"messages": HELLO, "images": []}, ValidationFailed, "images: Unknown field beside messages"),
    ],
)
def test_what_is_wrong_is_refused_as_a_body_is(
    llm: Service, llm_stub: ScriptedBackend, fields: dict[str, Any], error: type[Exception], words: str
) -> None:
    """The rules are those of POST /generate; nobody is asked, and the refusal has its line."""
    with pytest.raises(error, match=words):
        llm.generate(**fields)
    assert llm_stub.requests == []
    assert [line["status"] for line in llm_stub.records] == ["error"]


def test_none_and_tuples(llm: Service, llm_stub: ScriptedBackend) -> None:
    """None means not said, and a tuple is as good as a list."""
    llm.generate("Hello", system=None, max_tokens=None, stop=("END",))
    assert llm_stub.requests[0].parameters == {"stop": ("END",)}


def test_a_log_that_cannot_be_written(make_app: Make, tmp_path: Path) -> None:
    """No line, no answer: as for a request over HTTP."""
    (tmp_path / "folder").write_text("a file where the log's folder should be")
    with pytest.raises(LogUnavailable):
        LLMAPI.of(make_app(log_file=str(tmp_path / "folder" / "log.jsonl"))).generate("Hello")


def test_capacity_is_shared_with_http(make_app: Make, log_lines: Log) -> None:
    """A Python call takes one of MAX_CONCURRENCY's places, and gives it back however it ends."""
    app = make_app(max_concurrency=1)
    llm, client = LLMAPI.of(app), app.test_client()
    pieces = llm.stream("Hello")
    next(pieces)
    with pytest.raises(NoCapacity):
        llm.generate("Hello")
    assert client.post("/generate", json={"prompt": "Hello"}).status_code == 503
    pieces.close()
    assert llm.generate("Hello").backend == "stub"


# --- where it works


def test_in_a_view_and_in_a_command(make_app: Make, log_lines: Log) -> None:
    """Both find it by current_app."""
    app = make_app()

    @app.get("/poem")
    def poem() -> str:
        return str(LLMAPI.of(current_app).generate("A poem"))

    @app.get("/verses")
    def verses() -> Iterator[str]:
        return LLMAPI.of(current_app).stream("A poem")

    @app.cli.command("poem")
    def command() -> None:
        print(LLMAPI.of(current_app).generate("A poem"))

    said = [app.test_client().get("/poem").text, app.test_client().get("/verses").text]
    said.append(app.test_cli_runner().invoke(args=["poem"]).output.strip())
    assert len(set(said)) == 1
    assert said[0].startswith("[stub]")
    assert len(log_lines()) == 3


def test_in_threads(make_app: Make, log_lines: Log) -> None:
    """Threads without a context of their own, each with its answer; the log has a whole line for each."""
    llm = LLMAPI.of(make_app(threads=64))
    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(lambda number: llm.generate(f"prompt {number}").text, range(64)))
    assert [text.rpartition(": ")[2] for text in texts] == [f"prompt {number}" for number in range(64)]
    assert sorted(line["prompt"] for line in log_lines()) == sorted(f"prompt {number}" for number in range(64))


# --- processes


class KeepAlive(BaseHTTPRequestHandler):
    """Ollama's wire, on connections that stay open; answers with the connection's own number."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": str(self.client_address[1])}
        body = json.dumps({"model": "m", "message": message, "done": True, "done_reason": "stop"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def ollama() -> Iterator[str]:
    """The address of a server that keeps connections."""
    with ThreadingHTTPServer(("127.0.0.1", 0), KeepAlive) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def in_child(work: Callable[[], str]) -> str:
    """Return what `work` says in a forked child; fail where that hangs or breaks."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(reading)
            os.write(writing, work().encode())
            code = 0
        except BaseException as error:
            os.write(writing, f"broke: {error!r}".encode())
        finally:
            os._exit(code)  # nothing of pytest's own may run here
    os.close(writing)
    killer = threading.Timer(PATIENCE, os.kill, (pid, 9))
    killer.start()
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    killer.cancel()
    assert os.waitstatus_to_exitcode(status) == 0, said or "the child hung"
    return said


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_after_a_fork(make_app: Make, ollama: str, log_lines: Log) -> None:
    """A worker that is forked after its parent has asked answers too, over a connection of its own, into one log."""
    llm = LLMAPI.of(make_app(llm_backend="ollama", ollama_url=ollama))
    parent = [llm.generate("Hello").text for _ in range(2)]
    children = [in_child(lambda: llm.generate("Hello").text) for _ in range(2)]
    again = llm.generate("Hello").text
    assert parent == [again, again], "the parent goes on with its connection"
    assert len({again, *children}) == 3
    assert [line["response"] for line in log_lines()] == [*parent, *children, again]
    assert len({line["request_id"] for line in log_lines()}) == 5


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_deadline_after_a_fork(serve: Serve) -> None:
    """The watchdog that stops what hangs is a thread, which a child has not inherited: it gets its own."""
    hanging = Fake("hanging", lambda _: hanging.over.wait(2 * PATIENCE))
    llm = LLMAPI.of(serve(hanging, request_timeout=0.2).application)

    def ask() -> str:
        hanging.over.clear()
        with pytest.raises(TimedOut):
            llm.generate("Hello")
        return "timed out"

    assert ask() == in_child(ask) == "timed out"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_capacity_after_a_fork(make_app: Make) -> None:
    """What its parent is busy with takes no place in a child, which gives back none of its own by that."""
    llm = LLMAPI.of(make_app(max_concurrency=1))
    pieces = llm.stream("Hello")
    next(pieces)
    assert in_child(lambda: llm.generate("Hello").text + llm.generate("Hello").text).count("[stub]") == 2
    with pytest.raises(NoCapacity):
        llm.generate("Hello")
    pieces.close()


def test_the_typed_fields_are_those_of_the_body() -> None:
    """A new field of POST /generate is one that mypy knows; `stream` and `details` are HTTP's."""
    assert set(get_type_hints(Fields)) == set(GenerateSchema().fields) - {"prompt", "stream", "details"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_worker_that_is_aborted_blames_no_client(
    make_app: Callable[..., Flask], log_lines: Log, stream: bool
) -> None:
    """gunicorn ends a request's thread with SystemExit; that goes on its way, and the line says whose fault it is."""
    service = LLMAPI.of(make_app(Fake("one", Chunk("Hi "), SystemExit(1))))
    with pytest.raises(SystemExit):
        list(service.stream("Hello")) if stream else service.generate("Hello")
    (line,) = log_lines()
    assert (line["status"], line["error"]["code"]) == ("error", "internal_error")
    assert line["response"] == ("Hi " if stream else None)
