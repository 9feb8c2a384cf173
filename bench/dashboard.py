"""What the dashboard costs with a month's log: counting it once, what its numbers take beside it, each question."""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llm_api import Settings, create_app
from llm_api.log import recent

from . import harness

DAYS = 30
QUESTIONS: dict[str, dict[str, str | int]] = {
    "the last hour": {"minutes": 60},
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


def _cpu(do: Callable[[], object]) -> float:
    began = time.process_time()
    do()
    return time.process_time() - began


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _count(dashboard: recent.Dashboard, client: Any) -> None:
    while client.get("/dashboard/data?minutes=600000").json["complete_since"]:
        dashboard.count_on()


def measure(path: Path, lines: int) -> None:
    """Print what it takes."""
    recent.BREAK_SECONDS = recent.PAUSE_SECONDS = 0
    recent.EVERY_SECONDS = 1e6  # it is counted here
    app = create_app(Settings(log_file=str(path)))
    client = app.test_client()
    client.get("/health/live")
    before = _megabytes()
    counting = _cpu(lambda: _count(app.extensions["llm_api"]["llm_api"].dashboard, client))
    kept = path.with_name(path.name + ".numbers").stat().st_size
    size = path.stat().st_size
    rows = []
    for name, query in QUESTIONS.items():
        taken = sorted(_cpu(lambda q=query: client.get("/dashboard/data", query_string=q)) for _ in range(5))
        rows.append([name, harness.number(taken[2] * 1e3)])
    told = (
        f"### {lines:,} lines of 30 days ({size / 1e6:,.0f} MB)\n\n"
        f"Counted once: {counting:.3g} s of a processor, {counting / lines * 1e6:.3g} µs a line. "
        f"Kept: {kept / 1e6:,.3g} MB, {kept / size:.1%} of the log. "
        f"Memory: {_megabytes() - before:.0f} MB more than before, at most.\n\n"
    )
    harness.publish(f"dashboard-{lines}", told + harness.table(["question", "ms of a processor"], rows))


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
