"""What arrives together leaves together, and nothing that has arrived is held back, on real sockets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from faults.upstreams import Peer, Upstream

from .service import Service
from .test_deadline import HEAD, SETTINGS

Serve = Callable[..., Service]
Behind = Callable[[Callable[[Peer], None]], Upstream]

PATIENCE = 20
WORDS = ("one ", "two ", "three ")
FRONTS = {
    "/generate": {"prompt": "Count."},
    "/v1/chat/completions": {"model": "default", "messages": [{"role": "user", "content": "Count."}]},
    "/v1/messages": {"model": "default", "max_tokens": 9, "messages": [{"role": "user", "content": "Count."}]},
    "/v1/responses": {"model": "default", "input": "Count."},
    "/api/chat": {"model": "default", "messages": [{"role": "user", "content": "Count."}]},
}
BEGUN = HEAD + b"Connection: close\r\n\r\n"


def said(word: str, wire: str) -> bytes:
    """Return the event in which a provider says a word."""
    if wire == "ollama":
        return json.dumps({"model": "m", "message": {"content": word}, "done": False}).encode() + b"\n"
    return b"data: %s\n\n" % json.dumps({"choices": [{"delta": {"content": word}}]}).encode()


ENDS = {
    "ollama": b'{"model": "m", "message": {"content": ""}, "done": true, "done_reason": "stop"}\n',
    "openai": b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n',
}


@contextmanager
def writes(service: Service, path: str) -> Iterator[Iterator[str]]:
    """Yield what the service writes at once of a stream: each is a chunk of HTTP's own (RFC 9112, 7.1)."""
    body = json.dumps(FRONTS[path] | {"stream": True})
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE) as sock, sock.makefile("rb") as file:
        sock.sendall(f"{head}\r\n\r\n{body}".encode())
        assert b"200" in file.readline()
        while file.readline() != b"\r\n":
            pass

        def each() -> Iterator[str]:
            while size := int(file.readline(), 16):
                yield file.read(size).decode()
                file.readline()

        yield each()


@pytest.mark.parametrize("wire", ENDS)
@pytest.mark.parametrize("path", FRONTS)
def test_what_comes_together_leaves_together(serve: Serve, behind: Behind, path: str, wire: str) -> None:
    """Words of one read are in one write, while the provider thinks about the next."""
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.send(BEGUN + said("zero ", wire))
        assert go_on.wait(PATIENCE)
        go_on.clear()
        peer.send(b"".join(said(word, wire) for word in WORDS))
        assert go_on.wait(PATIENCE)
        peer.send(ENDS[wire])

    service = serve(**SETTINGS[wire](behind(script).address))
    with writes(service, path) as written:
        while '"zero "' not in next(written):
            pass
        go_on.set()
        together = next(written)
        assert [word in together for word in WORDS] == [True] * 3
        go_on.set()
        list(written)
    assert [line["response"] for line in service.log()] == ["zero one two three "]


@pytest.mark.parametrize("last", [b": what says nothing\n\n", b'data: {"choices": []}\n\n'], ids=["comment", "event"])
@pytest.mark.parametrize("path", FRONTS)
def test_nothing_is_held_back(serve: Serve, behind: Behind, path: str, last: bytes) -> None:
    """A word that came with what says nothing is there while the provider is silent, and nothing else with it."""
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.send(BEGUN + said("one ", "openai") + last)
        assert go_on.wait(PATIENCE)
        peer.send(ENDS["openai"])

    service = serve(**SETTINGS["openai"](behind(script).address))
    with writes(service, path) as written:
        begun = []
        while '"one "' not in "".join(begun):
            begun.append(next(written))
        go_on.set()
        assert "keep-alive" not in "".join([*begun, *written])


@pytest.mark.parametrize("path", FRONTS)
def test_what_comes_with_an_error_is_said(serve: Serve, behind: Behind, path: str) -> None:
    """Words that came together with the error that ends the answer arrive before it."""
    error = b'data: {"error": {"message": "out of memory"}}\n\n'
    far_end = behind(lambda peer: peer.send(BEGUN + said("one ", "openai") + said("two ", "openai") + error))
    service = serve(**SETTINGS["openai"](far_end.address))
    with writes(service, path) as written:
        text = ""
        while "broke off" not in text:
            text += next(written)
    assert text.index('"one "') < text.index('"two "') < text.index("broke off")


def test_what_one_backend_left_holds_nothing_of_the_next(serve: Serve, behind: Behind) -> None:
    """A provider that fails, with more of its answer read, does not make its fallback's pieces wait."""
    error = b'data: {"error": {"message": "out of memory"}}\n\n'
    far_end = behind(lambda peer: peer.send(BEGUN + error + said("one ", "openai") * 2))
    service = serve(**SETTINGS["openai"](far_end.address), LLM_FALLBACK="stub")
    with writes(service, "/generate") as written:
        assert {text.count("\n") for text in written} == {1}
