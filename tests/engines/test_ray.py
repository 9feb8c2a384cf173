"""Ray Serve over two hosts with a llama.cpp server in each replica: as it is, and what clients see when parts of it go.

All goes through the service, which has one address: that of the proxy on Ray's head.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from e2e.far_ends import smollm2_file
from faults.loads import CHAT, Load, Service, conversation, eventually, figure

from .hosts import Host
from .ray_cluster import ONE, TWO, Cluster, ray_cluster

MODEL = smollm2_file().name
# Without an end of its own an answer of so many tokens takes minutes.
ENDLESS = '{"ignore_eos": true, "max_tokens": 8000}'
# The faults that Ray takes long to notice: make test-engines ENGINES=full
slow = pytest.mark.skipif(os.environ.get("ENGINES") != "full", reason="ENGINES=full")
SHORT = '{"ignore_eos": true, "max_tokens": 12}'


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="ray") as home, ray_cluster(Path(home)) as started:
        yield started


@pytest.fixture
def service(cluster: Cluster, serve: Callable[..., Service]) -> Iterator[Callable[..., Service]]:
    """Return a starter of services on a host of their own; who asks them is there too."""
    settings = {"LLM_BACKEND": "openai", "OPENAI_BASE_URL": f"{cluster.url}/v1", "OPENAI_MODEL": MODEL}
    with cluster.user.entered():
        yield lambda **more: serve(**settings | {"MAX_RETRIES": 2, "OPENAI_EXTRA_BODY": SHORT} | more)


def computing(cluster: Cluster) -> int:
    """Return how many slots of the one replica compute something."""
    with urllib.request.urlopen(f"{cluster.url}/slots", timeout=10) as answer:
        return sum(slot["is_processing"] for slot in json.load(answer))


def network(pid: int | str) -> Path:
    return Path(f"/proc/{pid}/ns/net").readlink()


def test_only_its_hosts_know_of_it(cluster: Cluster) -> None:
    """Ray listens at all addresses, so nothing of it may run where the machine's own are."""
    cluster.deploy(**TWO)
    networks = {network(pid) for pid in cluster.processes()}
    inside = {network(host.pids()[0]) for host in (cluster.head, cluster.node)}
    assert len(cluster.processes()) > 10
    assert networks == inside
    assert network("self") not in networks


def test_a_stream_comes_piece_by_piece(cluster: Cluster, service: Callable[..., Service]) -> None:
    """What is there of an answer is there while the engine computes the rest."""
    cluster.deploy(**ONE)
    asked = service(OPENAI_EXTRA_BODY=ENDLESS)
    with asked.asking(stream=True, path=CHAT, **conversation("Tell a story.")) as (_, sock):
        lines = sock.makefile("rb")
        for _ in range(20):
            assert next(line for line in lines if b'"content"' in line)
        assert computing(cluster) == 1
        lines.close()
    assert service().say("What is the capital of France?").ok


def test_a_client_that_leaves_a_stream_frees_the_slot(cluster: Cluster, service: Callable[..., Service]) -> None:
    """Through two proxies the engine hears of it; it would compute for minutes.

    Not so of a whole answer: the replica closes its connection too, but llama.cpp's server looks only when it writes.
    """
    cluster.deploy(**ONE)
    asked = service(OPENAI_EXTRA_BODY=ENDLESS)
    with asked.asking(stream=True):
        eventually(lambda: computing(cluster) == 1)
    left = time.monotonic()
    eventually(lambda: computing(cluster) == 0, 10)
    figure("ray", f"a client left a stream: its slot was free {time.monotonic() - left:.1f} s later")
    assert eventually(lambda: asked.lines(status="aborted"))


def seen(what: str, load: Load, began: float, noticed: float) -> list[str]:
    """Print what clients saw of a fault; return what was lost."""
    lost = [*load.broken, *(f"{answer.status} {answer.code} stream={answer.stream}" for answer in load.refused())]
    again = sum(len(line["attempts"]) > 1 for line in load.service.lines(status="ok"))
    slowest = max(answer.seconds for answer in load.answers)
    text = f"{len(load.answers) + len(load.broken)} asked, {again} asked again, slowest {slowest:.1f} s, lost: {lost}"
    figure("ray", f"{what}: {text}; as before {noticed - began:.1f} s later")
    assert not load.broken
    assert {answer.code for answer in load.refused() if answer.stream} <= {"invalid_answer"}
    assert all(answer.stream for answer in load.refused())
    return lost


def test_a_replica_is_killed(cluster: Cluster, service: Callable[..., Service]) -> None:
    """What it had begun to stream ends with an error; all else is answered by the other one, and a new one comes."""
    cluster.deploy(**TWO)
    with Load(service(), prompt=lambda: "Say something.") as load:
        load.wait_for(10)
        before = cluster.replicas()
        killed = time.monotonic()
        os.kill(before[cluster.node.address], signal.SIGKILL)
        eventually(lambda: len(now := cluster.replicas()) == 2 and now != before, 60)
        back = time.monotonic()
        load.wait_for(10)
    seen("a replica was killed", load, killed, back)


@slow
@pytest.mark.parametrize(
    ("what", "lose", "settings"),
    [
        ("a host crashed", Host.crash, {}),
        # nothing says so: what was there waits until Serve gives the replica up, and is then asked again
        ("a host was cut off", partial(Host.link, state="down"), {"REQUEST_TIMEOUT": 50}),
    ],
)
def test_a_host_is_lost(
    cluster: Cluster,
    service: Callable[..., Service],
    what: str,
    lose: Callable[[Host], None],
    settings: dict[str, int],
) -> None:
    """As with a replica, although Ray itself takes longer to know."""
    cluster.deploy(**TWO)
    try:
        with Load(service(**settings), prompt=lambda: "Say something.") as load:
            load.wait_for(10)
            lost = time.monotonic()
            lose(cluster.node)
            eventually(lambda: len(cluster.nodes()) == 1, 120)
            noticed = time.monotonic()
            load.wait_for(20)
        seen(what, load, lost, noticed)
    finally:
        cluster.start_node()


@slow
def test_it_grows_and_shrinks(cluster: Cluster, service: Callable[..., Service]) -> None:
    """Under load a second replica comes and afterwards goes, and clients see nothing of either."""
    cluster.deploy(**ONE)
    scaling = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 2}
    cluster.deploy(autoscaling_config=scaling | {"upscale_delay_s": 3, "downscale_delay_s": 6})
    with Load(service(), clients=6, prompt=lambda: "Say something.") as load:
        began = time.monotonic()
        eventually(lambda: len(cluster.replicas()) == 2, 60)
        grown = time.monotonic()
        load.wait_for(10)
    ended = time.monotonic()
    eventually(lambda: len(cluster.replicas()) == 1, 60)
    figure("ray", f"shrunk {time.monotonic() - ended:.1f} s after the load")
    assert not seen("it grew", load, began, grown)
