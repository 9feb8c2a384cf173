"""Figure 3: no space for the log; a disk that is full, or a limit on a file's size (RLIMIT_FSIZE)."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pytest

from .loads import Answer, Load, Service, count, eventually, figure, ids, tally

# More than the rest of a disk's last block takes, so that none of them fits once the disk is full.
LEAST, MOST = 10_000, 60_000


class Space(Protocol):
    """What can run out under a service's log, and be there again."""

    reason: str
    log: Path

    def watch(self, service: Service) -> None: ...
    def take(self) -> None: ...
    def give(self) -> None: ...


class Disk:
    """A small disk, and a file that fills it."""

    reason = os.strerror(errno.ENOSPC)

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log.jsonl"
        self._ballast = folder / "ballast"

    def watch(self, service: Service) -> None:
        pass

    def take(self) -> None:
        with self._ballast.open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(bytes(1_000_000))

    def give(self) -> None:
        self._ballast.unlink()


class Limit:
    """A limit on the size of the files that a service's workers write."""

    reason = os.strerror(errno.EFBIG)

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log.jsonl"

    def watch(self, service: Service) -> None:
        self._service = service

    def take(self) -> None:
        self.set(self.log.stat().st_size + 100)

    def give(self) -> None:
        self.set(resource.RLIM_INFINITY)

    def set(self, size: int) -> None:
        for pid in self._service.workers():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture(params=["disk", "limit"])
def space(request: pytest.FixtureRequest, tmp_path: Path) -> Space:
    return Disk(request.getfixturevalue("small_disk")) if request.param == "disk" else Limit(tmp_path)


Start = Callable[..., Service]


@pytest.fixture
def start(serve: Callable[..., Service], space: Space) -> Start:
    """Return a starter of services whose log is where the space is; it has 2 MB already."""

    def run(**settings: object) -> Service:
        old = (f'{{"request_id": "old-{number}", "text": "{"x" * 10_000}"}}\n' for number in range(200))
        space.log.write_text("".join(old))
        service = serve(LLM_BACKEND="stub", LOG_FILE=space.log, **settings)
        space.watch(service)
        return service

    return run


def large_prompt() -> str:
    return "x" * random.randint(LEAST, MOST)


def steadily(service: Service, status: int, times: int = 10) -> Callable[[], bool]:
    """Return a condition: /health says so, whichever worker one asks."""
    return lambda: all(service.get("/health").status == status for _ in range(times))


def check_refused(answer: Answer, reason: str) -> None:
    """It is a 503 that says why and when to come again; a stream that had begun says so in its last line."""
    error = answer.objects[-1]["error"]
    assert error["code"] == "log_unavailable", error
    assert reason in error["message"]
    if not answer.stream:
        assert (answer.status, int(answer.headers["Retry-After"]) >= 1) == (503, True)


def test_under_load(start: Start, space: Space) -> None:
    """Without space nothing is answered but with a 503, and with it all is well within a second; no line is torn."""
    rounds = count(3, 12)
    service = start(WEB_CONCURRENCY=2)
    seconds = []
    with Load(service, clients=4, prompt=large_prompt) as load:
        for _ in range(rounds):
            load.wait_for(5, lambda answer: answer.ok)
            space.take()
            load.wait_for(20, lambda answer: not answer.ok)
            space.give()
            back = time.monotonic()
            load.wait_for(10, lambda answer, back=back: answer.ok and answer.began > back)
            late = [answer.ended - back for answer in load.refused() if answer.began > back]
            seconds.append(max(late, default=0.0))
    refused = load.refused()
    answered = [answer for answer in load.answers if answer.ok]

    found = tally([answer.request_id for answer in answered], space.log)
    figure(
        3,
        f"{space.reason}, {rounds} times: {len(answered)} answers, {len(refused)} refused, {found}, "
        f"the last refusal {max(seconds) * 1000:.0f} ms after space was back",
    )
    assert not found
    assert not load.broken
    assert max(seconds) <= 1
    for answer in refused:
        check_refused(answer, space.reason)
    assert not {answer.request_id for answer in refused} & ids(space.log)[0].keys()


