"""Figure 21: a backend that takes connections and says nothing."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from .loads import FULL, Answer, Service, count, eventually, figure, percentile, within
from .upstreams import OPENAI, WIRES, Peer, Script, Upstream, Wire, list_models

CLIENTS = 20


@pytest.mark.parametrize("wire", WIRES if FULL else [OPENAI], ids=str)
def test_hung_backend(serve: Callable[..., Service], behind: Callable[[Script], Upstream], wire: Wire) -> None:
    """/health answers at once, says within three seconds how the backend is, and hardly asks it."""
    hangs = threading.Event()
    probes: list[float] = []

    def probe(peer: Peer) -> None:
        probes.append(time.monotonic())
        if hangs.is_set():
            peer.wait_until_gone()
        else:
            list_models(peer)

    far_end = behind(list_models)
    far_end.probe = probe
    service = serve(WEB_CONCURRENCY=1, **wire.settings(far_end))
    assert service.get("/health").objects[0]["status"] == "healthy"
    polls: list[Answer] = []
    over = threading.Event()
    states: list[tuple[str, float, float]] = []
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        watchers = [pool.submit(poll, service, polls, over) for _ in range(CLIENTS)]
        try:
            for number in range(2 * count(1, 4)):
                status, change = (("unhealthy", hangs.set), ("healthy", hangs.clear))[number % 2]
                known = len(probes)
                eventually(lambda known=known: len(probes) > known)  # the worst moment: it has just been asked
                change()
                since = time.monotonic()
                eventually(lambda status=status, since=since: first(polls, status, since))
                states.append((status, since, first(polls, status, since)))
            time.sleep(2.5)  # what was found stays so over another probe
        finally:
            over.set()
        for watcher in watchers:
            watcher.result()
    seconds = time.monotonic() - began

    found = {status: max(at - since for said, since, at in states if said == status) for status, *_ in states}
    p99 = percentile([answer.seconds for answer in polls], 0.99)
    figure(
        21,
        f"{wire}, {CLIENTS} clients: {len(polls)} x /health, p99 {p99 * 1000:.0f} ms; says that it is hung "
        f"after {found['unhealthy']:.2f} s, well again after {found['healthy']:.2f} s; "
        f"{len(probes)} probes in {seconds:.1f} s",
    )
    changes = [since for _, since, _ in states[1:]] + [time.monotonic()]
    for (status, _, at), until in zip(states, changes, strict=True):
        said = {answer.objects[0]["status"] for answer in polls if answer.began > at and answer.ended < until}
        assert said <= {status}
    assert said  # of the last, which was watched for longer
    # the second comes at a random moment, so that the processes of a fleet do not ask together
    assert min(later - earlier for earlier, later in itertools.pairwise(probes[1:])) > 1.9
    assert max(found.values()) <= within(3)
    assert p99 <= within(0.1)


def poll(service: Service, polls: list[Answer], over: threading.Event) -> None:
    while not over.wait(0.1):
        polls.append(service.get("/health"))


def first(polls: list[Answer], status: str, since: float) -> float:
    """Return when /health was first asked after `since` and said so; 0 where it has not yet."""
    return next((a.ended for a in list(polls) if a.began > since and a.objects[0]["status"] == status), 0)
