"""Upstreams that hang, drip or break, on real sockets: the deadline, the fallback, and clients that don't wait."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from faults.upstreams import Peer, Upstream

from .service import Service, eventually

# A tenth of it is kept for the fallback, and the watchdog may be as late as a busy machine makes it.
TIMEOUT = 2
# The watchdog looks twenty times a second, the machine may be busy.
GRACE = 1

Behind = Callable[[Callable[[Peer], None]], Upstream]

SETTINGS = {
    "ollama": lambda url: {"LLM_BACKEND": "ollama", "OLLAMA_URL": url},
    "openai": lambda url: {"LLM_BACKEND": "openai", "OPENAI_BASE_URL": url},
    "claude": lambda url: {"LLM_BACKEND": "claude", "CLAUDE_BASE_URL": url},
}
# The begin of an answer, as a stream and whole.
BEGUN = {
    "ollama": b'{"model": "m", "message": {"role": "assistant", "content": "Once upon"}, "done": false}\n',
    "openai": b'data: {"choices": [{"delta": {"content": "Once upon"}}]}\n\n',
    "claude": (
        b'data: {"type": "message_start", "message": {"usage": {"input_tokens": 3}}}\n\n'
        b'data: {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Once upon"}}\n\n'
    ),
}
WHOLE = {
    "ollama": b'{"model": "m", "message": {"role": "assistant", "content": "Once upon"}, "done": true}',
    "openai": b'{"choices": [{"message": {"content": "Once upon"}, "finish_reason": "stop"}]}',
    "claude": (
        b'{"content": [{"type": "text", "text": "Once upon"}], "stop_reason": "end_turn", "usage": {"input_tokens": 3}}'
    ),
}
HEAD = b"HTTP/1.1 200 OK\r\n"


def silent(peer: Peer) -> None:
    peer.wait_until_gone()


def drip_headers(peer: Peer) -> None:
    peer.send(HEAD + b"X-Drip: ")
    peer.drip(b"x")


def drip_body(peer: Peer) -> None:
    peer.send(HEAD + b"Content-Length: 100000\r\n\r\n")
    peer.drip(b" ")


def drip_error(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 100000\r\n\r\n")
    peer.drip(b" ")


def drip_comments(peer: Peer) -> None:
    peer.send(HEAD + b"Connection: close\r\n\r\n" + BEGUN["openai"])
    peer.drip(b": still there\n\n")


def begin_and_be_silent(peer: Peer) -> None:
    peer.send(HEAD + b"Connection: close\r\n\r\n" + BEGUN["openai"])
    peer.wait_until_gone()


def in_framing(framing: str, data: bytes) -> bytes:
    """Return an answer that ends too early, told by its framing unless that is the connection's end."""
    if framing == "chunked":
        return HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(data), data)
    if framing == "content-length":
        return HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(data) + 100, data)
    return HEAD + b"Connection: close\r\n\r\n" + data


@pytest.fixture
def start(serve: Callable[..., Service], behind: Behind) -> Callable[..., tuple[Service, Upstream]]:
    """Return a starter of a service before an upstream of raw bytes."""

    def run(script: Callable[[Peer], None], name: str = "openai", **settings: object) -> tuple[Service, Upstream]:
        far_end = behind(script)
        return serve(**SETTINGS[name](far_end.address), **settings), far_end

    return run


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [silent, drip_headers, drip_body, drip_error])
def test_request_ends_at_its_deadline(
    start: Callable[..., tuple[Service, Upstream]], script: Callable[[Peer], None], stream: bool
) -> None:
    """However an upstream dawdles: without fallback 504 at REQUEST_TIMEOUT, with it the stub's answer; both logged."""
    service, _ = start(script, REQUEST_TIMEOUT=TIMEOUT)
    with ThreadPoolExecutor(2) as pool:
        failing = pool.submit(service.generate, "Hello", stream=stream, fallback=False)
        answered = service.generate("Hello", details=True)
        failed = failing.result()

    assert (failed.status, failed.body["error"]["code"]) == (504, "timeout")
    assert failed.seconds < TIMEOUT + GRACE
    assert (answered.status, answered.headers["X-LLM-Fallback"]) == (200, "timeout")
    assert answered.seconds < TIMEOUT + GRACE
    assert answered.body["details"]["backend"] == "stub"
    assert sorted(line["http_status"] for line in service.log()) == [200, 504]
    assert [line["attempts"][0]["outcome"] for line in service.log()] == ["timeout", "timeout"]


