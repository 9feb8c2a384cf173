"""Records and numbers as a terminal, a spreadsheet or curl wants them."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import click

from ..log.files import Entry, parse
from ..log.repair import Damage
from ..log.search import calls, json_text, printable, question
from ..web.service import Service

EXCERPT_CHARS = 60
# Linux takes no longer argument than 128 KiB.
MAX_ARGUMENT_CHARS = 100_000
COLOURS = {"ok": "green", "error": "red", "aborted": "yellow"}
BAR_CELLS = 30
ANYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  (nothing is bound here)
BACKEND_HEADINGS = (
    *("backend", "requests", "errors", "aborted", "fallbacks"),
    *("p50 ms", "p95 ms", "p99 ms", "tokens/s"),
)


def counted(number: int, thing: str) -> str:
    """Return `1 key`, `2 keys`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def show_line(data: bytes, as_json: bool) -> None:
    """Print one line of the log: its JSON, or as a person reads it."""
    record = parse(data)
    if record is None:
        click.echo(f"no record: {printable(data.decode(errors='replace'))}", err=True)
    else:
        show_record(record, as_json)


def show_record(record: Entry, as_json: bool) -> None:
    """Print a record in one line."""
    click.echo(json_text(record) if as_json else _summary(record))


def _summary(record: Entry) -> str:
    """The parts are a stranger's text, so each is made printable before it gets its colour."""
    status = str(record.get("status"))
    error = (record.get("error") or {}).get("code")
    usage = (record.get("input_tokens"), record.get("output_tokens"))
    tokens = "" if usage == (None, None) else f"{_dash(usage[0])}+{_dash(usage[1])} tokens"
    fallback = f"fallback: {record.get('fallback_reason')}" if record.get("fallback") else ""
    parts = [
        (datetime.fromtimestamp(record["timestamp"]).strftime("%Y-%m-%d %H:%M:%S"), None),
        (f"{status:<5} {record.get('http_status')}", COLOURS.get(status)),
        (f"{record.get('duration_ms') or 0:>6.0f} ms", None),
        (_answering(record), None),
        (tokens, None),
        (_dash(record.get("request_id")), None),
        (fallback, "yellow"),
        (str(error or ""), "red"),
    ]
    shown = [(printable(text), colour) for text, colour in parts if text]
    excerpt = printable(_excerpt(record))
    if sys.stdout.isatty():  # a request takes two rows there
        room = 2 * shutil.get_terminal_size().columns - sum(len(text) + 2 for text, _ in shown)
        excerpt = excerpt[: max(0, room)]
    return "  ".join(click.style(text, fg=colour) for text, colour in [*shown, (excerpt, None)])


def _answering(record: Entry) -> str:
    if not record.get("backend") and not record.get("attempts"):
        return "(refused)"
    return f"{_dash(record.get('backend') or record.get('requested_backend'))}/{_dash(record.get('model'))}"


def _excerpt(record: Entry) -> str:
    made = calls({"tool_calls": record.get("tool_calls")})
    answer = record.get("response") or ", ".join(made) or record.get("response")
    return f"{_short(question(record))} -> {_short(answer)}"


def _short(text: object) -> str:
    words = " ".join(str(text or "-")[: 2 * EXCERPT_CHARS].split())
    return words if len(words) <= EXCERPT_CHARS else words[: EXCERPT_CHARS - 1] + "…"


