"""What the dashboard shows: the numbers of the last minutes, which are kept, and single requests, read from the log."""

from __future__ import annotations

import heapq
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, islice
from math import gcd
from pathlib import Path
from typing import Any

from ..errors import LogUnavailable, NoCapacity, TimedOut
from ..settings import Settings
from .files import Entry
from .numbers import DAY, FOR_EVER, HOUR, Numbers, finest, numbers_file, opened, widest
from .search import SLOWEST, Found, Requests, Wanted, csv_lines, question
from .stats import TOKENS, Stats
from .writer import Turn

MAX_MINUTES = 366 * 24 * 60
# How long a stretch of the charts may be, in seconds: so that there are 30 or fewer, beside one that has just begun.
STRETCHES = (
    *(60, 120, 300, 600, 900, 1800),
    *(HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR),
    *(DAY, 2 * DAY, 7 * DAY, 14 * DAY),
)
MOST_STRETCHES = 30
LATEST, SAME_ID = 50, 10
CSV_ROWS = 10_000
# Of callers to choose from the first.
CALLERS = 1000
EXCERPT_CHARS = 200
# What a question waits for lines to be counted that it needs and nobody has counted yet.
COUNT_SECONDS = 1.0
# How often is counted when nobody asks. While there is much to count, others come to their turn in the breaks.
EVERY_SECONDS = 10.0
SAME_FILES_SECONDS = 60.0
PAUSE_SECONDS, BREAK_SECONDS = 0.002, 0.1
# A reader holds a thread; the other threads answer everything else.
READERS = 5
ROW = (
    *("timestamp", "request_id", "operation", "backend", "requested_backend", "model", "status", "http_status"),
    *("duration_ms", "time_to_first_chunk_ms", *TOKENS, "fallback_reason", "caller"),
)
# The fields that hold words of the caller or the answer, at any depth.
WORDS = {
    *("prompt", "system", "content", "text", "name", "url", "response", "reasoning", "arguments", "message"),
    *("stop", "response_format"),
}


Check = Callable[[], object]


class Dashboard:
    """Reads one log. Shared by all threads. A question's `check` is called again and again: it raises TimedOut when the
    question has taken long enough, and another error when nobody waits for the answer any more.

    All questions raise NoCapacity when too many are asked at once, LogUnavailable where there is nothing to read.
    """

    def __init__(self, settings: Settings) -> None:
        self._log = Path(settings.log_file)
        self._to_stdout = settings.logs_to_stdout
        self._hides = not settings.log_prompts
        self._readers = Turn(threading.Semaphore(READERS), 0)
        self._counts_in = 0

    def begin(self) -> None:
        """Count on every few seconds, in a thread of this process, where somebody has looked at the log before."""
        if self._counts_in != os.getpid() and os.access(numbers_file(self._log), os.F_OK):  # Path's raises
            self._counts_in = os.getpid()
            threading.Thread(
                target=_keep_counting, args=[weakref.ref(self)], name="llm-api-numbers", daemon=True
            ).start()

    def count_on(self) -> None:
        """Count what is not counted yet, in moderation."""
        end = time.monotonic() + SAME_FILES_SECONDS
        with suppress(OSError, sqlite3.Error), opened(self._log) as numbers:
            while numbers.count_on(pause=lambda: time.sleep(PAUSE_SECONDS)) and time.monotonic() < end:
                time.sleep(BREAK_SECONDS)

    def data(self, minutes: int, wanted: Wanted, check: Check, *, only_own: bool) -> dict[str, Any]:
        """Return the numbers of the last `minutes`, or of those before `wanted.until`, a whole minute, and the latest
        and the slowest requests: docs/api.md has all.
        """
        until = wanted.until or time.time()
        since, width = _span(minutes, until)
        stats = Stats(since, until, width)
        by = widest(gcd(width, int(wanted.until or 0)))
        with self._asked(wanted, since, check) as (numbers, requests):
            if is_kept := wanted.text is None and by >= finest(wanted.caller):
                numbers.add_to(stats, since, by, requests.kinds, wanted.until or FOR_EVER)
                latest, slowest = _rows(requests.latest(), LATEST), _rows(requests.slowest(), SLOWEST)
            else:
                latest, slowest = _read(requests, stats)
            complete_since = max(numbers.complete_since(), 0 if is_kept else requests.complete_since())
            return {
                **{"since": since, "until": until, "stretch_seconds": width},
                "complete_since": complete_since if complete_since > since else None,
                "prompts_hidden": self._hides,
                "only_own": only_own,
                "choices": _choices(numbers, wanted.caller) | {"caller": [] if only_own else numbers.callers(CALLERS)},
                "stats": stats.numbers(),
                **{"latest": latest, "slowest": slowest, "more": _more(latest)},
                "rows_left_out": requests.is_cut_short or requests.has_compressed(),
            }

    def more(self, minutes: int, wanted: Wanted, before: str, check: Check) -> dict[str, Any]:
        """Return the latest requests before the place of one that was shown. Raises ValidationFailed on no place."""
        with self._asked(wanted, _span(minutes, wanted.until or time.time())[0], check) as (_, requests):
            rows = _rows(requests.latest(before), LATEST)
            left_out = requests.is_cut_short or requests.has_compressed()
            return {"requests": rows, "more": _more(rows), "rows_left_out": left_out}

    def csv(self, minutes: int, wanted: Wanted, check: Check) -> Iterator[str]:
        """Yield the latest records, at most 10,000, as CSV. Raises TimedOut where that takes too long."""
        with self._asked(wanted, _span(minutes, wanted.until or time.time())[0], check) as (_, requests):
            yield from csv_lines(found.record for found in islice(requests.latest(), CSV_ROWS))
            if requests.is_cut_short:
                raise TimedOut("there are more requests than can be read in time: flask llm logs export has all")

    def records(self, wanted: Wanted, check: Check) -> list[Entry]:
        """Return the latest records that are wanted: a client that chooses ids may use one twice."""
        with self._asked(wanted, 0, check) as (_, requests):
            return [found.record for found in islice(requests.latest(), SAME_ID)]

    @contextmanager
    def _asked(self, wanted: Wanted, since: int, check: Check) -> Iterator[tuple[Numbers, Requests]]:
        if self._to_stdout:
            raise LogUnavailable("the log goes to standard output (LOG_FILE=-), so nothing of it is shown here")
        try:
            with self._readers, opened(self._log) as numbers:
                self.begin()
                _count_back(numbers, since)
                yield numbers, Requests(numbers, wanted, since, self._shown, check)
        except TimeoutError:
            raise NoCapacity("the log is being read for others") from None
        except (OSError, sqlite3.Error) as error:
            name = Path(getattr(error, "filename", None) or numbers_file(self._log)).name
            raise LogUnavailable(f"{name} can't be used: {getattr(error, 'strerror', None) or error}") from None

    def _shown(self, record: Entry) -> Entry:
        # before it is searched: what may not be seen may not be guessed either
        return _without_words(record) if self._hides else record


