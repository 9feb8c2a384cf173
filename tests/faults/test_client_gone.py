"""Figure 8: a client that goes away while the upstream is silent."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from .loads import CHAT, Service, conversation, count, eventually, figure
from .upstreams import PIECES, UNTIL_CLOSED, WIRES, Peer, Script, Upstream, Wire


def leave(sock: socket.socket) -> None:
    sock.close()


def reset(sock: socket.socket) -> None:
    """Leave as a process does that is killed with unread data."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("wire", WIRES, ids=str)
def test_client_gone(serve: Callable[..., Service], behind: Callable[[Script], Upstream], wire: Wire) -> None:
    """The upstream is left within a second, and the one line says `aborted`, with the text so far, in both dialects."""

    def silent(peer: Peer) -> None:
        if peer.wish["stream"]:
            peer.send(UNTIL_CLOSED + b"".join(wire.pieces[:-1]))
        peer.wait_until_gone()

    far_end = behind(silent)
    service = serve(WEB_CONCURRENCY=1, **wire.settings(far_end))
    seconds = []
    for number in range(count(8, 80)):
        stream, go, is_chat = number % 2 == 0, (leave, reset)[number // 2 % 2], number // 4 % 2 == 1
        dialect: dict[str, Any] = {"path": CHAT} | conversation("Hi") if is_chat else {}
        far_end.gone.clear()
        with service.asking(stream=stream, **dialect) as (request_id, sock):
            eventually(lambda number=number: far_end.asked == number + 1)
            if stream:
                _read_until(sock, b"of France")
            go(sock)
            left = time.monotonic()
            assert far_end.gone.wait(5)
            seconds.append(time.monotonic() - left)
        (line,) = eventually(lambda request_id=request_id: service.lines(request_id=request_id))
        assert line["status"] == "aborted"
        assert line["response"] == ("".join(PIECES[:-1]) if stream else None)
        assert line["http_status"] == (200 if stream else 499)
    assert len(service.lines()) == count(8, 80)
    figure(8, f"{wire}: {len(seconds)} clients gone: upstream left within {max(seconds):.2f} s, all lines aborted")
    assert max(seconds) <= 1


def _read_until(sock: socket.socket, text: bytes) -> None:
    data = b""
    while text not in data:
        received = sock.recv(65_536)
        assert received, data
        data += received
