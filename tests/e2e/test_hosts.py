"""Which names the service answers to where no key is asked for: through real gunicorn and Flask's own server."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from .service import PROJECT, eventually

GUNICORN = [sys.executable, "-m", "gunicorn", "wsgi:app", "--workers", "1"]
FLASK = [sys.executable, "-m", "flask", "--app", "wsgi", "run", "--port", "0"]
BODY = b'{"prompt": "x"}'
# What a page of another site would want to reach; /health is for probes, which call it as they like.
ASKED = ["/", "/dashboard", "/dashboard/data", "/config", "/metrics", "/v1/models", "/openapi.json", "/docs"]


class Server:
    """A server in a process of its own, and the sockets it listens at."""

    def __init__(self, home: Path, command: list[str], **settings: str) -> None:
        for name in ("llm_api", "wsgi.py", "gunicorn.conf.py"):
            (home / name).symlink_to(PROJECT / name)
        kept = {name: value for name, value in os.environ.items() if name == "PATH" or name.startswith("COVERAGE_")}
        env = kept | {"HOME": str(home), "LLM_BACKEND": "stub"} | settings
        self._output = home / "output.txt"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=home, env=env, stdout=output, stderr=subprocess.STDOUT)
        found = eventually(
            lambda: re.search(r"Listening at: (.*) \(|Running on (http\S+)", self._output.read_text()), 30
        )
        self.listeners = (found[1] or found[2]).split(",")

    def say(self, listener: int, head: str, body: bytes = b"") -> tuple[int, Any]:
        """Send a request with just this head to one of the listeners; return the status and the JSON."""
        with self._connect(self.listeners[listener]) as sock:
            sock.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode("latin-1") + body)
            answer = http.client.HTTPResponse(sock)
            answer.begin()
            said = answer.read()
        return answer.status, json.loads(said) if answer.headers["Content-Type"] == "application/json" else said

    def _connect(self, where: str) -> socket.socket:
        if where.startswith("unix:"):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(where.removeprefix("unix:"))
            return sock
        url = urlsplit(where)
        return socket.create_connection((url.hostname, url.port), timeout=30)

    def ask(self, listener: int, host: str | None, path: str = "/config", *more: str) -> tuple[int, Any]:
        """Ask with this Host."""
        version = "HTTP/1.0" if host is None else "HTTP/1.1"
        named = [] if host is None else [f"Host: {host}"]
        return self.say(listener, "\r\n".join([f"GET {path} {version}", *named, *more]))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def begin(*command: str, **settings: str) -> Server:
        home = tmp_path / str(len(servers))
        home.mkdir()
        servers.append(Server(home, [*command], **settings))
        return servers[-1]

    yield begin
    for server in servers:
        server.process.terminate()
        server.process.wait(30)


@contextmanager
def short_folder() -> Iterator[Path]:
    """A socket's path may have 107 bytes; pytest's folders are longer."""
    with tempfile.TemporaryDirectory(prefix="llm-hosts-") as folder:
        yield Path(folder)


LOCAL = [
    *("localhost", "LOCALHOST:8000", "localhost.", "app.localhost:1", "127.0.0.1", "127.0.0.1:8000", "127.8.9.10"),
    *("[::1]", "[::1]:8000", "[::ffff:127.0.0.1]:80", None, ""),
]
FOREIGN = [
    *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "evillocalhost", "x"),
    *("localhost:80@evil.example", "evil.example#localhost", "a b", "[::1].evil.example", "\xff\xfe", "2130706433"),
    *("127.0.0.1, evil.example", "xn--bcher-kva.example", "127.0.0.1:8000.evil.example", "*", "*.localhost.evil"),
]
ADDRESSES = ["10.244.1.7", "10.244.1.7:8000", "192.168.1.5:80", "[2001:db8::7]:8000", "0.0.0.0:8000"]


def served(server: Server, listener: int, hosts: list[Any]) -> dict[Any, int]:
    return {host: server.ask(listener, host)[0] for host in hosts}


def test_gunicorn_without_keys(start: Callable[..., Server]) -> None:
    """Loopback names are served at each listener, other names at none; addresses where more than loopback listens."""
    with short_folder() as folder:
        where = ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", f"unix:{folder}/s"]
        server = start(*GUNICORN, *(word for name in where for word in ("-b", name)))
        for listener in range(4):
            assert served(server, listener, LOCAL) == dict.fromkeys(LOCAL, 200)
            assert served(server, listener, FOREIGN) == dict.fromkeys(FOREIGN, 400)
            wanted = 200 if listener == 1 else 400
            assert served(server, listener, ADDRESSES) == dict.fromkeys(ADDRESSES, wanted)

        for path in ASKED:
            status, said = server.ask(0, "evil.example", path)
            assert (path, status, said["error"]["code"]) == (path, 400, "unknown_host")
            assert "'evil.example'" in said["error"]["message"]
            assert "ALLOWED_HOSTS" in said["error"]["message"]
            assert server.ask(0, "localhost", path)[0] == 200
        for path in ("/health", "/health/live"):  # a pod's address, a container's name
            assert [server.ask(0, host, path)[0] for host in ("10.244.1.7:8000", "llm-api:8000")] == [200, 200]

        # X-Forwarded-Host is anybody's word, and so is the authority of a request line
        assert (
            server.ask(0, "evil.example", "/config", "X-Forwarded-Host: localhost", "Forwarded: host=localhost")[0]
            == 400
        )
        assert server.ask(0, "localhost", "/config", "X-Forwarded-Host: evil.example")[0] == 200
        assert server.ask(0, "evil.example", "http://localhost/config")[0] == 400
        assert server.ask(0, "localhost", "http://localhost/config")[0] == 200


def test_a_refused_name_has_its_line(start: Callable[..., Server]) -> None:
    """A rebound page uses no model, whatever the dialect, and the log says who tried."""
    server = start(*GUNICORN, "-b", "127.0.0.1:0")
    for path in ("/generate", "/v1/chat/completions", "/v1/completions"):
        head = f"POST {path} HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/json\r\nContent-Length: 15"
        status, said = server.say(0, head, BODY)
        assert (status, said["error"]["code"]) == (400, "unknown_host")
    log = (Path(str(server._output)).parent / "logs" / "log.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in log]
    assert [(line["http_status"], line["error"]["code"], line["prompt"]) for line in lines] == [
        (400, "unknown_host", None)
    ] * 3


def test_names_that_are_allowed(start: Callable[..., Server]) -> None:
    """ALLOWED_HOSTS has names, names below one, and addresses; * is all."""
    allowed = "llm.example.com, *.example.org,.example.net,10.0.0.7"
    server = start(*GUNICORN, "-b", "127.0.0.1:0", ALLOWED_HOSTS=allowed)
    good = ["LLM.example.com:443", "llm.example.com.", "a.b.example.org", "example.net", "x.example.net", "10.0.0.7:1"]
    assert served(server, 0, good) == dict.fromkeys(good, 200)
    bad = ["example.com", "xllm.example.com", "example.org", "llm.example.com.evil.example", "10.0.0.8", "xexample.net"]
    assert served(server, 0, bad) == dict.fromkeys(bad, 400)
    anything = start(*GUNICORN, "-b", "127.0.0.1:0", ALLOWED_HOSTS="*")
    assert served(anything, 0, ["evil.example", "a b", "10.0.0.8"]) == {
        "evil.example": 200,
        "a b": 200,
        "10.0.0.8": 200,
    }


def test_with_keys_every_name_is_served(start: Callable[..., Server]) -> None:
    """The page of another site has no key, so nothing changes for those who have one."""
    server = start(*GUNICORN, "-b", "127.0.0.1:0", API_KEYS="alice:alices-key", ALLOWED_HOSTS="llm.example.com")
    for host in ("evil.example", "10.0.0.7", "localhost"):
        assert server.ask(0, host)[0] == 401
        assert server.ask(0, host, "/config", "Authorization: Bearer alices-key")[0] == 200
        assert server.ask(0, host, "/dashboard")[0] == 200


@pytest.mark.parametrize(("host", "addresses"), [("127.0.0.1", 400), ("0.0.0.0", 200)])
def test_flasks_own_server(start: Callable[..., Server], host: str, addresses: int) -> None:
    """`flask run` is held to the same."""
    server = start(*FLASK, "--host", host)
    assert served(server, 0, LOCAL) == dict.fromkeys(LOCAL, 200)
    assert served(server, 0, FOREIGN) == dict.fromkeys(FOREIGN, 400)
    assert served(server, 0, ADDRESSES) == dict.fromkeys(ADDRESSES, addresses)