@pytest.mark.parametrize("script", [drip_comments, begin_and_be_silent])
def test_stream_ends_at_its_deadline(
    start: Callable[..., tuple[Service, Upstream]], script: Callable[[Peer], None]
) -> None:
    """A stream that has begun ends at REQUEST_TIMEOUT with an error as its last line, and no other backend's text."""
    service, _ = start(script, REQUEST_TIMEOUT=TIMEOUT)
    started = time.monotonic()
    with service.ask("Hello", stream=True) as answer:
        first, last = answer.lines()

    assert time.monotonic() - started < TIMEOUT + GRACE
    assert first == {"response": "Once upon"}
    assert last["done"]
    assert last["error"]["code"] == "timeout"
    [line] = service.log()
    assert (line["status"], line["response"], line["http_status"]) == ("error", "Once upon", 200)


@pytest.mark.parametrize("name", ["ollama", "openai", "claude"])
def test_client_that_does_not_wait(start: Callable[..., tuple[Service, Upstream]], name: str) -> None:
    """A client that leaves while a silent upstream thinks: its connection is closed within about a second."""
    service, far_end = start(silent, name)
    with service.ask("Hello"):
        eventually(lambda: far_end.asked == 1)

    assert far_end.gone.wait(2)
    [line] = eventually(service.log)
    assert (line["status"], line["error"]["code"], line["response"]) == ("aborted", "client_gone", None)
    assert far_end.asked == 1


def test_client_that_leaves_a_silent_stream(start: Callable[..., tuple[Service, Upstream]]) -> None:
    """A client that leaves a stream that has fallen silent: closed within about a second, logged with its part."""
    service, far_end = start(begin_and_be_silent)
    with service.ask("Hello", stream=True) as answer:
        assert next(answer.lines()) == {"response": "Once upon"}

    assert far_end.gone.wait(2)
    [line] = eventually(service.log)
    assert (line["status"], line["response"]) == ("aborted", "Once upon")


def test_client_that_leaves_between_retries(start: Callable[..., tuple[Service, Upstream]]) -> None:
    """A client that leaves while a retry is waited for is not asked for again."""

    def overloaded(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 503 Busy\r\nRetry-After: 60\r\nContent-Length: 0\r\n\r\n")

    service, far_end = start(overloaded)
    with service.ask("Hello"):
        eventually(lambda: far_end.asked == 1)

    [line] = eventually(service.log, 2)
    assert line["status"] == "aborted"
    assert far_end.asked == 1


@pytest.mark.parametrize("framing", ["chunked", "content-length", "close"])
@pytest.mark.parametrize("name", ["ollama", "openai", "claude"])
def test_answer_cut_short_is_never_complete(
    start: Callable[..., tuple[Service, Upstream]], name: str, framing: str
) -> None:
    """An upstream that breaks off, told by any framing: a begun stream ends with an error, all else falls back."""

    def cut(peer: Peer) -> None:
        peer.send(in_framing(framing, parts.pop(0)))

    parts = [BEGUN[name], BEGUN[name][:30], WHOLE[name][:-10]]
    service, _ = start(cut, name)
    with service.ask("Hello", stream=True) as answer:
        first, last = answer.lines()
    with service.ask("Hello", stream=True) as answer:
        reason = answer.head()["X-LLM-Fallback"]
        *_, end = answer.lines()
    whole = service.generate("Hello")

    assert first == {"response": "Once upon"}
    assert last["done"]
    assert last["error"]["code"] == "invalid_answer"
    assert reason == whole.headers["X-LLM-Fallback"] == "invalid_answer"
    assert end["done"]
    assert not parts
    begun, *others = service.log()
    assert (begun["status"], begun["response"], begun["finish_reason"]) == ("error", "Once upon", None)
    assert [(line["status"], line["backend"]) for line in others] == [("ok", "stub")] * 2


def test_whole_answer_in_each_framing(start: Callable[..., tuple[Service, Upstream]]) -> None:
    """The counterproof: the same answer, not cut, is complete in all three framings."""

    def answer(peer: Peer) -> None:
        peer.send(answers.pop(0))

    data = WHOLE["openai"]
    assert json.loads(data)
    answers = [
        in_framing("chunked", data) + b"0\r\n\r\n",
        HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(data), data),
        in_framing("close", data),
    ]
    service, _ = start(answer, WEB_CONCURRENCY=1)

    assert [service.generate("Hello").body for _ in range(3)] == [{"response": "Once upon"}] * 3


def test_client_that_does_not_read_is_cut_off(serve: Callable[..., Service], behind: Behind) -> None:
    """An answer that nobody reads holds its thread no longer than some seconds after the deadline."""
    body = WHOLE["openai"].replace(b"Once upon", b"x" * 12_000_000)
    upstream = behind(lambda peer: peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)))
    settings = SETTINGS["openai"](upstream.address)
    service = serve(**settings, REQUEST_TIMEOUT=TIMEOUT, THREADS=1, WEB_CONCURRENCY=1)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", service.port))
        head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(head + b"Content-Length: 15\r\n\r\n" + b'{"prompt": "x"}')
        assert client.recv(1)
        assert service.get("/health/live").status == 200
