"""Figure 5: a process that holds the log's lock and is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from .loads import Answer, Service, count, eventually, figure, percentile, within

HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.readline()
"""


@contextmanager
def stopped_holder(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the log's lock, and is stopped."""
    command = [sys.executable, "-c", HOLDER, log]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout
            holder.stdout.readline()
            holder.send_signal(signal.SIGSTOP)
            eventually(lambda: _state(holder.pid) == "T")
            yield holder
        finally:
            holder.kill()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize("way_out", [signal.SIGKILL, signal.SIGCONT], ids=["killed", "goes on"])
def test_stopped_lock_holder(serve: Callable[..., Service], way_out: signal.Signals) -> None:
    """Requests get their 503 in time and /health answers at once; all is well as soon as the lock is free."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=2)
    assert service.generate("makes the log").ok
    for _ in range(20):
        assert service.get("/health").status == 200  # by each of the workers

    polls: list[Answer] = []
    with stopped_holder(service.log) as holder, ThreadPoolExecutor(8) as clients:
        over = threading.Event()
        watch = threading.Thread(target=_poll, args=(service, polls, over))
        watch.start()
        try:
            asked = [clients.submit(service.generate, "Hi", stream=number % 2 == 0) for number in range(count(16, 160))]
            answers = [future.result() for future in asked]
        finally:
            over.set()
            watch.join()
        eventually(lambda: all(service.get("/health").status == 503 for _ in range(10)))
        holder.send_signal(way_out)
        if way_out == signal.SIGCONT:
            assert holder.stdin
            holder.stdin.write(b"\n")
            holder.stdin.flush()
        holder.wait()
        assert service.generate("the lock is free").ok
    eventually(lambda: all(service.get("/health").status == 200 for _ in range(10)), 5)

    slowest = max(answer.seconds for answer in answers)
    p99 = percentile([poll.seconds for poll in polls], 0.99)
    figure(
        5,
        f"{len(answers)} requests before a stopped lock holder: refused within {slowest:.2f} s; "
        f"{len(polls)} x /health, p99 {p99 * 1000:.0f} ms",
    )
    for answer in answers:
        assert answer.code == "log_unavailable"
        assert "another process holds it" in str(answer.objects) or "another thread holds it" in str(answer.objects)
        assert answer.stream or (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert slowest <= within(2.5)
    assert p99 <= within(0.1)
    assert not {line["request_id"] for line in service.lines()} & {answer.request_id for answer in answers}


def test_health_first_asked_before_a_held_lock(serve: Callable[..., Service]) -> None:
    """A worker that has never been asked for its health says at once that the log can't be written."""
    service = serve(LLM_BACKEND="stub", WEB_CONCURRENCY=1)
    assert service.generate("makes the log").ok
    with stopped_holder(service.log):
        assert service.generate().code == "log_unavailable"
        health = service.get("/health")

    figure(5, f"/health asked for the first time before a stopped lock holder: {health.seconds:.2f} s")
    assert health.status == 503
    assert health.seconds <= 1


def _poll(service: Service, polls: list[Answer], over: threading.Event) -> None:
    while not over.wait(0.005):
        polls.append(service.get("/health"))