def _dash(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    return "-" if value is None else str(value)


def show_stats(numbers: dict[str, Any], as_json: bool) -> None:
    """Print the numbers: a table of the backends, and the latency over time as bars."""
    if as_json:
        click.echo(json_text(numbers))
        return
    _show_table(BACKEND_HEADINGS, _backend_rows(numbers))
    if numbers["total"]["requests"]:
        marks = "█░" if (sys.stdout.encoding or "").lower().startswith("utf") else "#-"
        bars = f"latency: {marks[0]} p50, {marks[1]} p95".ljust(BAR_CELLS)
        click.echo()
        _show_table(("from", "requests", "p50 ms", "p95 ms", bars), _time_rows(numbers["over_time"], marks))


def _show_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns, the first one's text to the left; a terminal gets no more than it is wide."""
    table = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for number, (name, *others) in enumerate(table):
        cells = [name.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        click.echo(click.style(" ".join(cells).rstrip()[:room], bold=number == 0 or None))


def _backend_rows(numbers: dict[str, Any]) -> Iterator[list[str]]:
    refused = {"(refused)": numbers["refused"]} if numbers["refused"]["requests"] else {}
    for name, group in {**numbers["backends"], **refused, "all": numbers["total"]}.items():
        counts = [*(str(group[name]) for name in ("requests", "errors", "aborted")), f"{group['fallback_share']:.1%}"]
        times = [_dash(group[name]) for name in ("p50_ms", "p95_ms", "p99_ms", "tokens_per_second")]
        yield [printable(name), *counts, *times]


def _time_rows(slots: list[dict[str, Any]], marks: str) -> Iterator[list[str]]:
    longest = max(slot["p95_ms"] or 0 for slot in slots) or 1
    for slot in slots:
        when = datetime.fromtimestamp(slot["timestamp"]).strftime("%m-%d %H:%M:%S")
        latencies = [slot["p50_ms"], slot["p95_ms"]]
        yield [when, str(slot["requests"]), *map(_dash, latencies), _bar(marks, longest, *latencies).ljust(BAR_CELLS)]


def _bar(marks: str, longest: float, p50: float | None, p95: float | None) -> str:
    if p50 is None or p95 is None:
        return ""
    full, light = (max(1, round(value / longest * BAR_CELLS)) for value in (p50, p95))
    return marks[0] * full + marks[1] * (light - full)


def show_damage(damage: Damage, as_json: bool) -> None:
    """Print what is wrong with the log, a place a line."""
    broken, duplicated = ([*map(str, places)] for places in (damage.broken, damage.duplicates))
    if as_json:
        click.echo(json_text({"lines": damage.lines, "broken": broken, "duplicates": duplicated}))
        return
    for place in broken:
        click.echo(f"{place}: no record")
    for place in duplicated:
        click.echo(f"{place}: is a duplicate")
    duplicates = counted(len(damage.duplicates), "duplicate")
    click.echo(f"{counted(damage.lines, 'line')}, {len(damage.broken)} broken, {duplicates}")


def curl_line(record: Entry, url: str | None, service: Service) -> str:
    """Return the curl line that sends a record's request again, to `url` or to BIND's address and the prefix.

    Raises ClickException where its text was not kept.
    """
    kept = {name: value for name in ("prompt", "system", "messages") if (value := record.get(name)) is not None}
    if not kept.keys() & {"prompt", "messages"} or any(map(_is_cut, [record, *(record.get("messages") or [])])):
        raise click.ClickException(
            "the log does not have the whole request (refused, tools, images, LOG_PROMPTS=false or LOG_MAX_TEXT)"
        )
    more = {"model": record.get("request_model"), "stream": record.get("stream") or None}
    body = kept | record["parameters"] | {name: value for name, value in more.items() if value is not None}
    path = "/generate" if "prompt" in kept else "/v1/chat/completions"
    host, _, port = service.settings.bind.rpartition(":")
    by_socket = ["--unix-socket", port] if host == "unix" and not url else []
    address = "localhost" if by_socket else f"{ANYWHERE.get(host, host)}:{port}"
    url = url or f"http://{address}{service.prefix}"
    words = ["curl", url.rstrip("/") + path, *by_socket, "-H", "Content-Type: application/json", "-d"]
    data = json_text(body)
    if len(data) <= MAX_ARGUMENT_CHARS:
        return shlex.join([*words, data])
    return f"{shlex.join([*words, '@-'])} <<'END'\n{data}\nEND"


def _is_cut(part: Any) -> bool:
    cut = (
        *("prompt_truncated", "system_truncated", "system_chars", "content_truncated", "content_chars"),
        *("tools", "images", "tool_call_id"),  # of which the log has names and sums only
    )
    return not isinstance(part, dict) or not part.keys().isdisjoint(cut)
