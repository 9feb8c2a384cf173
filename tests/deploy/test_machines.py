"""Past one machine: nginx before two services, with one Redis; and before two servers of models."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from e2e.far_ends import model_server
from faults.loads import Load, Service, children, eventually, figure, tally
from faults.upstreams import OPENAI, UNTIL_CLOSED, Peer, Script, Upstream

from .parts import Nginx, Redis, replaced

# One OPENAI_BASE_URL for several plain servers; as in docs/scaling.md.
MODELS = """
upstream models {{
    least_conn;
    {servers}
}}
server {{
    listen 127.0.0.1:{{port}};
    location / {{
        proxy_pass http://models;
        proxy_http_version 1.1;
        proxy_buffering off;
        proxy_read_timeout 130s;
    }}
}}
"""


def test_limits_over_machines(serve: Callable[..., Service], front: Callable[..., Nginx], redis: Redis) -> None:
    """Two services with two workers each let together exactly as many through as RATE_LIMIT says."""
    limits = {"RATE_LIMIT": "40/minute", "RATE_LIMIT_STORAGE": redis.url, "TRUSTED_PROXIES": "127.0.0.1"}
    services = [serve(LLM_BACKEND="stub", WEB_CONCURRENCY=2, **limits) for _ in range(2)]
    nginx = front(*(f"127.0.0.1:{service.port}" for service in services))

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: nginx.generate(), range(100)))
    nginx.source = "127.0.0.2"
    other = nginx.generate()

    counts = Counter(answer.status for answer in answers)
    answered = [len(service.lines(status="ok", client_ip="127.0.0.1")) for service in services]
    figure("machines", f"40/minute over 2 services: {counts}; each answered {answered}")
    assert counts == {200: 40, 429: 60}
    assert all(answered)
    assert other.ok


@dataclass
class Model:
    """A far end that takes up to 0.1 s; a request for a long text is `held` until it may `go_on`."""

    settings: dict[str, str] = field(default_factory=dict)
    held: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def answer(self, peer: Peer) -> None:
        if peer.wish["messages"][0]["content"] == "long":
            self.held.set()
            assert self.go_on.wait(30)
        time.sleep(random.uniform(0, 0.1))
        peer.send(UNTIL_CLOSED + (OPENAI.stream if peer.wish["stream"] else OPENAI.whole))


@pytest.fixture
def model(behind: Callable[[Script], Upstream]) -> Model:
    model = Model()
    model.settings = OPENAI.settings(behind(model.answer))
    return model


def take_out(nginx: Nginx, port: int) -> None:
    """Have nginx send nothing more to a server."""
    site = nginx.home / "site.conf"
    site.write_text(replaced(site.read_text(), {f"127.0.0.1:{port} ": f"127.0.0.1:{port} down "}))
    old = children(nginx.process.pid)
    nginx.process.send_signal(signal.SIGHUP)
    eventually(lambda: not old & children(nginx.process.pid))


@pytest.mark.parametrize("taken_out", [True, False])
def test_machine_stops(
    serve: Callable[..., Service], front: Callable[..., Nginx], model: Model, taken_out: bool
) -> None:
    """A service that stops answers what it has, for as long as that takes; meanwhile the other one gets the rest.

    None fails where nginx is told first; else what connects in the instant in which the last worker closes the door.
    """
    services = [serve(WEB_CONCURRENCY=2, **model.settings) for _ in range(2)]
    stopping = services[0]
    nginx = front(*(f"127.0.0.1:{service.port}" for service in services))
    with Load(nginx, clients=8) as load, ThreadPoolExecutor(1) as client:
        load.wait_for(50)
        long = client.submit(stopping.generate, "long")
        assert model.held.wait(10)
        if taken_out:
            take_out(nginx, stopping.port)
        stopping.signal(signal.SIGTERM)
        load.wait_for(200)
        assert not long.done()
        model.go_on.set()
        assert long.result().ok
        assert stopping.process.wait(30) == 0

    answers = [*load.answers, long.result()]
    failed = [*load.broken, *((answer.status, answer.code) for answer in load.refused())]
    slowest = max(answer.seconds for answer in load.answers)
    found = tally([answer.request_id for answer in answers if answer.ok], *(service.log for service in services))
    text = f"{len(failed)} of {len(answers)} failed, the slowest took {slowest:.2f} s, {found}"
    figure("machines", f"SIGTERM of one of two services, {taken_out=}: {text}")
    assert len(failed) <= (0 if taken_out else 2), (failed, nginx.output()[-2000:])
    assert slowest < 2
    assert not found


def test_machines_in_turn(serve: Callable[..., Service], front: Callable[..., Nginx], model: Model) -> None:
    """When one comes back and the other stops at once, nginx knows: it never finds that none is there."""
    services = [serve(WEB_CONCURRENCY=2, **model.settings) for _ in range(2)]
    ports = [service.port for service in services]
    nginx = front(*(f"127.0.0.1:{port}" for port in ports))
    with Load(nginx, clients=8) as load:
        for number in range(2):
            load.wait_for(5)
            services[number].stop()
            services.append(serve(WEB_CONCURRENCY=2, **model.settings | {"BIND": f"127.0.0.1:{ports[number % 2]}"}))
            eventually(services[-1].lines)

    failed = [*load.broken, *((answer.status, answer.code) for answer in load.refused())]
    figure("machines", f"two restarts in turn: {len(failed)} of {len(load.answers)} failed")
    assert "no live upstreams" not in nginx.output()
    assert len(failed) <= 2


def test_machine_dies(serve: Callable[..., Service], front: Callable[..., Nginx], model: Model, tmp_path: Path) -> None:
    """Of two services one dies under load: only what it was answering fails, and nothing is generated twice."""
    # a folder of gunicorn.conf.py's own making would outlive a master that is killed
    numbers = [tmp_path / "one", tmp_path / "other"]
    for folder in numbers:
        folder.mkdir()
    services = [serve(WEB_CONCURRENCY=2, PROMETHEUS_MULTIPROC_DIR=folder, **model.settings) for folder in numbers]
    dead = services[0]
    nginx = front(*(f"127.0.0.1:{service.port}" for service in services))
    with Load(nginx, clients=8) as load:
        load.wait_for(100)
        pids = [dead.process.pid, *dead.workers()]
        killed = time.monotonic()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        load.wait_for(200)
        answered = len(load.answers)

    failed = load.refused()
    eventually(lambda: len(nginx.passed()) >= answered)
    tried = {name: servers for _, name, servers in nginx.passed()}
    found = tally([answer.request_id for answer in load.answers if answer.ok], *(service.log for service in services))
    text = f"{len(failed)} of {answered} answered 502, {len(load.broken)} cut; the rest by the other; {found}"
    figure("machines", f"kill -9 of one of two services: {text}")
    assert all((answer.status, answer.code) == (502, "bad_gateway") for answer in failed)
    assert all(answer.began < killed + 0.1 for answer in failed)
    assert all(tried[answer.request_id] == [f"127.0.0.1:{dead.port}"] for answer in failed)
    assert len(failed) + len(load.broken) <= load.clients
    assert not found


def asked(balancer: Nginx) -> list[str]:
    """Return the server of each prompt that was answered; the start asks for lists and whether it is an Ollama too."""
    return [servers[0] for status, _, servers in balancer.passed("POST") if status == "200"]


def test_two_model_servers(serve: Callable[..., Service], front: Callable[..., Nginx]) -> None:
    """Two llama.cpp servers stand behind one OPENAI_BASE_URL; both get work, and a prompt is asked once."""
    with ExitStack() as stack:
        addresses = [stack.enter_context(model_server("llama_server.py")) for _ in range(2)]
        servers = [address.removeprefix("http://") for address in addresses]
        site = MODELS.format(servers="\n    ".join(f"server {server};" for server in servers))
        balancer = front(site=site)
        base = f"http://127.0.0.1:{balancer.port}/v1"
        service = serve(LLM_BACKEND="openai", OPENAI_BASE_URL=base, OPENAI_MODEL="smollm2")
        ask = '{"prompt": "What is the capital of France?", "system": "Answer briefly.", "max_tokens": 8}'
        with ThreadPoolExecutor(4) as clients:
            json = {"Content_Type": "application/json"}
            answers = list(clients.map(lambda _: service.ask("POST", "/generate", ask, **json), range(8)))

    eventually(lambda: len(asked(balancer)) >= 8)
    shares = Counter(asked(balancer))
    figure("machines", f"8 answers of two llama.cpp servers behind one address: {sorted(shares.values())}")
    assert all(answer.ok and answer.text for answer in answers), [answer.body for answer in answers]
    assert sum(shares.values()) == 8
    assert set(shares) == set(servers)
