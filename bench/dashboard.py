"""What the dashboard costs with a month's log: counting it once, what its numbers take beside it, each question."""

from __future__ import annotations

import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

from . import harness
from .services import Service

DAYS = 30
# As the dashboard does.
REFRESH_SECONDS = 5
LOOK_SECONDS = 0.5
TIMES = 20
Query = dict[str, str | int]
QUESTIONS: dict[str, Query] = {
    "the last hour": {"minutes": 60},
    "six hours": {"minutes": 6 * 60},
    "a day": {"minutes": 24 * 60},
    "a week": {"minutes": 7 * 24 * 60},
    "30 days": {"minutes": DAYS * 24 * 60},
    "30 days of a model": {"minutes": DAYS * 24 * 60, "model": "two"},
    "30 days of a caller": {"minutes": DAYS * 24 * 60, "caller": "caller-7"},
    "30 days, an error": {"minutes": DAYS * 24 * 60, "error": "timeout"},
    "30 days, a rare text": {"minutes": DAYS * 24 * 60, "text": "needle"},
}


def _kinds(dice: random.Random) -> Iterator[str]:
    """Yield what stands in a line behind its times and id: 500 that differ in all that is counted."""
    prompt = {"prompt": "What is the capital of France? " * 6, "system": None, "response": "It is Paris. " * 12}
    for _ in range(500):
        backend, failed = dice.choice(["openai", "ollama", "huggingface"]), dice.random() < 0.03
        said: dict[str, Any] = {
            **{"operation": dice.choice(["chat", "message", "generate"]), "backend": backend},
            **{"requested_backend": backend, "model": dice.choice(["one", "two"]), "request_model": None, **prompt},
            **{"parameters": {}, "input_tokens": 60, "output_tokens": None if failed else 40, "finish_reason": "stop"},
            **{"stream": False, "status": "error" if failed else "ok", "http_status": 504 if failed else 200},
            **{"error": {"type": "x", "code": "timeout", "message": "x"} if failed else None, "fallback": False},
            **{"fallback_reason": None, "attempts": [{"backend": backend, "outcome": "ok", "duration_ms": 700.0}]},
            **{"client_ip": "127.0.0.1", "caller": f"caller-{dice.randrange(20)}", "trace_id": None},
            "schema_version": 2,
        }
        yield json.dumps(said)[1:]


def write(path: Path, lines: int) -> None:
    """Write a log of the last 30 days."""
    dice, now = random.Random(1), time.time()
    kinds = list(_kinds(dice))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as log:
        for number in range(lines):
            at = now - DAYS * 86_400 * (1 - number / lines)
            took = dice.lognormvariate(6.5, 1)
            times = f'"timestamp": {at:.6f}, "duration_ms": {took:.3f}, "time_to_first_chunk_ms": {took / 3:.3f}'
            log.write(f'{{{times}, "request_id": "{number:032x}", {dice.choice(kinds)}\n')


def measure(path: Path, lines: int) -> None:
    """Print what it takes two workers of the service, which a browser asks for the last 30 days meanwhile."""
    settings = {"LLM_BACKEND": "stub", "LOG_FILE": str(path), "WEB_CONCURRENCY": "2"}
    service = Service("the service", (sys.executable, "-m", "gunicorn", "wsgi:app"), settings)
    with service.running(), _largest(service) as largest:
        memory, used, began = [largest()], service.cpu_seconds(), time.perf_counter()
        while _asked(service, QUESTIONS["30 days"])["complete_since"]:
            time.sleep(REFRESH_SECONDS)
        took, used = time.perf_counter() - began, service.cpu_seconds() - used
        memory.append(largest())
        kept, size = path.with_name(path.name + ".numbers").stat().st_size, path.stat().st_size
        told = (
            f"### {lines:,} lines of 30 days ({size / 1e6:,.0f} MB)\n\n"
            f"Counted once: {used:.3g} s of a processor ({used / lines * 1e6:.3g} µs a line), {took:.3g} s in all. "
            f"Kept: {kept / 1e6:,.3g} MB, {kept / size:.1%} of the log. "
        )
        print(told, flush=True)
        rows = [[name, *_taken(service, query)] for name, query in QUESTIONS.items()]
        memory.append(largest())
    most = "The largest process: {:.0f} MB before, {:.0f} MB while it counts, {:.0f} MB while it is asked.\n\n"
    table = harness.table(["question", "ms", "ms of a processor"], rows)
    harness.publish(f"dashboard-{lines}", told + most.format(*memory) + table)


@contextmanager
def _largest(service: Service) -> Iterator[Callable[[], float]]:
    """Give what returns the most memory in MB (PSS) that one process had since it was asked before."""
    ended, seen = threading.Event(), list[float]()

    def look() -> None:
        while not ended.wait(LOOK_SECONDS):
            seen.extend(service.memories())

    def most() -> float:
        found = max([*seen, *service.memories()])
        seen.clear()
        return found

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield most
    finally:
        ended.set()
        watching.join()


def _taken(service: Service, query: Query) -> list[str]:
    """Return the median of a question's milliseconds, and the mean of the processor's, of several times."""
    used, taken = service.cpu_seconds(), []
    for _ in range(TIMES):
        began = time.perf_counter()
        _asked(service, query)
        taken.append(time.perf_counter() - began)
    used = service.cpu_seconds() - used
    return [harness.number(statistics.median(taken) * 1e3), harness.number(used / TIMES * 1e3)]


def _asked(service: Service, query: Query) -> Any:
    """Return the answer; a refusal is printed, and asked again."""
    address = f"http://127.0.0.1:{service.port}/dashboard/data?{urlencode(query)}"
    while True:
        try:
            with urlopen(address, timeout=60) as answer:
                return json.load(answer)
        except HTTPError as refused:
            print(query, refused.code, refused.read(), flush=True)


def main() -> None:
    """Print the tables."""
    short = harness.is_short(__doc__)
    for lines in (2_000,) if short else (20_000, 200_000, 10_000_000):
        with harness.workshop() as (_, folder):
            path = folder / "logs" / "log.jsonl"
            write(path, lines)
            measure(path, lines)


if __name__ == "__main__":
    main()
