"""Figure 12: answers that would fill the memory."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator

import pytest

from .loads import Service, figure, memory_grows_by
from .upstreams import HEAD, OPENAI, UNTIL_CLOSED, Peer, Script, Upstream

SIZE = 400_000_000
MEGABYTE = b"x" * 1_000_000


def in_one(peer: Peer) -> Iterator[bytes]:
    """An answer of one object, or a stream of one line."""
    start = b"data: " if peer.wish["stream"] else b""
    yield HEAD + b"Content-Length: %d\r\n\r\n" % SIZE
    yield start + b'{"choices": [{"finish_reason": "stop", "delta": {}, "message": {"content": "'
    yield from [MEGABYTE] * (SIZE // len(MEGABYTE) - 1)


def in_chunks(peer: Peer) -> Iterator[bytes]:
    """The same in HTTP's chunks."""
    _, *parts = in_one(peer)
    yield HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    for part in parts:
        yield b"%x\r\n%s\r\n" % (len(part), part)


def in_events(peer: Peer) -> Iterator[bytes]:
    """A stream of pieces that never says its end."""
    events = OPENAI.pieces[0].replace(b"The capital", b"x" * 10_000) * 100
    yield HEAD + b"\r\n"
    yield from [events] * (SIZE // len(events))


def in_blanks(peer: Peer) -> Iterator[bytes]:
    """Comments, or white space before a JSON object."""
    blanks = b": \n" * 300_000 if peer.wish["stream"] else b" " * 1_000_000
    yield HEAD + b"\r\n"
    yield from [blanks] * (SIZE // len(blanks))


def in_an_error(peer: Peer) -> Iterator[bytes]:
    """The body of a reply that is no answer."""
    head, *parts = in_one(peer)
    yield head.replace(b"200 OK", b"502 Bad Gateway")
    yield from parts


def in_a_redirect(peer: Peer) -> Iterator[bytes]:
    head, *parts = in_one(peer)
    yield head.replace(b"200 OK", b"307 Temporary Redirect\r\nLocation: /")
    yield from parts


def in_brackets(peer: Peer) -> Iterator[bytes]:
    """Few bytes that are many objects."""
    brackets = b'{"a": [' + b"[]," * 1_500_000 + b"[]]}"
    yield HEAD + b"\r\n" + (b"data: " if peer.wish["stream"] else b"") + brackets + b"\n\n"


def bomb(encoding: str) -> Callable[[Peer], Iterator[bytes]]:
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding](json.dumps({"a": "x" * 100_000_000}).encode())

    def in_a_bomb(peer: Peer) -> Iterator[bytes]:
        yield HEAD + f"Content-Encoding: {encoding}\r\nContent-Length: {len(packed)}\r\n\r\n".encode() + packed

    return in_a_bomb


def in_headers(peer: Peer) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    yield from [b"X-Long: " + MEGABYTE] * 100


WAYS = {
    "400 MB in one": in_one,
    "400 MB in chunks": in_chunks,
    "400 MB in events": in_events,
    "400 MB of blanks": in_blanks,
    "400 MB in an error": in_an_error,
    "400 MB in a redirect": in_a_redirect,
    "5 MB of brackets": in_brackets,
    "gzip bomb": bomb("gzip"),
    "deflate bomb": bomb("deflate"),
    "100 MB of headers": in_headers,
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_large_answers(serve: Callable[..., Service], behind: Callable[[Script], Upstream], stream: bool) -> None:
    """However an upstream sends too much, the memory grows by 50 MB at most and the request ends with an error."""

    def flood(peer: Peer) -> None:
        parts = WAYS[peer.wish["model"]](peer) if peer.wish["model"] in WAYS else [UNTIL_CLOSED, OPENAI.whole]
        for part in parts:
            peer.send(part)

    service = serve(WEB_CONCURRENCY=1, **OPENAI.settings(behind(flood)))
    grown = {}
    for way in WAYS:
        assert service.generate().ok  # five failures in a row, and the backend is left alone
        with memory_grows_by(service, 50) as megabytes:
            answer = service.say(stream=stream, model=way)
        grown[way] = max(megabytes)
        assert answer.code in ("invalid_answer", "server_error"), (way, answer.body[-200:])
    said = ", ".join(f"{way} +{size:.0f} MB" for way, size in grown.items())
    figure(12, f"{'a stream' if stream else 'a whole answer'}: {said}")
