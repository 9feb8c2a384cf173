"""Processes that write a log and nothing else, in a process of their own since they are forks of it.

    python writers.py kill LOG KILLS REPAIRS [BREAKAGE]    kills until both counts are reached
    python writers.py measure LOG PROCESSES LINES

Each prints one JSON object.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import select
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import breakages

from llm_api import Settings
from llm_api.log.writer import RequestLog

WRITERS = 4
# Lines of 100 bytes to a megabyte.
EXPONENTS = (2, 6)
# Repairs are a matter of chance; past this many times the kills that were asked for there will be none.
PATIENCE = 10


class Writer:
    """A forked process that runs `work` with the end of a pipe to say things on."""

    def __init__(self, work: Callable[[int], None]) -> None:
        self.pipe, end = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.pipe)
                work(end)
            finally:
                os._exit(1)
        os.close(end)

    def said(self) -> bytes:
        """Return what it has said, without waiting."""
        data = b""
        while select.select([self.pipe], [], [], 0)[0] and (part := os.read(self.pipe, 65_536)):
            data += part
        return data


def write_on(log: RequestLog, name: int) -> Callable[[int], None]:
    """Append lines of all sizes for ever; acknowledge each when `append` has returned."""

    def work(pipe: int) -> None:
        random.seed()
        for number in itertools.count():
            request_id = f"{name}-{number}"
            log.append(
                {"timestamp": number, "request_id": request_id, "text": "x" * int(10 ** random.uniform(*EXPONENTS))}
            )
            os.write(pipe, f"{request_id}\n".encode())

    return work


def kill(path: Path, kills: int, repairs: int) -> dict[str, Any]:
    """Kill writers at random moments, just after an acknowledgement or somewhat later."""
    log = RequestLog(Settings(log_file=str(path)))
    names = itertools.count()
    writers = [Writer(write_on(log, next(names))) for _ in range(WRITERS)]
    said = b""
    killed = 0
    while killed < kills or (_repairs(path) < repairs and killed < kills * PATIENCE):
        for _ in range(random.randint(1, WRITERS)):
            select.select([writer.pipe for writer in writers], [], [], 10)
            said += b"".join(writer.said() for writer in writers)
        time.sleep(random.uniform(0, 0.004))
        victim = writers.pop(random.randrange(WRITERS))
        said += _killed(victim)
        killed += 1
        writers.append(Writer(write_on(log, next(names))))
    said += b"".join(map(_killed, writers))
    log.append({"request_id": "last"})
    acknowledged = said.decode().split("\n")[:-1]
    return {"kills": killed, "acknowledged": [*acknowledged, "last"], "repairs": _repairs(path)}


def _killed(writer: Writer) -> bytes:
    os.kill(writer.pid, signal.SIGKILL)
    os.waitpid(writer.pid, 0)
    said = writer.said()
    os.close(writer.pipe)
    return said


def _repairs(path: Path) -> int:
    torn = path.with_name(path.name + ".torn")
    return torn.read_bytes().count(b"\n") if torn.exists() else 0


def measure(path: Path, processes: int, lines: int) -> dict[str, Any]:
    """Append lines of a kilobyte from several processes at once; return what an append takes and lines a second."""
    log = RequestLog(Settings(log_file=str(path)))

    def work(name: int) -> Callable[[int], None]:
        def run(pipe: int) -> None:
            times = []
            for number in range(lines):
                record = {"request_id": f"{name}-{number}", "text": "x" * 960}
                began = time.perf_counter()
                log.append(record)
                times.append(time.perf_counter() - began)
            os.write(pipe, json.dumps(statistics.median(times)).encode())

        return run

    began = time.perf_counter()
    writers = [Writer(work(name)) for name in range(processes)]
    for writer in writers:
        os.waitpid(writer.pid, 0)
    seconds = time.perf_counter() - began
    medians = [float(writer.said()) for writer in writers]
    return {"p50": statistics.median(medians), "lines_per_second": processes * lines / seconds}


def main(what: str, path: str, first: str, second: str, breakage: str | None = None) -> None:
    if breakage:
        breakages.NAMED[breakage]()
    print(json.dumps({"kill": kill, "measure": measure}[what](Path(path), int(first), int(second))))


if __name__ == "__main__":
    main(*sys.argv[1:])
