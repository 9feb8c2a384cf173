"""The service against what one would use instead, in front of a far end that costs next to nothing.

Peers: bare Flask that echoes, a hand-made FastAPI service, the far end itself; with BENCH_LITELLM=1 LiteLLM's proxy.
Takes some ten minutes; with --short one round of each row, which only shows that it works.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from . import harness, load, services
from .load import Load
from .services import Service

SLOW_SECONDS = 2.0


@dataclass
class Comparison:
    """The services that run, and the rows so far."""

    short: bool
    far_end: Service
    services: dict[str, Service] = field(default_factory=dict)
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        return 1 if self.short else 5

    @property
    def seconds(self) -> int:
        return 1 if self.short else 3

    def measure(self, measure: Callable[[Service], harness.T], names: Sequence[str]) -> dict[str, list[harness.T]]:
        """Measure the named services that run, in turn."""
        named = [self.services[name] for name in names if name in self.services]
        return harness.interleaved(self.rounds, {s.name: (lambda s=s: measure(s)) for s in named})

    def row(
        self, title: str, aim: str, base: str, values: Mapping[str, Sequence[float]], unit: str, scale: float = 1
    ) -> None:
        """Note a row: each value as a ratio to `base` of the same round, and its median."""
        cells = {name: _cell(taken, values[base], name == base, unit, scale) for name, taken in values.items()}
        self.rows.append([title, aim, *(cells.get(name, "") for name in self.services)])
        print(" | ".join([title, *(f"{name} {cell}" for name, cell in cells.items())]), flush=True)


def _cell(taken: Sequence[float], base: Sequence[float], is_base: bool, unit: str, scale: float) -> str:
    median = f"{harness.number(statistics.median(taken) * scale)} {unit}"
    return f"1 ({median})" if is_base else f"**{harness.ratio(taken, base):.2f}** ({median})"


def _throughput(c: Comparison) -> None:
    names = ["ours", "stub", "bare Flask", "FastAPI", "LiteLLM"]
    taken = c.measure(lambda s: load.load(s, 64, c.seconds), names)
    rates = _of(taken, "per_second")
    c.row("requests/s, far end 0 ms, 64 connections", "≥ 0.55", "bare Flask", rates, "/s")
    c.row("the same against FastAPI", "≥ 4", "FastAPI", rates, "/s")
    c.row("processor time of a request", "≤ 0.25", "FastAPI", _of(taken, "cpu"), "ms", 1e3)
    _note(c, "64 connections", _failed(taken))


def _waiting(c: Comparison) -> None:
    taken = c.measure(lambda s: load.load(s, 256, c.seconds, "wait=0.05"), ["ours", "FastAPI", "LiteLLM"])
    c.row("requests/s, far end 50 ms, 256 connections", "≥ 8", "FastAPI", _of(taken, "per_second"), "/s")
    _note(c, "256 connections", _failed(taken))


def _latency(c: Comparison) -> None:
    calls = 20 if c.short else 300
    taken = c.measure(lambda s: load.seconds_a_call(s, calls), ["ours", "FastAPI", "LiteLLM", "far end"])
    c.row("added to one call, 1 connection, p50", "≤ 0.6", "FastAPI", _added(taken), "ms", 1e3)


def _first_chunk(c: Comparison) -> None:
    def first(service: Service) -> float:
        return statistics.median(
            load.stream(service, "wait=0.02 tokens=12 gap=0.01").first for _ in range(2 if c.short else 10)
        )

    taken = c.measure(first, ["ours", "FastAPI", "far end"])
    c.row("added to a stream's first chunk, p50", "≤ 0.7", "FastAPI", _added(taken), "ms", 1e3)


def _pieces(c: Comparison) -> None:
    many = 100 if c.short else 1_000
    for title, gap, base, aim in (
        ("processor time of a streamed piece, one in 5 ms", 0.005, "bare WSGI", "≤ 1.4"),
        ("the same, as fast as they come", 0, "FastAPI", "≤ 0.4"),
    ):
        names = ["ours", "/v1 before /v1", "bare WSGI", "FastAPI"]
        taken = c.measure(lambda s, each=gap: load.cpu_a_piece(s, many, each), names)
        c.row(title, aim, base, taken, "µs", 1e6)


def _at_once(c: Comparison) -> None:
    for clients, aim in ((50, "≤ 1.15"),) if c.short else ((500, "≤ 1.15"), (1000, "≤ 1.3")):
        names = ["ours", "FastAPI", "far end"]
        taken = c.measure(lambda s, n=clients: load.burst(s, n, SLOW_SECONDS), names)
        seconds = {name: [took for took, _ in values] for name, values in taken.items()}
        c.row(f"{clients:,} clients at once, far end 2 s, until all are done", aim, "far end", seconds, "s")
        _note(c, f"{clients:,} clients", {name: sum(lost for _, lost in values) for name, values in taken.items()})


def _start(c: Comparison) -> None:
    def start(service: Service) -> float:
        service.stop()
        return service.start()

    names = ["ours", "FastAPI", "LiteLLM"]
    c.row("cold start to the first 200", "≤ 0.5", "FastAPI", c.measure(start, names), "s")
    memory = {name: [c.services[name].memory()] for name in names if name in c.services}
    c.row("idle memory (PSS), after one request", "≤ 0.6", "FastAPI", memory, "MB")


def _installed(c: Comparison) -> None:
    sizes = {"ours": "core", "FastAPI": "fastapi", "LiteLLM": "litellm"}
    sizes = {name: environment for name, environment in sizes.items() if name in c.services}
    values = {name: [harness.installed_megabytes(environment)] for name, environment in sizes.items()}
    c.row("installed packages", "≤ 25 MB", "FastAPI", values, "MB")


def _of(taken: Mapping[str, Sequence[Load]], what: str) -> dict[str, list[float]]:
    return {name: [getattr(each, what) for each in loads] for name, loads in taken.items()}


def _note(c: Comparison, where: str, failed: Mapping[str, int]) -> None:
    """Say who did not answer everybody; what is refused with 503 counts as well."""
    if said := ", ".join(f"{name} {count:,}" for name, count in failed.items() if count):
        c.notes.append(f"Refused or failed, {where}: {said}.")
        print("  " + c.notes[-1], flush=True)


def _failed(taken: Mapping[str, Sequence[Load]]) -> dict[str, int]:
    return {name: sum(each.failed for each in loads) for name, loads in taken.items()}


def _added(taken: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    direct = taken["far end"]
    return {
        name: [value - least for value, least in zip(values, direct, strict=True)]
        for name, values in taken.items()
        if name != "far end"
    }


def _services(far_end: Service, folder: Path) -> list[Service]:
    made = [
        services.ours("ours", far_end, folder),
        services.ours("stub", far_end, folder, LLM_BACKEND="stub"),
        services.chat(far_end, folder),
        services.flask_echo(),
        services.pass_through(far_end),
        services.fastapi(far_end, folder),
    ]
    return [*made, services.litellm(far_end, folder)] if os.environ.get("BENCH_LITELLM") else made


def compare(short: bool, stack: ExitStack, folder: Path) -> Comparison:
    """Take all rows."""
    far_end = stack.enter_context(services.provider().running())
    comparison = Comparison(short, far_end)
    for service in _services(far_end, folder):
        comparison.services[service.name] = stack.enter_context(service.running())
        load.load(service, 16, 1)  # what is imported and cached at first use
    comparison.services[far_end.name] = far_end
    for rows in (_throughput, _waiting, _latency, _first_chunk, _pieces, _at_once, _start, _installed):
        rows(comparison)
    return comparison


def main() -> None:
    """Print the table."""
    short = harness.is_short(__doc__)
    load.require_wrk()
    with harness.workshop() as (stack, folder):
        done = compare(short, stack, folder)
    head = ["", "aim", *done.services]
    harness.publish("compare", harness.table(head, done.rows) + "".join(f"\n{note}" for note in done.notes))


if __name__ == "__main__":
    main()
