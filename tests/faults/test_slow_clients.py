"""Clients that are slow, exposed directly: the documented limit, measured, and that it ends when they go.

nginx in front is what keeps them away (tests/deploy). Clients that only don't close after their answer harm nobody.
"""

from __future__ import annotations

import http.client
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from .loads import Service, eventually, figure, open_files

THREADS = 8
# What is slower than this is blocked.
PATIENCE = 2.0
# Room for some threads, each of which has a stack of 8 MiB.
ROOM_BYTES = 48 * 2**20
HEAD = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BEGINNINGS = {
    "headers": HEAD + b"X-Drip: ",
    "bodies": HEAD + b"Content-Length: 100000\r\n\r\n",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n",
}


def is_blocked(service: Service) -> bool:
    """Whether /health/live does not answer in time."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status != 200
    except TimeoutError:
        return True
    finally:
        connection.close()


@contextmanager
def dripping(service: Service, beginning: bytes) -> Iterator[Callable[[], None]]:
    """Yield a maker of clients that send a byte four times a second and never come to an end."""
    socks: list[socket.socket] = []
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.25):
            for sock in list(socks):
                try:
                    sock.send(b" ")
                except OSError:
                    socks.remove(sock)

    def add() -> None:
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=10))
        sock.sendall(beginning)
        socks.append(sock)

    thread = threading.Thread(target=drip)
    with ExitStack() as stack:
        thread.start()
        try:
            yield add
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_dripping_clients(serve: Callable[..., Service], kind: str) -> None:
    """As many dripping clients as there are threads block the service, fewer don't; when they go it is well at once."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1, THREADS=THREADS)
    clients = 0
    with dripping(service, BEGINNINGS[kind]) as add:
        while clients < 2 * THREADS and not is_blocked(service):
            add()
            clients += 1
            time.sleep(0.05)  # until its thread has it
    gone = time.monotonic()
    eventually(lambda: service.generate().ok)
    well = time.monotonic() - gone
    figure(
        "of the slow clients", f"{clients} dripping {kind} block {THREADS} threads; well {well:.2f} s after they went"
    )
    assert clients >= THREADS - 2
    assert well <= PATIENCE


def test_dripping_bodies_end(serve: Callable[..., Service]) -> None:
    """Clients that drip their bodies are cut off some seconds after the deadline, so they block it no longer."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1, THREADS=THREADS, REQUEST_TIMEOUT=1)
    with dripping(service, BEGINNINGS["bodies"]) as add:
        began = time.monotonic()
        for _ in range(THREADS):
            add()
        eventually(lambda: service.lines(status="aborted"), 30)
        eventually(lambda: not is_blocked(service))
        seconds = time.monotonic() - began
    figure("of the slow clients", f"{THREADS} dripping bodies with REQUEST_TIMEOUT=1: cut off after {seconds:.1f} s")
    assert seconds <= 10


@pytest.mark.parametrize(
    "said", [b"", b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"], ids=["silent", "answered"]
)
def test_clients_that_do_not_close(serve: Callable[..., Service], said: bytes) -> None:
    """A client that says nothing, or has its answer, and keeps its connection open holds up nobody."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1, THREADS=THREADS)
    clients = 3 * THREADS
    with ExitStack() as stack:
        for _ in range(clients):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=30))
            sock.sendall(said)
        seconds = service.get("/health/live").seconds
    figure("of the slow clients", f"{clients} open, {said[:16]!r}: another one answered after {seconds:.2f} s")
    assert seconds <= 1


def test_kept_connections_cost_nothing(serve: Callable[..., Service]) -> None:
    """Twice as many as threads are kept idle, without one; the rest is answered and told that it is not kept."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1, THREADS=4)
    clients = [http.client.HTTPConnection("127.0.0.1", service.port, timeout=30) for _ in range(20)]
    with ExitStack() as stack:
        for client in clients:
            stack.callback(client.close)
        for client in clients[:8]:
            eventually(lambda client=client: _is_kept(client))  # a thread has it for a moment after its answer
        assert sum(_is_kept(client) for client in clients[8:]) <= 4, "of which threads have some"
        # one by one: a place is free only some time after its answer is there
        assert [service.generate("Hi").status for _ in range(20)] == [200] * 20
        assert all(client.sock for client in clients[:8])
        for client in clients[:8]:
            _is_kept(client)  # it is answered on the connection it has had, or raises


def _is_kept(client: http.client.HTTPConnection) -> bool:
    """Ask, and return whether the connection may be asked again: http.client drops one that is closed."""
    client.request("GET", "/health/live")
    with client.getresponse() as answer:
        assert answer.status == 200
        answer.read()
    return client.sock is not None


def test_a_client_that_says_nothing_is_disconnected(serve: Callable[..., Service]) -> None:
    """After five seconds, however long the connections of those are kept that have asked."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1)
    with service.connect() as sock:
        began = time.monotonic()
        sock.settimeout(60)
        assert sock.recv(1) == b""
    figure("of the slow clients", f"one that says nothing is disconnected after {time.monotonic() - began:.1f} s")
    assert 4 < time.monotonic() - began < 30


def test_clients_that_say_nothing_are_bounded(serve: Callable[..., Service]) -> None:
    """Each has a descriptor, and a worker that has none left would end: it takes four to a thread."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1, THREADS=2)
    places = 8
    [worker] = service.workers()
    before = open_files(worker)
    with ExitStack() as stack:
        for _ in range(3 * places):
            stack.enter_context(service.connect())
        eventually(lambda: len(open_files(worker) - before) >= places)
        most = max(len(open_files(worker) - before) for _ in range(1000))
    assert most == places
    assert service.get("/health/live").status == 200


def test_no_descriptors_left(serve: Callable[..., Service]) -> None:
    """A worker that can take no more connections leaves them for later, and goes on."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1, THREADS=8)
    [worker] = service.workers()
    files = Path(f"/proc/{worker}/fd")
    limit = max(int(file.name) for file in files.iterdir()) + 5
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (limit, limit))
    with ExitStack() as stack:
        for _ in range(limit):
            stack.enter_context(service.connect())
        eventually(lambda: len(list(files.iterdir())) == limit)
    assert service.get("/health/live").status == 200
    assert service.workers() == [worker]


def test_no_threads_left(serve: Callable[..., Service]) -> None:
    """Where the system starts no more threads, requests wait for one that is free, and all are answered."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1)
    [worker] = service.workers()
    size = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(worker, resource.RLIMIT_AS, (size + ROOM_BYTES, size + ROOM_BYTES))
    with ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(30)]
        for client in clients:
            client.sendall(b"GET /health/live HTTP/1.1\r\n")  # each holds a thread until it goes on
        for client in clients:
            client.sendall(b"Host: localhost\r\nConnection: close\r\n\r\n")
            assert client.recv(65_536).startswith(b"HTTP/1.1 200")
    assert service.workers() == [worker]
