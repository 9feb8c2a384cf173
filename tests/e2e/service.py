"""Real gunicorn in a process of its own, and what a client of it needs."""

from __future__ import annotations

import atexit
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

PROJECT = Path(__file__).parents[2]
START_SECONDS = 30
LOCAL = {"LLM_BACKEND": "huggingface"}

T = TypeVar("T")


def eventually(condition: Callable[[], T], seconds: float = 10) -> T:
    """Return what `condition` returns once that is true; fail when it does not become so in time."""
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > give_up:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.02)
    return value


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int
    headers: http.client.HTTPMessage
    body: dict[str, Any]
    seconds: float


class Stream:
    """A streamed request on a raw socket, which knows when each piece of its answer arrived."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = b""
        self.arrivals: list[float] = []

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the objects as they arrive, until the server ends the connection."""
        while line := self._line():
            # between them stands the chunked framing, which has no such lines
            if line.startswith(b"{"):
                yield json.loads(line)

    def head(self) -> http.client.HTTPMessage:
        """Read the head; return its headers, with the status under ":status"."""
        first = self._line()
        headers = http.client.HTTPMessage()
        headers[":status"] = first.split()[1].decode()
        while line := self._line().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        return headers

    def close(self) -> None:
        """Go away."""
        self._sock.close()

    def _line(self) -> bytes:
        while b"\n" not in self._data:
            received = self._sock.recv(65_536)
            if not received:
                line, self._data = self._data, b""
                return line
            self.arrivals.append(time.monotonic())
            self._data += received
        line, _, self._data = self._data.partition(b"\n")
        return line + b"\n"


class Service:
    """One gunicorn with the project's own gunicorn.conf.py; nothing of the caller's settings reaches it."""

    def __init__(self, home: Path, settings: dict[str, object], cwd: Path | None = None, app: str = "wsgi:app") -> None:
        self.home = home
        # Links, so that a developer's .env beside the real files is not read.
        for name in ("llm_api", "wsgi.py", "gunicorn.conf.py"):
            (home / name).symlink_to(PROJECT / name)
        kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("COVERAGE_")}
        given = {name: str(value) for name, value in settings.items()}
        # Port 0: the system picks a free one, and gunicorn's output says which.
        # An engine of its own, which no other test's service shares.
        own = {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime_folder(home))}
        own |= {"BIND": "127.0.0.1:0"}
        env = kept | own | given
        with (home / "output.txt").open("wb") as output:
            command = [sys.executable, "-m", "gunicorn", app]
            self.process = subprocess.Popen(command, cwd=cwd or home, env=env, stdout=output, stderr=subprocess.STDOUT)

    def wait_until_up(self) -> None:
        """Return when it answers; its socket accepts before the application is there."""
        eventually(self._answers, START_SECONDS)
        eventually(self.minds_signals)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.output()
        with suppress(OSError):
            return bool(self.port) and self.get("/health/live").status == 200
        return False

    @property
    def port(self) -> int:
        """The port it listens at; 0 while it does not."""
        found = re.search(r"Listening at: http://[\d.]+:(\d+)", self.output())
        return int(found[1]) if found else 0

    def output(self) -> str:
        """Return what it has printed so far."""
        return (self.home / "output.txt").read_text()

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Stop it and wait for its end."""
        self.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"gunicorn did not stop within 30 s: {self.output()}")

    def get(self, path: str) -> Reply:
        """GET `path`."""
        return self._exchange("GET", path, None)

    def generate(self, prompt: str, **fields: Any) -> Reply:
        """POST /generate, and read the whole answer."""
        return self.post("/generate", prompt=prompt, **fields)

    def post(self, path: str, **body: Any) -> Reply:
        """POST `path`, and read the whole answer."""
        return self._exchange("POST", path, body)

    def _exchange(self, method: str, path: str, body: object) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        started = time.monotonic()
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return Reply(answer.status, answer.headers, json.loads(answer.read()), time.monotonic() - started)
        finally:
            connection.close()

    @contextmanager
    def ask(self, prompt: str, **fields: Any) -> Iterator[Stream]:
        """POST /generate on a raw socket, whose answer is read by whoever wants it."""
        body = json.dumps({"prompt": prompt} | fields).encode()
        head = "POST /generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", self.port), timeout=120) as sock:
            sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            yield Stream(sock)

    def log(self, **fields: Any) -> list[dict[str, Any]]:
        """Return the log's lines that have these values."""
        path = self.home / "logs" / "log.jsonl"
        lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
        records = [json.loads(line) for line in lines[:-1]]
        return [record for record in records if fields.items() <= record.items()]

    def workers(self) -> list[int]:
        """Return the ids of its worker processes."""
        pid = self.process.pid
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            return []

    def engines(self) -> list[int]:
        """Return the ids of the processes that its local model runs in."""
        return engines_in(self.home)

    def minds_signals(self) -> bool:
        """Return whether all workers have come so far that SIGTERM reaches them: then they catch SIGABRT too."""
        statuses = [Path(f"/proc/{pid}/status").read_text() for pid in self.workers()]
        caught = [int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) for status in statuses]
        return all(mask >> (signal.SIGABRT - 1) & 1 for mask in caught)

    def computes(self) -> bool:
        """Look for a moment whether it uses more than a tenth of a processor: a busy machine leaves that."""
        window = 0.3
        before = self._cpu_seconds()
        time.sleep(window)
        return self._cpu_seconds() - before > window / 10

    def _cpu_seconds(self) -> float:
        pids = self.workers() + self.engines()
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
        return sum(int(user) + int(system) for user, system in (f[11:13] for f in fields)) / os.sysconf("SC_CLK_TCK")


def runtime_folder(home: Path) -> Path:
    """Return where the service in `home` has its engines' sockets: pytest's own names are too long for them."""
    folder = Path(tempfile.gettempdir()) / f"llm-e2e-{hashlib.sha256(bytes(home)).hexdigest()[:12]}"
    folder.mkdir(0o700, exist_ok=True)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def engines_in(home: Path) -> list[int]:
    """Return the ids of the local models' processes of the service in `home`."""
    sockets, found = os.fsencode(runtime_folder(home)), []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"serve.py" in (command := (folder / "cmdline").read_bytes()) and sockets in command:
                found.append(int(folder.name))
    return found


@contextmanager
def running(home: Path, **settings: object) -> Iterator[Service]:
    """Run the service in the empty folder `home` with these settings and no others."""
    service = Service(home, settings)
    try:
        service.wait_until_up()
        yield service
    finally:
        service.stop()
