"""`flask llm logs …`: reading the log."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar

import click
from flask.cli import AppGroup

from ..log.files import (
    Entry,
    began,
    ended,
    follow,
    last_lines,
    last_lines_of,
    log_files,
    open_unbuffered,
    read_lines,
    read_records,
)
from ..log.repair import set_aside
from ..log.repair import verify as find_damage
from ..log.search import Wanted, csv_lines, json_text
from ..log.stats import Stats
from ..log.writer import RequestLog
from ..web.service import service
from .show import curl_line, show_damage, show_line, show_record, show_stats

logs = AppGroup("logs", help="Read the log, with what rotation left of it.")

POLL_SECONDS = 0.2
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

Command = TypeVar("Command", bound=Callable[..., object])


def moment(text: str) -> float:
    """Read a time as ISO 8601 (local where it names no zone), or how long ago: 90s, 15m, 2h, 7d."""
    if ago := re.fullmatch(r"(\d+)([smhd])", text):
        return time.time() - int(ago[1]) * UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        how = "write 2026-11-23, 2026-11-23T14:00, or 90s, 15m, 2h, 7d ago"
        raise click.BadParameter(f"{text!r} is not a time: {how}") from None


def pattern(text: str) -> re.Pattern[str]:
    """Read a regular expression."""
    try:
        return re.compile(text)
    except re.error as error:
        raise click.BadParameter(f"{text!r} is not a regular expression: {error}") from None


def status(text: str) -> str:
    """Read how a request ended."""
    if not re.fullmatch(r"ok|error|aborted|[1-5]\d\d", text):
        raise click.BadParameter(f"{text!r} is not a status: write ok, error, aborted, or an HTTP status such as 502")
    return text


def wanted_options(command: Command) -> Command:
    """Give a command the options that choose records; it gets them as the keywords of Wanted."""
    options = (
        click.option("--text", help="Only requests that contain this text, upper or lower case."),
        click.option("--regex", type=pattern, help="Only requests whose texts match."),
        click.option("--backend", help="Only requests that this backend answered, or was to answer."),
        click.option("--model", help="Only requests that this model answered."),
        click.option("--operation", help="Only generate, chat, completion, response, message or embedding."),
        click.option("--error", metavar="CODE", help="Only requests that ended with this error."),
        click.option("--reason", help="Only those that another backend answered for this reason."),
        click.option("--caller", help="Only those of the caller with this name."),
        click.option("--status", type=status, help="Only ok, error, aborted, or an HTTP status."),
        click.option("--since", type=moment, help="2026-11-23T14:00, or 90s, 15m, 2h, 7d ago."),
        click.option("--until", type=moment, help="As --since."),
        click.option("--slower-than", "slower_than_ms", type=float, metavar="MS", help="Only slower ones."),
        click.option("--fallbacks", is_flag=True, help="Only those that another backend answered."),
    )
    for option in reversed(options):
        command = option(command)
    return command


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


@logs.command()
@click.option("-n", "--lines", type=click.IntRange(0), default=10, show_default=True, help="How many to begin with.")
@click.option("-f", "--follow", "following", is_flag=True, help="Go on with each new one, over rotation.")
@as_json
def tail(lines: int, following: bool, as_json: bool) -> None:
    """Show the last requests, a line each."""
    path = request_log().path
    files = all_files(needed=not following)
    # Ctrl-C is how one stops following
    with suppress(KeyboardInterrupt), open_unbuffered(path) if path in files else nullcontext() as live:
        added = follow(path, lambda: time.sleep(POLL_SECONDS), live) if following else ()
        for data in chain(_last(files, live, lines), added):
            show_line(data, as_json)


def _last(files: list[Path], live: IO[bytes] | None, count: int) -> list[bytes]:
    lines = last_lines_of(live, count) if live else []
    for file in reversed(files[:-1] if live else files):
        if len(lines) < count:
            lines = last_lines(file, count - len(lines)) + lines
    return lines


@logs.command()
@wanted_options
@as_json
def search(as_json: bool, **wanted: Any) -> None:
    """Show the requests that fit all the options."""
    with chosen(wanted, hidden=sys.stdout.isatty()) as records:
        for record in records:
            show_record(record, as_json)


@logs.command()
@click.argument("request_id")
@click.option("--curl", is_flag=True, help="Print the request as a curl line (without fallback and details).")
@click.option("--url", help="Where --curl sends it; by default to BIND.")
def show(request_id: str, curl: bool, url: str | None) -> None:
    """Show the whole record of a request."""
    needle = request_id.encode()
    lines = (line for line in read_lines(all_files()) if needle in line.data)
    records = [record for record in read_records(lines) if record.get("request_id") == request_id]
    if not records:
        raise click.ClickException(f"no request in the log has the id {request_id}")
    for record in records:  # a client may repeat its id
        click.echo(curl_line(record, url, service()) if curl else json_text(record, indent=2))


@logs.command()
@wanted_options
@as_json
def stats(as_json: bool, **wanted: Any) -> None:
    """Count requests, errors, latency, tokens."""
    files = all_files()
    first, last = began(files[0]), ended(files[-1])
    counted = Stats(max(wanted["since"] or first, first), min(wanted["until"] or last, last))
    with chosen(wanted) as records:
        for record in records:
            counted.count(record)
    show_stats(counted.numbers(), as_json)


@logs.command()
@click.option("--repair", is_flag=True, help="Move broken lines to LOG.torn.")
@as_json
def verify(repair: bool, as_json: bool) -> None:
    """Check that each line is a record, and the only one of its kind. Exit code 1 where not."""
    files, log = all_files(), request_log()
    with progress(files) as advance:
        damage = find_damage(read_lines(files, advance), log.path)
    try:
        if damage.unfinished and log.is_torn():
            damage.broken.append(damage.unfinished)
        show_damage(damage, as_json)
        if repair and (foreign := damage.foreign):
            raise OSError(f"{foreign.file}:{foreign.number} is another program's; give this service its own LOG_FILE")
        if repair and damage.broken:
            for file in {place.file for place in damage.broken}:
                set_aside(file, log.exclusive if file == log.path else nullcontext)
    except OSError as error:
        raise click.ClickException(f"the log can't be locked or repaired: {error}") from error
    sys.exit(bool(damage.duplicates or (damage.broken and not repair)))


@logs.command()
@click.option("--format", "kind", type=click.Choice(["csv", "jsonl"]), default="jsonl", show_default=True)
@click.option("-o", "--output", type=click.File("w", lazy=True), default="-", help="Default: standard output.")
@wanted_options
def export(kind: str, output: IO[str], **wanted: Any) -> None:
    """Write the records with all their fields.

    csv is for spreadsheets: control characters are replaced, and what would be a formula gets an apostrophe.
    """
    with chosen(wanted, hidden=output.isatty()) as records:
        if kind == "csv":
            output.writelines(csv_lines(records))
        else:
            output.writelines(json_text(record) + "\n" for record in records)


def request_log() -> RequestLog:
    """Return the log of the app that the command was started with, or end with an error where none can be read."""
    here = service()
    if here.settings.logs_to_stdout:
        raise click.ClickException("the log goes to standard output (LOG_FILE=-): read it where that is kept")
    return here.log


def all_files(*, needed: bool = True) -> list[Path]:
    """Return the log's files, oldest first, or end with an error where there is none, or they may not be read."""
    path = request_log().path
    try:
        if (files := log_files(path)) or not needed:
            return files
    except PermissionError as error:
        raise click.ClickException(f"you may not read {error.filename}") from None
    raise click.ClickException(f"there is no log at {path} yet (LOG_FILE)")


@contextmanager
def chosen(wanted: dict[str, Any], hidden: bool = False) -> Iterator[Iterator[Entry]]:
    """Give the records that the options choose, oldest first; as `progress`."""
    files = all_files()
    with progress(files, hidden) as advance:
        yield filter(Wanted(**wanted).has, read_records(read_lines(files, advance)))


@contextmanager
def progress(files: list[Path], hidden: bool = False) -> Iterator[Callable[[int], object]]:
    """Show a bar over the bytes of `files` while it takes, if a person is looking and it is not to be `hidden`."""
    size = sum(file.stat().st_size for file in files)
    hidden = hidden or not sys.stderr.isatty()
    with click.progressbar(length=size, label="reading the log", file=sys.stderr, hidden=hidden) as bar:
        yield bar.update