def test_health(start: Start, space: Space) -> None:
    """/health is unhealthy with the reason as long as no line can be written, and healthy within a second after."""
    service = start(WEB_CONCURRENCY=1)
    assert service.generate(large_prompt()).ok
    assert service.get("/health").status == 200
    seconds = []
    for _ in range(count(2, 5)):
        space.take()
        check_refused(service.generate(large_prompt()), space.reason)
        full = time.monotonic()
        # longer than a report is kept
        while time.monotonic() < full + 2.5:
            sick = service.get("/health")
            assert (sick.status, sick.objects[0]["status"]) == (503, "unhealthy"), (sick.body, time.monotonic() - full)
            assert space.reason in sick.objects[0]["reason"]
        space.give()
        back = time.monotonic()
        eventually(steadily(service, 200, 3))
        seconds.append(time.monotonic() - back)
        assert service.get("/health").objects[0]["status"] == "healthy"
    figure(
        3, f"{space.reason}: /health healthy by itself {', '.join(f'{s:.2f} s' for s in seconds)} after space was back"
    )
    assert max(seconds) <= 1


def test_health_by_the_next_request(start: Start, space: Space) -> None:
    """The first request after space is back is answered, and /health is healthy at once."""
    service = start(WEB_CONCURRENCY=1)
    for stream in (False, True):
        space.take()
        check_refused(service.generate(large_prompt(), stream=stream), space.reason)
        space.give()
        back = time.monotonic()
        answer = service.generate(large_prompt(), stream=stream)
        assert answer.ok
        assert service.get("/health").status == 200
        figure(3, f"{space.reason}: answered and healthy {time.monotonic() - back:.3f} s after space was back")
        assert time.monotonic() - back <= 1
        assert service.lines(request_id=answer.request_id)


def test_a_log_that_is_not_required(start: Start, space: Space) -> None:
    """With LOG_REQUIRED=false all is answered, each line is in the log or on stderr, and /health has the count."""
    requests = count(20, 60)
    service = start(WEB_CONCURRENCY=1, LOG_REQUIRED="false")
    before = service.generate(large_prompt())
    space.take()
    # in sum less than the limit, which stderr, a file here, has too
    during = [service.generate("x" * LEAST, stream=number % 2 == 0) for number in range(requests)]
    report = service.get("/health")
    space.give()
    after = service.generate(large_prompt())

    assert all(answer.ok for answer in (before, *during, after))
    assert (report.status, report.objects[0]["status"]) == (200, "degraded")
    assert space.reason in report.objects[0]["reason"]
    assert f"{requests} lines" in report.objects[0]["reason"]
    on_stderr = [json.loads(line)["request_id"] for line in service.output().split("\n") if line.startswith('{"')]
    assert on_stderr == [answer.request_id for answer in during]
    assert ids(space.log)[0].keys().isdisjoint(on_stderr)
    assert {before.request_id, after.request_id} <= ids(space.log)[0].keys()
    assert service.get("/health").objects[0]["status"] == "healthy"
    figure(3, f"{space.reason}, LOG_REQUIRED=false: {requests} answered, {len(on_stderr)} lines on stderr, none lost")


def test_neither_log_nor_stderr(serve: Callable[..., Service]) -> None:
    """With LOG_REQUIRED=false all is answered even where stderr can't be written either; /health counts them."""
    service = serve(LLM_BACKEND="stub", LOG_REQUIRED="false", WEB_CONCURRENCY=1)
    limit = Limit(service.log.parent)
    limit.watch(service)
    assert service.generate().ok
    limit.set(100)  # stderr, a file here, has more
    answers = [service.generate(large_prompt(), stream=number % 2 == 0) for number in range(10)]
    report = service.get("/health")
    limit.give()
    after = service.generate()

    figure(3, f"neither log nor stderr: {sum(answer.ok for answer in answers)} of {len(answers)} answered")
    assert all(answer.ok for answer in answers), [answer.objects[-1] for answer in answers][:3]
    assert "10 lines" in report.objects[0]["reason"]
    assert service.lines(request_id=after.request_id)
