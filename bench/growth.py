"""How the cost grows with the prompt, the answer, the log and the clients: a table and a picture each (docs/bench)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from llm_api import Settings
from llm_api.log.writer import RequestLog

from . import harness, load, services
from .services import Service

# Whatever the size, it is taken and logged whole.
LARGE = {"MAX_PROMPT_CHARS": "2000000", "MAX_BODY_BYTES": "3000000", "LOG_MAX_TEXT": "2000000"}

Lines = dict[str, dict[float, float]]


def _publish(name: str, what: str, unit: str, lines: Lines, *, log_y: bool = True, note: str = "") -> None:
    sizes = list(next(iter(lines.values())))
    rows = [[label, *(harness.number(points[size]) for size in sizes)] for label, points in lines.items()]
    table = harness.table([what, *(f"{size:,.0f}" for size in sizes)], rows)
    parts = (f"### {unit}", note, table.rstrip(), f"![{unit}, by {what}](growth-{name}.png)\n")
    harness.publish(f"growth-{name}", "\n\n".join(filter(None, parts)))
    harness.plot(f"growth-{name}", what, unit, lines, log_y=log_y)


def prompts(servers: Mapping[str, Service], short: bool) -> None:
    """One call with a longer and longer prompt."""
    lines: Lines = {name: {} for name in servers}
    for size in (1_000, 10_000, 100_000, 1_000_000):
        calls = {
            name: lambda s=service, n=size: load.seconds_a_call(s, 2 if short else 20, "x" * n)
            for name, service in servers.items()
        }
        for name, taken in harness.interleaved(1 if short else 5, calls).items():
            lines[name][size] = statistics.median(taken) * 1e3
    _publish("prompts", "characters of the prompt", "ms a call", lines)


def answers(servers: Mapping[str, Service], short: bool) -> None:
    """A longer and longer stream, and what the service's memory grows by meanwhile."""
    lines: Lines = {name: {} for name in servers}
    memory: Lines = {name: {} for name in servers}
    for tokens in (10, 1_000) if short else (10, 100, 1_000, 10_000, 100_000):
        for name, service in servers.items():
            before = service.peak_memory()
            streams = {name: lambda s=service, n=tokens: load.stream(s, f"tokens={n}").whole}
            lines[name][tokens] = statistics.median(harness.interleaved(1 if short else 3, streams)[name]) * 1e3
            memory[name][tokens] = service.peak_memory() - before
    _publish("answers", "tokens streamed", "ms an answer", lines)
    _publish("memory", "tokens streamed", "MB more than before, at most", memory, log_y=False)


def logs(folder: Path, short: bool) -> None:
    """The same line, appended to a larger and larger log: sparse, so that it takes no disk."""
    sizes = (10**6, 10**7, 10**8, 10**9, 10**10)
    appends = {
        size: lambda n=size: _seconds_a_line(folder / "large.jsonl", n, 100 if short else 1_000) for size in sizes
    }
    taken = harness.interleaved(1 if short else 9, appends)
    line = {size / 1e6: statistics.median(seconds) * 1e6 for size, seconds in taken.items()}
    _publish("logs", "MB in the log", "µs a line", {"one line": line}, log_y=False)


def _seconds_a_line(path: Path, size: int, lines: int) -> float:
    with path.open("wb") as file:
        file.seek(size - 3)
        file.write(b"{}\n")
    log, took = RequestLog(Settings(log_file=str(path))), []
    for _ in range(lines):
        began = time.perf_counter()
        log.append({"prompt": "x" * 1000})
        took.append(time.perf_counter() - began)
    path.unlink()
    return statistics.median(took)


def clients(servers: Mapping[str, Service], short: bool) -> None:
    """More and more clients that ask over and over, with a far end that takes 50 ms."""
    rates: Lines = {name: {} for name in servers}
    late: Lines = {name: {} for name in servers}
    for connections in (1, 100) if short else (1, 3, 10, 30, 100, 300, 1000):
        loads = {
            name: lambda s=service, n=connections: load.load(s, n, 1 if short else 5, "wait=0.05")
            for name, service in servers.items()
        }
        for name, taken in harness.interleaved(1 if short else 3, loads).items():
            rates[name][connections] = statistics.median(each.per_second for each in taken)
            late[name][connections] = statistics.median(each.p99 for each in taken) * 1e3
    note = "The far end takes 50 ms."
    _publish("clients", "clients at once", "requests/s", rates, note=note)
    _publish("p99", "clients at once", "ms, p99", late, note=note)


def measure(short: bool, stack: ExitStack, folder: Path) -> None:
    """Take all of them."""
    far_end = stack.enter_context(services.provider().running())
    servers = {
        "ours": services.ours("ours", far_end, folder, **LARGE),
        "FastAPI": services.fastapi(far_end, folder),
    }
    for server in servers.values():
        stack.enter_context(server.running())
        load.load(server, 16, 1)  # what is imported and cached at first use
    logs(folder, short)
    prompts(servers, short)
    answers(servers, short)
    clients(servers, short)


def main() -> None:
    """Print the tables."""
    short = harness.is_short(__doc__)
    load.require_wrk()
    with harness.workshop() as (stack, folder):
        measure(short, stack, folder)


if __name__ == "__main__":
    main()
