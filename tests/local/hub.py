"""A small hub on loopback: what huggingface_hub asks of Hugging Face's to list and fetch a model."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """`repositories` has folders by owner/name; `gated` are those whose files need `token`.

    `cut` is how many bytes of a file it sends before it breaks off, once. `fetched` are the files that were asked for,
    with the byte that the answer began at.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.token = "hf_right_token"
        self.cut: int | None = None
        self.fetched: list[tuple[str, int]] = []

    @property
    def address(self) -> str:
        """Where it listens: for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def _route(self) -> None:
        path = self.path.partition("?")[0]
        api = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(/tree/\w+|/revision/\w+)?", path)
        file = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/\w+/(.+)", path)
        found = api or file
        if not found or found[1] not in self.server.repositories:
            self._error(404, "RepoNotFound")
        elif api:
            self._list(api[1], is_tree=(api[2] or "").startswith("/tree"))
        elif file and (file[1] not in self.server.gated or self._has_token()):
            self._file(self.server.repositories[file[1]] / file[2])
        else:
            self._error(403, "GatedRepo")

    def _has_token(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {self.server.token}"

    def _list(self, name: str, *, is_tree: bool) -> None:
        folder = self.server.repositories[name]
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if is_tree:
            self._json([_entry(folder, file) for file in files])
        else:
            siblings = [{"rfilename": str(file.relative_to(folder))} for file in files]
            self._json({"id": name, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})

    def _file(self, file: Path) -> None:
        if not file.exists():
            self._error(404, "EntryNotFound")
            return
        began = int((re.match(r"bytes=(\d+)-", self.headers["Range"] or "") or [0, 0])[1])
        size = file.stat().st_size
        self.send_response(206 if began else 200)
        self.send_header("Content-Length", str(size - began))
        self.send_header("Content-Range", f"bytes {began}-{size - 1}/{size}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(size))
        self.send_header("ETag", f'"{_etag(file)}"')
        self.end_headers()
        if self.command == "GET":
            self._send(file, began)

    def _send(self, file: Path, began: int) -> None:
        self.server.fetched.append((file.name, began))
        with file.open("rb") as opened:
            opened.seek(began)
            cut, self.server.cut = self.server.cut, None
            self.wfile.write(opened.read() if cut is None else opened.read(cut))
        self.close_connection = cut is not None

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "no")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def _entry(folder: Path, file: Path) -> dict[str, Any]:
    return {"type": "file", "path": str(file.relative_to(folder)), "size": file.stat().st_size, "oid": _etag(file)}


def _etag(file: Path) -> str:
    return hashlib.sha1(f"{file.name} {file.stat().st_size}".encode()).hexdigest()


@contextmanager
def hub() -> Iterator[Hub]:
    """Run one."""
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
