"""Figure 7: the service stopped and reloaded with requests in flight."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from .loads import Load, Service, count, eventually, figure, tally
from .upstreams import OPENAI, TEXT, UNTIL_CLOSED, Peer, Script, Upstream

IN_FLIGHT = 12
LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


STAYS_BEFORE_IT_BOOTS = """
exec(open("gunicorn.conf.py").read())
begin = post_fork

def post_fork(server, worker):
    if {early}:
        server.log.info("forked")
        while not os.path.exists("told"):
            pass
    begin(server, worker)
    server.log.info("forked")
    signal.pause()
"""


@pytest.mark.parametrize("early", [True, False], ids=["just forked", "not begun"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_workers_start(tmp_path: Path, number: signal.Signals, early: bool) -> None:
    """A stop that meets workers that were forked a moment ago ends them at once, not by SIGKILL when time is up."""
    (tmp_path / "slow.conf.py").write_text(STAYS_BEFORE_IT_BOOTS.format(early=early))
    service = Service(tmp_path, {"LLM_BACKEND": "stub", "REQUEST_TIMEOUT": 1}, ("-c", "slow.conf.py"))
    eventually(lambda: service.output().count("forked") == 2)
    service.signal(number)
    eventually(lambda: f"Handling signal: {number.name.lower()[3:]}" in service.output())
    (service.home / "told").touch()
    service.stop()
    assert service.process.returncode == 0
    assert "SIGKILL" not in service.output()


def test_sigterm(serve: Callable[..., Service], behind: Callable[[Script], Upstream]) -> None:
    """Twelve requests and streams that are in flight at SIGTERM are delivered and logged."""
    go_on = threading.Event()

    def slow(peer: Peer) -> None:
        if peer.wish["stream"]:
            peer.send(UNTIL_CLOSED + OPENAI.pieces[0])
        assert go_on.wait(60)
        peer.send(b"".join(OPENAI.pieces[1:]) + OPENAI.end if peer.wish["stream"] else UNTIL_CLOSED + OPENAI.whole)

    far_end = behind(slow)
    service = serve(WEB_CONCURRENCY=2, **OPENAI.settings(far_end))
    with ThreadPoolExecutor(IN_FLIGHT) as clients:
        asked = [clients.submit(service.generate, "Hi", stream=number % 2 == 0) for number in range(IN_FLIGHT)]
        try:
            eventually(lambda: far_end.asked == IN_FLIGHT)
            service.signal(signal.SIGTERM)
            eventually(lambda: not _takes_connections(service))
        finally:
            go_on.set()
        answers = [future.result() for future in asked]
    assert service.process.wait(30) == 0

    delivered = [answer for answer in answers if answer.ok and answer.text == TEXT]
    found = tally([answer.request_id for answer in answers], service.log)
    logged = service.lines(status="ok")
    figure(7, f"SIGTERM with {IN_FLIGHT} in flight: {len(delivered)} delivered, {len(logged)} logged, {found}")
    assert (len(delivered), len(logged)) == (IN_FLIGHT, IN_FLIGHT)
    assert not found


def _takes_connections(service: Service) -> bool:
    """A connection that is made may still wait for a worker that is gone, so only an answer says that one is there."""
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", service.port), timeout=5) as sock:
        sock.sendall(LIVE)
        sock.settimeout(1)
        try:
            return bool(sock.recv(1))
        except TimeoutError:
            return False
    return False


@pytest.mark.parametrize("backend", ["stub", "openai"])
def test_reloads(serve: Callable[..., Service], behind: Callable[[Script], Upstream], backend: str) -> None:
    """No request and no stream fails when the service is reloaded under load."""
    requests = count(300, 1500)

    def leisurely(peer: Peer) -> None:
        over.wait(random.uniform(0, 0.1))
        peer.send(UNTIL_CLOSED + (OPENAI.stream if peer.wish["stream"] else OPENAI.whole))

    over = threading.Event()
    settings = {"LLM_BACKEND": "stub"} if backend == "stub" else OPENAI.settings(behind(leisurely))
    service = serve(WEB_CONCURRENCY=2, **settings)
    with Load(service, clients=8) as load:
        for _ in range(3):
            load.wait_for(requests // 6)
            old = set(service.workers())
            service.signal(signal.SIGHUP)
            load.wait_for(requests // 6)
            eventually(lambda old=old: old.isdisjoint(service.workers()) and service.workers())
    over.set()

    found = tally([answer.request_id for answer in load.answers], service.log)
    failed = [*load.broken, *(f"{answer.status} {json.dumps(answer.objects)}" for answer in load.refused())]
    figure(7, f"3 reloads over {backend}: {len(failed)} of {len(load.answers) + len(load.broken)} failed, {found}")
    assert not failed, (failed[:5], re.sub(r"(?m)^.*Booting.*$", "", service.output())[-3000:])
    assert not found


def test_reloads_with_kept_connections(serve: Callable[..., Service]) -> None:
    """Clients that keep their connections lose no request either when the service is reloaded under them."""
    service = serve(WEB_CONCURRENCY=2, LLM_BACKEND="stub")
    asked = [0] * 4
    over = threading.Event()

    def ask_on(client: int) -> int:
        connections = 0
        while not over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
            connection.connect()
            connections += 1
            while connection.sock and not over.is_set():  # http.client drops it when it is told to
                connection.request("POST", "/generate", '{"prompt": "Hi"}', {"Content-Type": "application/json"})
                answer = connection.getresponse()
                assert (answer.status, len(answer.read()) > 0) == (200, True)
                asked[client] += 1
            connection.close()
        return connections

    with ThreadPoolExecutor(len(asked)) as clients:
        try:
            made = [clients.submit(ask_on, client) for client in range(len(asked))]
            for _ in range(3):
                before, old = list(asked), set(service.workers())
                eventually(lambda before=before: all(now > was + 20 for now, was in zip(asked, before, strict=True)))
                service.signal(signal.SIGHUP)
                eventually(lambda old=old: old.isdisjoint(service.workers()) and service.workers())
        finally:
            over.set()
        connections = sum(future.result() for future in made)
    figure(7, f"3 reloads under kept connections: {sum(asked)} requests on {connections} connections, none failed")
    assert len(service.lines(status="ok")) == sum(asked)
    assert connections < sum(asked) / 4


def test_first_requests_of_a_worker_that_stops(serve: Callable[..., Service]) -> None:
    """Who connects before a worker stops, or just then, and takes some time to ask has an answer from it."""
    service = serve(WEB_CONCURRENCY=1, LLM_BACKEND="stub")
    [worker] = service.workers()
    with ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(2)]
        os.kill(worker, signal.SIGSTOP)
        clients += [stack.enter_context(service.connect()) for _ in range(2)]
        os.kill(worker, signal.SIGTERM)
        os.kill(worker, signal.SIGCONT)
        time.sleep(0.2)  # what they take: longer than a thread waits for them
        assert _answers(clients) == [b"HTTP/1.1 200 OK"] * 4
    eventually(lambda: worker not in service.workers())
    service.wait_until_up()  # the next one, or it would not hear the end


def test_kept_connections_of_a_worker_that_stops(serve: Callable[..., Service]) -> None:
    """A client that asks again when its idle connection's worker stops is answered; and none of them holds it up."""
    service = serve(WEB_CONCURRENCY=1, LLM_BACKEND="stub")
    [worker] = service.workers()
    clients = [http.client.HTTPConnection("127.0.0.1", service.port, timeout=30) for _ in range(6)]
    with ExitStack() as stack:
        for client in clients:
            stack.callback(client.close)
            assert _asks(client) == 200
            assert client.sock, "it is kept"
        os.kill(worker, signal.SIGTERM)
        time.sleep(0.5)  # what they take to ask again
        assert [_asks(client) for client in clients[:4]] == [200] * 4
        assert [client.sock for client in clients[:4]] == [None] * 4
        began = time.monotonic()
        eventually(lambda: worker not in service.workers())
    figure(7, f"a worker with idle connections was gone {time.monotonic() - began:.1f} s after its last answer")
    assert time.monotonic() - began < 10
    service.wait_until_up()


