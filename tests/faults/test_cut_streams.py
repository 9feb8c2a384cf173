"""Figure 9: an upstream whose answer breaks off, in the three framings of HTTP/1.1."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from .loads import Service, count, figure
from .upstreams import HEAD, TEXT, UNTIL_CLOSED, WIRES, Peer, Script, Upstream, Wire


def chunked(body: bytes, sent: int) -> bytes:
    """Break off between two chunks or in the middle of one."""
    size = random.randint(1, len(body))
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    framed, left = HEAD + b"Transfer-Encoding: chunked\r\n\r\n", sent
    for chunk in chunks:
        if left < len(chunk):
            break
        framed += b"%x\r\n%s\r\n" % (len(chunk), chunk)
        left -= len(chunk)
    else:
        return framed + b"0\r\n\r\n"
    return framed + (b"%x\r\n%s" % (len(chunk), chunk[:left]) if left else b"")


def with_length(body: bytes, sent: int) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body[:sent])


def until_closed(body: bytes, sent: int) -> bytes:
    return UNTIL_CLOSED + body[:sent]


FRAMINGS = {"chunked": chunked, "content-length": with_length, "close-delimited": until_closed}


@pytest.mark.parametrize("wire", WIRES, ids=str)
def test_cut_short(serve: Callable[..., Service], behind: Callable[[Script], Upstream], wire: Wire) -> None:
    """An answer that breaks off anywhere before it says that it is complete is never reported complete."""

    def breaking_off(peer: Peer) -> None:
        peer.send(FRAMINGS[framing](wire.stream if peer.wish["stream"] else wire.whole, bytes_sent))

    far_end = behind(breaking_off)
    service = serve(WEB_CONCURRENCY=1, **wire.settings(far_end))
    for framing in FRAMINGS:
        cuts = complete = 0
        for stream, body in ((True, wire.stream), (False, wire.whole)):
            # the bytes that say that nothing more comes, or without which JSON is none
            said_all = len(b"".join(wire.pieces)) if stream else len(body) - 1
            places = range(0, len(body), count(23, 2))
            for number, place in enumerate((*places, len(b"".join(wire.pieces[:-1])), said_all)):
                if number % 4 == 0:  # five failures in a row, and the backend is left alone
                    bytes_sent = len(body)
                    whole = service.generate(stream=stream)
                    assert (whole.ok, whole.text) == (True, TEXT), whole.body
                bytes_sent = min(place, len(body) - 1)
                asked = far_end.asked
                answer = service.generate(stream=stream)
                cuts += 1
                assert far_end.asked == asked + 1, answer.body
                (line,) = service.lines(request_id=answer.request_id)
                if answer.ok:  # it had said that it was complete, and only what comes after that was cut
                    complete += 1
                    assert (bytes_sent > said_all, answer.text, line["status"]) == (True, TEXT, "ok")
                    assert stream
                else:
                    assert answer.whole
                    assert line["status"] == "error"
                    assert answer.code == line["error"]["code"], line
                    assert answer.code in ("invalid_answer", "server_error")
        said = f"0 incomplete ones reported complete ({complete} had said their end)"
        figure(9, f"{wire} {framing}: {cuts} answers cut, {said}")