def _span(minutes: int, until: float) -> tuple[int, int]:
    """Return when the stretches of the last `minutes` begin, and how long each is, in seconds."""
    seconds = min(max(minutes, 1), MAX_MINUTES) * 60
    width = next(width for width in STRETCHES if seconds <= width * MOST_STRETCHES)
    return int(until - seconds) // width * width, width


def _count_back(numbers: Numbers, since: float) -> None:
    """Count what a question since then needs, as far as it may take; while another writes, it is left to that one."""
    end = time.monotonic() + COUNT_SECONDS
    try:
        while numbers.count_on(since) and time.monotonic() < end:
            pass
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise


def _keep_counting(dashboard: weakref.ref[Dashboard]) -> None:
    while here := dashboard():
        here.count_on()
        del here
        time.sleep(EVERY_SECONDS)


def _read(requests: Requests, stats: Stats) -> tuple[list[Entry], list[Entry]]:
    """Count all that is found; return the rows of the latest and the slowest."""

    def counted() -> Iterator[Entry]:
        for found in requests.latest():
            stats.count(found.record)
            yield _row(found)

    rows = counted()
    latest = list(islice(rows, LATEST))
    return latest, heapq.nlargest(SLOWEST, chain(latest, rows), key=lambda row: row["duration_ms"] or 0)


def _rows(requests: Iterator[Found], most: int) -> list[Entry]:
    return [_row(found) for found in islice(requests, most)]


def _row(found: Found) -> Entry:
    record = found.record
    said = question(record)
    row = {name: record.get(name) for name in ROW} | {"error": (record.get("error") or {}).get("code")}
    return row | {"excerpt": said[:EXCERPT_CHARS] if isinstance(said, str) else None, "at": found.at}


def _more(rows: list[Entry]) -> str | None:
    return rows[-1]["at"] if len(rows) == LATEST else None


def _choices(numbers: Numbers, caller: str | None) -> dict[str, list[str]]:
    """Return what there is to filter by, of the requests that may be seen."""
    kinds = list(numbers.kinds(caller).values())
    fields = ("backend", "model", "operation", "error", "reason")
    names = {name: {getattr(kind, name) for kind in kinds} for name in fields}
    names["backend"] |= {kind.requested for kind in kinds}
    return {name: sorted(found - {None}) for name, found in names.items()}


def _without_words(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_words(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: None if name in WORDS else _without_words(item) for name, item in value.items()}