def _asks(client: http.client.HTTPConnection) -> int:
    client.request("GET", "/health/live")
    with client.getresponse() as answer:
        answer.read()
        return answer.status


HELD = """
from pathlib import Path
import time
exec(Path("gunicorn.conf.py").read_text())
def post_worker_init(worker):
    while Path("hold").exists():
        Path("held").touch()
        time.sleep(0.01)
"""


def test_a_worker_that_stops_while_it_begins(serve: Callable[..., Service], tmp_path: Path) -> None:
    """Who has connected before is answered, by it or by the next one."""
    (tmp_path / "held.conf.py").write_text(HELD)
    conf = ("-c", str(tmp_path / "held.conf.py"))
    service = serve(*conf, WEB_CONCURRENCY=1, LLM_BACKEND="stub")
    (service.home / "hold").touch()
    [first] = service.workers()
    os.kill(first, signal.SIGKILL)
    eventually((service.home / "held").exists)
    [worker] = service.workers()
    with ExitStack() as stack:
        clients = [stack.enter_context(service.connect()) for _ in range(4)]
        os.kill(worker, signal.SIGTERM)
        (service.home / "hold").unlink()
        time.sleep(0.2)  # as above
        assert _answers(clients) == [b"HTTP/1.1 200 OK"] * 4
    eventually(lambda: worker not in service.workers())
    service.wait_until_up()


def _answers(clients: list[socket.socket]) -> list[bytes]:
    for client in clients:
        client.sendall(LIVE)
    return [client.recv(65_536)[:15] for client in clients]
