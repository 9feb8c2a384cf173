"""Rate limits that several workers count in one Redis, and what becomes of them without it."""

from __future__ import annotations

import re
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from faults.loads import Answer, Service, eventually, figure

from .parts import Redis

LIMIT = 8
AWAY = {  # RATE_LIMIT_ON_FAILURE: the statuses of twelve requests to one worker while the storage is away
    "memory": [200] * LIMIT + [429] * 4,
    "allow": [200] * 12,
    "deny": [503] * 12,
}


def statuses(answers: list[Answer]) -> list[int]:
    return [answer.status for answer in answers]


def test_workers_count_together(serve: Callable[..., Service], redis: Redis) -> None:
    """Of 60 requests over four workers exactly as many as RATE_LIMIT says are answered.

    Each costs Redis two commands, to count it and to say how the caller stands; a few more load the scripts.
    """
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=4, RATE_LIMIT="10/minute", RATE_LIMIT_STORAGE=redis.url)
    redis.said("CONFIG RESETSTAT")

    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: service.generate(), range(60)))

    calls = dict(re.findall(r"cmdstat_([\w|]+):calls=(\d+)", redis.said("INFO commandstats")))
    busy = len(service.writers())
    figure("limits", f"{Counter(statuses(answers))} over {busy} workers; Redis ran {calls}")
    assert Counter(statuses(answers)) == {200: 10, 429: 50}
    assert busy > 1
    refused = [answer for answer in answers if answer.status == 429]
    assert all(answer.code == "rate_limit_exceeded" for answer in refused)
    assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer in refused)
    assert len(service.lines()) == 60
    assert 2 * 60 <= int(calls["evalsha"]) <= 2 * 60 + 2 * 4


def test_memory_counts_by_worker(serve: Callable[..., Service]) -> None:
    """Why Redis: in memory each worker lets as many through."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=4, RATE_LIMIT="10/minute")
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: service.generate(), range(60)))
    assert 10 < statuses(answers).count(200) <= 40


@pytest.mark.parametrize("on_failure", AWAY)
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL], ids=lambda how: how.name)
def test_redis_away(serve: Callable[..., Service], redis: Redis, on_failure: str, how: signal.Signals) -> None:
    """RATE_LIMIT_ON_FAILURE says what happens; no request waits a second for it; it comes back by itself."""
    settings = {"RATE_LIMIT": f"{LIMIT}/hour", "RATE_LIMIT_STORAGE": redis.url, "RATE_LIMIT_ON_FAILURE": on_failure}
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1, **settings)
    before = [service.generate() for _ in range(2)]

    redis.signal(how)
    away = [service.generate() for _ in range(12)]
    if how == signal.SIGSTOP:
        redis.signal(signal.SIGCONT)
    else:
        redis.kill()
        redis.start()
    # what only Redis can say: that some are left, or for allow that none is
    back = 429 if on_failure == "allow" else 200
    eventually(lambda: service.generate().status == back, 5)

    slowest = max(answer.seconds for answer in away)
    codes = sorted({answer.code for answer in away if answer.code})
    figure("limits", f"{how.name}, {on_failure}: {Counter(statuses(away))} {codes}, the slowest after {slowest:.2f} s")
    assert statuses(before) == [200, 200]
    assert statuses(away) == AWAY[on_failure]
    assert slowest < 1
    logged = [line["http_status"] for answer in away for line in service.lines(request_id=answer.request_id)]
    assert logged == AWAY[on_failure]
