"""gunicorn's workers and hooks, on real sockets and gunicorn's parser; tests/e2e and tests/faults run them whole."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http import get_parser

from llm_api import Settings
from llm_api.rules import ApiKey
from llm_api.runtime.gunicorn import (
    GThread,
    announce,
    asks_again,
    clear_metrics,
    effective,
    has_more,
    is_sending,
    pre_request,
)

Pair = tuple[socket.socket, socket.socket]
POST = "POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The client's socket, and the worker's."""
    client, served = socket.socketpair()
    with client, served:
        yield client, served


def parse(pair: Pair, text: str) -> Any:
    """Return gunicorn's parser after it has read the head of the request `text`."""
    client, served = pair
    client.sendall(text.encode())
    parser = get_parser(Config(), served, ("127.0.0.1", 1))
    parser.mesg = next(parser)
    return parser


def test_has_more(pair: Pair) -> None:
    """A silent client has no more; one that has sent or closed has."""
    client, served = pair
    assert not has_more(served)
    client.sendall(b"x")
    assert has_more(served)
    served.recv(1)
    client.close()
    assert has_more(served)


@pytest.mark.parametrize(("after", "again"), [("", False), (POST + "\r\n", True)])
def test_asks_again(pair: Pair, after: str, again: bool) -> None:
    """The next request is seen where the parser has read it together with the first."""
    parser = parse(pair, POST + "\r\n" + after)
    assert asks_again(SimpleNamespace(parser=parser, sock=pair[1])) is again


@pytest.mark.parametrize(("body", "sending"), [("12345", False), ("123", True), ("", True)])
def test_is_sending(pair: Pair, body: str, sending: bool) -> None:
    """A client whose body is not all there may still be sending it."""
    assert is_sending(parse(pair, f"{POST}Content-Length: 5\r\n\r\n{body}")) is sending


def test_a_client_that_sends_more_than_is_wanted_is_heard_out(pair: Pair) -> None:
    """The rest of a refused body is read, so that its client has sent all, and then finds its answer."""
    size = 2_000_000
    parser = parse(pair, f"{POST}Content-Length: {size}\r\n\r\n")
    pair[0].settimeout(10)  # if nobody reads
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(pair[0].sendall, b"x" * size)
        assert not is_sending(parser)
        sent.result()


LONG = "x" * 65_537


@pytest.mark.parametrize(
    ("head", "body", "connections", "reads", "closes"),
    [
        ("Content-Length: 65536\r\n", "", 3, False, False),
        ("Content-Length: 65537\r\n", LONG, 3, False, True),
        ("Content-Length: 65537\r\n", LONG, 3, True, False),
        ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n", 3, False, True),
        ("Transfer-Encoding: chunked\r\n", "1\r\nx\r\n0\r\n\r\n", 3, True, False),
        ("Content-Length: 65537\r\nConnection: close\r\n", LONG, 3, True, True),
        ("", "", 4, False, True),
    ],
    ids=["short", "long unread", "long", "chunks unread", "chunks", "as the client says", "no thread left"],
)
def test_which_connections_are_kept(
    pair: Pair, head: str, body: str, connections: int, reads: bool, closes: bool
) -> None:
    """A connection is closed after a body that may be left unread, and where it would take another one's thread."""
    request = parse(pair, f"{POST}{head}\r\n{body}").mesg
    pre_request(SimpleNamespace(busy_conns=connections, cfg=SimpleNamespace(threads=4)), request)
    if reads:
        while request.body.read(10_000):
            pass
    assert request.should_close() is closes


@pytest.fixture
def worker() -> GThread:
    """A worker of two threads that does not run."""
    config = Config()
    config.set("threads", 2)
    made = GThread(0, 0, [], None, 60, config, logging.getLogger())
    made.tmp.close()
    return made


@pytest.mark.parametrize(("idle", "room"), [(0, 2), (3, 5), (9, 6)])
def test_room_for_connections(monkeypatch: pytest.MonkeyPatch, worker: GThread, idle: int, room: int) -> None:
    """A worker has room for its threads and for those that ask nothing now, the latter up to `max_idle`."""
    monkeypatch.setattr(GThread, "max_idle", 4)
    worker.keepalived_conns.extend(range(idle))
    assert worker.worker_connections == room


@pytest.mark.parametrize(("said", "kept"), [(b"", 0), (b"GET", 1)], ids=["silent", "asks again"])
def test_what_is_closed_when_its_time_is_over(pair: Pair, worker: GThread, said: bytes, kept: int) -> None:
    """An idle connection, unless its client asks again at that moment: closed then, its request would be lost."""
    client, served = pair
    client.sendall(said)
    closed: list[bool] = []
    worker.poller = SimpleNamespace(unregister=lambda _: None)
    worker.keepalived_conns.append(SimpleNamespace(sock=served, timeout=0.0, close=lambda: closed.append(True)))
    worker.murder_keepalived()
    assert (len(worker.keepalived_conns), len(closed)) == (kept, 1 - kept)


def test_numbers_of_an_earlier_run_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start removes the metrics files that are left, and nothing else."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    for name in ("counter_1.db", "mine"):
        (tmp_path / name).touch()
    clear_metrics()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("given", "sockets", "expected"),
    [
        ({}, ["http://127.0.0.1:8000"], ("127.0.0.1:8000", 1024)),
        ({"bind": "0.0.0.0:80"}, ["http://0.0.0.0:80"], ("0.0.0.0:80", 1024)),
        ({"bind": ["127.0.0.1:1", "[::]:2"]}, ["http://127.0.0.1:1", "http://[::]:2"], ("[::]:2", 1024)),
        ({"bind": "unix:/run/x"}, ["unix:/run/x"], ("unix:/run/x", 1024)),
        ({"bind": "fd://3"}, ["http://127.0.0.1:9"], ("127.0.0.1:9", 1024)),
        ({"bind": "0.0.0.0:80"}, [], ("0.0.0.0:80", 1024)),  # --reuse-port: each worker opens its own
        ({"systemd": True}, ["http://0.0.0.0:443"], ("0.0.0.0:443", 1024)),
        ({"threads": 4}, [], ("127.0.0.1:8000", 4)),
    ],
    ids=str,
)
def test_the_command_line_is_the_last_word(
    given: dict[str, Any], sockets: list[str], expected: tuple[str, int]
) -> None:
    """What gunicorn really listens at and runs is what the service knows."""
    config = Config()
    settings = Settings()
    said = {"bind": settings.bind, "threads": settings.threads} | given
    systemd = said.pop("systemd", False)
    for name, value in said.items():
        config.set(name, value)
    found = effective(settings, SimpleNamespace(cfg=config, systemd=systemd), sockets)
    assert (found.bind, found.threads) == expected


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"bind": "127.0.0.1:1"}, False),
        ({"bind": "0.0.0.0:1"}, True),
        ({"bind": "0.0.0.0:1", "api_keys": (ApiKey("alice", "0" * 64),)}, False),
    ],
    ids=["here", "everywhere", "with keys"],
)
def test_what_the_start_says(caplog: pytest.LogCaptureFixture, settings: dict[str, Any], warned: bool) -> None:
    """The chain, each backend once; and a warning where strangers may use the service."""
    caplog.set_level("INFO")
    announce(Settings(llm_backend="stub", llm_fallback=("ollama", "stub"), **settings), logging.getLogger())
    assert "Answers come from stub, then ollama; log: " in caplog.text
    assert ("EVERYBODY WHO REACHES" in caplog.text) is warned
