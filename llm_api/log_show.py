"""Records and numbers as a terminal, a spreadsheet or curl wants them."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Iterable
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

import click

from . import strict_json
from .log_files import Damage, Record, parse
from .log_stats import Group, Stats

if TYPE_CHECKING:
    from rich.table import Table

EXCERPT_CHARS = 60
COLOURS = {"ok": "green", "error": "red", "aborted": "yellow"}
BAR_CELLS = 30
CSV_FIELDS = (
    *("timestamp", "request_id", "operation", "backend", "requested_backend", "model", "request_model"),
    *("prompt", "system", "messages", "response", "parameters", "input_tokens", "output_tokens", "finish_reason"),
    *("stream", "duration_ms", "time_to_first_chunk_ms", "status", "http_status", "error", "fallback"),
    *("fallback_reason", "attempts", "client_ip", "schema_version"),
)


def show_line(data: bytes, as_json: bool) -> None:
    """Print one line of the log: as it is, or as a person reads it."""
    record = parse(data)
    if as_json or record is None:
        click.echo(data.decode("ascii", "backslashreplace"))
    else:
        click.echo(_summary(record))


def _summary(record: Record) -> str:
    when = datetime.fromtimestamp(record["timestamp"]).strftime("%Y-%m-%d %H:%M:%S")
    status = str(record.get("status"))
    parts = [
        when,
        click.style(f"{status} {record.get('http_status')}", fg=COLOURS.get(status)),
        printable(f"{record.get('backend') or '-'}/{record.get('model') or '-'}"),
        f"{record.get('duration_ms', 0):.0f} ms",
        f"{_dash(record.get('input_tokens'))}+{_dash(record.get('output_tokens'))} tokens",
        str(record.get("request_id")),
    ]
    if record.get("fallback"):
        parts.append(click.style(f"fallback: {record.get('fallback_reason')}", fg="yellow", bold=True))
    if error := record.get("error"):
        parts.append(click.style(str(error.get("code")), fg="red"))
    return "  ".join([*parts, _excerpt(record)])


def _excerpt(record: Record) -> str:
    turns = record.get("messages") or []
    said = record.get("prompt") or (turns[-1].get("content") if turns else None)
    return printable(f"{_short(said)} -> {_short(record.get('response'))}")


def _short(text: str | None) -> str:
    words = " ".join((text or "-")[: 2 * EXCERPT_CHARS].split())
    return words if len(words) <= EXCERPT_CHARS else words[: EXCERPT_CHARS - 1] + "…"


def _dash(value: object) -> str:
    return "-" if value is None else str(value)


def printable(text: str) -> str:
    """Replace what would steer a terminal: a model's answer is a stranger's text."""
    return "".join(char if char.isprintable() else "�" for char in text)


def show_stats(stats: Stats, as_json: bool) -> None:
    """Print the numbers: a table of the backends, and the latency over time as bars."""
    if as_json:
        click.echo(strict_json.dumps(stats.numbers()))
        return
    from rich.console import Console  # here and below: it takes a sixth of the package's import time

    console = Console(highlight=False)
    console.print(_backends_table(stats))
    if stats.total.requests:
        console.print()
        console.print(_time_table(stats))


def _backends_table(stats: Stats) -> Table:
    table = _table("backend", "requests", "errors", "aborted", "fallbacks", "p50 ms", "p95 ms", "p99 ms", "tokens/s")
    for name, group in [*sorted(stats.backends.items()), ("all", stats.total)]:
        table.add_row(printable(name), *_cells(group))
    return table


def _table(name: str, *numbers: str) -> Table:
    from rich.table import Table

    table = Table(name, box=None, padding=(0, 1, 0, 0), header_style="bold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _cells(group: Group) -> list[str]:
    numbers = group.numbers()
    share = f"{group.fallbacks} ({numbers['fallback_share']:.1%})"
    counts = [str(group.requests), str(group.errors), str(group.aborted), share]
    return counts + [_dash(numbers[name]) for name in ("p50_ms", "p95_ms", "p99_ms", "tokens_per_second")]


def _time_table(stats: Stats) -> Table:
    table = _table("from", "requests", "p50 ms", "p95 ms")
    table.add_column("latency: █ p50, ░ p95", no_wrap=True)
    slots = stats.numbers()["over_time"]
    longest = max(slot["p95_ms"] or 0 for slot in slots) or 1
    for slot in slots:
        when = datetime.fromtimestamp(slot["timestamp"]).strftime("%m-%d %H:%M:%S")
        latencies = [slot["p50_ms"], slot["p95_ms"]]
        table.add_row(when, str(slot["requests"]), *map(_dash, latencies), _bar(longest, *latencies))
    return table


def _bar(longest: float, p50: float | None, p95: float | None) -> str:
    if p50 is None or p95 is None:
        return ""
    full, light = (max(1, round(value / longest * BAR_CELLS)) for value in (p50, p95))
    return "█" * full + "░" * (light - full)


def show_damage(damage: Damage, as_json: bool) -> None:
    """Print what is wrong with the log, a place a line."""
    report = {
        "lines": damage.lines,
        "broken": [f"{place.file}:{place.number}" for place in damage.broken],
        "duplicates": [f"{place.file}:{place.number}" for place in damage.duplicates],
    }
    if as_json:
        click.echo(strict_json.dumps(report))
        return
    for place in damage.broken:
        click.echo(f"{place.file}:{place.number}: no record")
    for place in damage.duplicates:
        click.echo(f"{place.file}:{place.number}: stands there already")
    click.echo(f"{damage.lines} lines, {len(damage.broken)} broken, {len(damage.duplicates)} twice")


def curl_line(record: Record, url: str) -> str:
    """Return the curl line that sends a record's request again. Raises ClickException where its text was not kept."""
    kept = {name: value for name in ("prompt", "system", "messages") if (value := record.get(name)) is not None}
    if not kept.keys() & {"prompt", "messages"} or any(name.endswith("_truncated") for name in record):
        raise click.ClickException("the log has not the whole request (refused, LOG_PROMPTS=false or LOG_MAX_TEXT)")
    more = {"model": record.get("request_model"), "stream": record.get("stream") or None}
    body = kept | record["parameters"] | {name: value for name, value in more.items() if value is not None}
    path = "/generate" if "prompt" in kept else "/v1/chat/completions"
    words = ["curl", url.rstrip("/") + path, "-H", "Content-Type: application/json", "-d", strict_json.dumps(body)]
    return shlex.join(words)


def write_csv(records: Iterable[Record], output: IO[str]) -> None:
    """Write records as CSV, nested fields as JSON; what a spreadsheet would run as a formula gets an apostrophe."""
    writer = csv.writer(output)
    writer.writerow(CSV_FIELDS)
    writer.writerows([_cell(record.get(name)) for name in CSV_FIELDS] for record in records)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    return "" if value is None else json.dumps(value)
