"""Far ends of raw bytes, and what the providers would say."""

from __future__ import annotations

import json
import re
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

PIECES = ("The capital", " of France", " is Paris.")
TEXT = "".join(PIECES)
HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
UNTIL_CLOSED = HEAD + b"\r\n"


class Peer:
    """One request to an upstream. Where a script sets `stays`, the next one may come over the same connection."""

    def __init__(self, sock: socket.socket, upstream: Upstream, head: bytes, body: bytes) -> None:
        self._sock = sock
        self.upstream = upstream
        self.head = head
        self.body = body
        self.stays = False

    @property
    def wish(self) -> dict[str, Any]:
        """The body, where it is JSON."""
        wish: dict[str, Any] = json.loads(self.body or b"{}")
        return wish

    @property
    def port(self) -> int:
        """The other side's, which tells its connections apart."""
        return int(self._sock.getpeername()[1])

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def drip(self, data: bytes) -> None:
        """Send `data` again and again, slowly, until nobody takes it."""
        while not self.upstream.over.wait(0.05):
            self.send(data)

    def wait_until_gone(self) -> None:
        """Say nothing until the other side closes."""
        while self._sock.recv(65_536):
            pass
        self.upstream.gone.set()


Script = Callable[[Peer], None]


def list_models(peer: Peer) -> None:
    """Answer a health probe, whichever backend's."""
    peer.send(UNTIL_CLOSED + b'{"data": [], "models": []}')


class Upstream(socketserver.ThreadingTCPServer):
    """Runs `script` for each prompt, which `asked` counts, and `probe` for all else; `gone`: one was closed on us."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.probe: Script = list_models
        self.asked = 0
        self.gone = threading.Event()
        self.over = threading.Event()
        self._counting = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def count(self) -> None:
        with self._counting:
            self.asked += 1

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):  # the service closes on us in most of these tests
            super().handle_error(request, client_address)


class _Handler(socketserver.StreamRequestHandler):
    server: Upstream

    def handle(self) -> None:
        while (peer := self._next()) and peer.stays:
            pass

    def _next(self) -> Peer | None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return None
            head += line
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        peer = Peer(self.connection, self.server, head, self.rfile.read(int(length[1]) if length else 0))
        if head.startswith((b"GET", b"POST /api/show")):
            self.server.probe(peer)
        else:
            self.server.count()
            self.server.script(peer)
        return peer


@contextmanager
def upstream(script: Script) -> Iterator[Upstream]:
    """Run an Upstream."""
    with Upstream(script) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


def _event(value: object, name: str | None = None) -> bytes:
    return (f"event: {name}\n" if name else "").encode() + f"data: {json.dumps(value)}\n\n".encode()


def _delta(text: str | None, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    return _event({"object": "chat.completion.chunk", "model": "far", "choices": [choice]})


def _claude(kind: str, **fields: Any) -> bytes:
    return _event({"type": kind, **fields}, kind)


def _ollama(text: str, **fields: Any) -> bytes:
    body = {"model": "far", "message": {"role": "assistant", "content": text}, "done": False} | fields
    return json.dumps(body).encode() + b"\n"


@dataclass(frozen=True)
class Wire:
    """A provider's answer, whole; as a stream, whose `end` says that nothing more comes; and what it is reached by."""

    name: str
    address: str
    whole: bytes
    pieces: tuple[bytes, ...]
    end: bytes

    @property
    def stream(self) -> bytes:
        return b"".join(self.pieces) + self.end

    def settings(self, far_end: Upstream) -> dict[str, str]:
        """Return the settings of a service before this far end."""
        backend = {"LLM_BACKEND": self.name, self.address: far_end.address}
        return backend | {"OLLAMA_MODEL": "far", "HF_MODE": "cloud"}

    def __str__(self) -> str:
        return self.name


_choice = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}
OPENAI = Wire(
    "openai",
    "OPENAI_BASE_URL",
    json.dumps({"object": "chat.completion", "model": "far", "choices": [_choice]}).encode(),
    tuple(map(_delta, PIECES)),
    _delta(None, "stop") + b"data: [DONE]\n\n",
)
_usage = {"input_tokens": 7, "output_tokens": 3}
_content = [{"type": "text", "text": TEXT}]
_end = {"stop_reason": "end_turn"}
CLAUDE = Wire(
    "claude",
    "CLAUDE_BASE_URL",
    json.dumps({"type": "message", "model": "far", "content": _content, "usage": _usage} | _end).encode(),
    (
        _claude("message_start", message={"model": "far", "usage": _usage})
        + _claude("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(_claude("content_block_delta", index=0, delta={"type": "text_delta", "text": piece}) for piece in PIECES),
    ),
    _claude("content_block_stop", index=0)
    + _claude("message_delta", delta=_end, usage=_usage)
    + _claude("message_stop"),
)
OLLAMA = Wire(
    "ollama",
    "OLLAMA_URL",
    _ollama(TEXT, done=True, done_reason="stop").strip(),
    tuple(map(_ollama, PIECES)),
    _ollama("", done=True, done_reason="stop"),
)
HUGGINGFACE = replace(OPENAI, name="huggingface", address="HF_BASE_URL")
WIRES = (OPENAI, CLAUDE, OLLAMA, HUGGINGFACE)
