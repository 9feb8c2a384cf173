"""A line's way into the log: this service's protocol beside two plain ones, which lose lines."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

from llm_api import Settings
from llm_api.log.writer import RequestLog

from . import harness

RECORD = {"prompt": "x" * 900, "response": "y" * 100}

Append = Callable[[], object]


def ours(path: Path) -> Append:
    """Locks, mends, writes whole or not at all: 0 of 500 kills tore a line."""
    log = RequestLog(Settings(log_file=str(path)))
    return lambda: log.append(RECORD)


def plain_open(path: Path) -> Append:
    """What one writes first: 12 of 300 kills tore a line, and each swallowed the next."""

    def append() -> None:
        with path.open("a") as file:
            file.write(json.dumps(RECORD) + "\n")

    return append


def o_append(path: Path) -> Append:
    """One system call: 4 of 300 kills tore a line; a full disk took nine."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return lambda: os.write(file, (json.dumps(RECORD) + "\n").encode())


PROTOCOLS = {"ours": ours, "open('a').write": plain_open, "O_APPEND write": o_append}


def work(make: Callable[[Path], Append], path: Path, lines: int, begin: Barrier, took: SimpleQueue[float]) -> None:
    """Append that many lines, and tell how long the median one took."""
    append, seconds = make(path), []
    begin.wait()
    for _ in range(lines):
        began = time.perf_counter()
        append()
        seconds.append(time.perf_counter() - began)
    took.put(statistics.median(seconds))


def measure(make: Callable[[Path], Append], path: Path, processes: int, lines: int) -> tuple[float, float]:
    """Return lines per second of all processes together, and the median seconds of one line."""
    context = multiprocessing.get_context("fork")
    begin, took = context.Barrier(processes + 1), context.SimpleQueue()
    share = lines // processes
    workers = [context.Process(target=work, args=(make, path, share, begin, took)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    begin.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - began
    path.unlink()
    return share * processes / seconds, statistics.median(took.get() for _ in workers)


def main() -> None:
    """Print the table."""
    short = harness.is_short(__doc__)
    rounds, lines = (1, 2_000) if short else (5, 40_000)
    rows = []
    with harness.workshop() as (_, folder):
        path = folder / "log.jsonl"
        for processes in (1, 8):
            takes = {name: lambda m=make, n=processes: measure(m, path, n, lines) for name, make in PROTOCOLS.items()}
            for name, taken in harness.interleaved(rounds, takes).items():
                rate, seconds = (statistics.median(values) for values in zip(*taken, strict=True))
                rows.append([name, str(processes), harness.number(rate), harness.number(seconds * 1e6)])
    head = ["lines of 1 kB", "processes", "lines/s", "p50 of one line, µs"]
    harness.publish("append", harness.table(head, rows))


if __name__ == "__main__":
    main()
