"""What the dashboard shows: the numbers of the last minutes, and single requests, read back from the log's end."""

from __future__ import annotations

import heapq
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import LogUnavailable, NoCapacity
from ..settings import Settings
from .files import Entry, log_files, newest_first, parse, read_lines, read_records
from .search import Wanted, question
from .stats import Stats

MAX_MINUTES = 366 * 24 * 60
# What is read at most: a second or so of one processor, whatever the log's size.
MAX_BYTES = 64 * 2**20
LATEST, SLOWEST, SAME_ID = 50, 20, 10
EXCERPT_CHARS = 200
# An answer is kept so long, and ten times as long as it took: viewers cost a tenth of one processor at most.
FRESH_SECONDS = 5.0
FRESH_FACTOR = 10
KEPT_ANSWERS = 16
PATIENCE_SECONDS = 10.0
# A reader holds a thread, and so does a request that waits for it; the other threads answer everything else.
READERS = 5
# Behind so much that is too old the rest is too old as well; behind less, a clock may have gone back.
OLDER_BYTES = 2**18
ROW = (
    *("timestamp", "request_id", "operation", "backend", "requested_backend", "model", "status", "http_status"),
    *("duration_ms", "time_to_first_chunk_ms", "input_tokens", "output_tokens", "fallback_reason"),
)
# The fields that hold words of the caller or the answer, at any depth.
WORDS = {"prompt", "system", "content", "response", "stop", "response_format", "message"}

Key = tuple[object, ...]


class Dashboard:
    """Reads one log. Shared by all threads: the same question within a few seconds is answered by one reading."""

    def __init__(self, settings: Settings) -> None:
        self._path = Path(settings.log_file)
        self._settings = settings
        self._hides = not settings.log_prompts
        self._reading = threading.Lock()
        self._readers = threading.BoundedSemaphore(READERS)
        self._answers: OrderedDict[Key, tuple[float, dict[str, Any]]] = OrderedDict()

    def data(
        self, minutes: int, backend: str | None, status: str | None, text: str | None, caller: str | None = None
    ) -> dict[str, Any]:
        """Return the numbers of the last `minutes` and single requests, of `caller` or of all; `complete_since` where
        the log has more than was read. `status` may be `fallback` too. Raises NoCapacity when others' questions take
        too long, LogUnavailable where there is nothing to read.
        """
        minutes = min(max(minutes, 1), MAX_MINUTES)
        key = (minutes, backend, status, text, caller)
        with self._turn():
            fresh_until, answer = self._answers.get(key, (0.0, {}))
            started = time.monotonic()
            if started >= fresh_until:
                answer = self._read(*key)
                took = time.monotonic() - started
                self._answers[key] = (time.monotonic() + max(FRESH_SECONDS, FRESH_FACTOR * took), answer)
            self._answers.move_to_end(key)
            while len(self._answers) > KEPT_ANSWERS:
                self._answers.popitem(last=False)
            return answer

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._settings.logs_to_stdout:
            raise LogUnavailable("the log goes to standard output (LOG_FILE=-), so nothing of it is shown here")
        if not self._readers.acquire(blocking=False):
            raise NoCapacity("the log is being read for others")
        try:
            if not self._reading.acquire(timeout=PATIENCE_SECONDS):
                raise NoCapacity("the log is being read for others")
            try:
                yield
            except PermissionError as error:
                raise LogUnavailable(f"the service's user may not read {Path(error.filename).name}") from None
            finally:
                self._reading.release()
        finally:
            self._readers.release()

    def records(self, request_id: str, caller: str | None = None) -> list[Entry]:
        """Return the latest records with this id, of `caller` or of all: one may be used twice. Raises as `data`."""
        name = request_id.encode()
        found = (parse(line) for line in newest_first(self._path, MAX_BYTES) if name in line)
        wanted = Wanted(caller=caller)
        shown = (self._shown(r) for r in found if r and r.get("request_id") == request_id and wanted.has(r))
        with self._turn():
            return list(islice(shown, SAME_ID))

    def _read(
        self, minutes: int, backend: str | None, status: str | None, text: str | None, caller: str | None
    ) -> dict[str, Any]:
        until = time.time()
        since = until - minutes * 60
        fallbacks = status == "fallback"
        wanted = Wanted(text, None, backend, None if fallbacks else status, fallbacks=fallbacks, caller=caller)
        first = next((r["timestamp"] for r in read_records(read_lines(log_files(self._path)))), None)
        stats = Stats(first if first and since < first < until else since, until)
        oldest, ended, requests = None, until, _Requests()
        for oldest, ended, records in self._latest(since):  # noqa: B007  (the last ones count)
            for record in filter(wanted.has, map(self._shown, records)):
                stats.count([record])
                requests.add(record)
        is_complete = oldest == first or ended < since
        return {
            "since": since,
            "until": until,
            "complete_since": None if is_complete else ended,
            "prompts_hidden": self._hides,
            "only_own": caller is not None,
            "stats": stats.numbers(),
            "latest": requests.latest,
            "slowest": requests.slowest(),
        }

    def _latest(self, since: float) -> Iterator[tuple[float, float, list[Entry]]]:
        """Yield of each line, going back, when its request began and ended, and the records that are no older than
        `since`: its own, and with it those that were written after it though a clock that went back says otherwise.
        """
        older: list[Entry] = []
        older_bytes = 0
        for line in newest_first(self._path, MAX_BYTES):
            if not (record := parse(line)):
                continue
            began = record["timestamp"]
            ended = began + (record.get("duration_ms") or 0) / 1000
            if began >= since:
                yield began, ended, [*older, record]
                older, older_bytes = [], 0
                continue
            yield began, ended, []
            if ended < since:
                older.append(record)
                older_bytes += len(line)
            if older_bytes > OLDER_BYTES:
                return

    def _shown(self, record: Entry) -> Entry:
        # before it is searched: what may not be seen may not be guessed either
        return _without_words(record) if self._hides else record


class _Requests:
    """Of the requests that are added, the latest first: some of the latest, and of the slowest."""

    def __init__(self) -> None:
        self.latest: list[dict[str, Any]] = []
        self._slowest: list[tuple[float, int, dict[str, Any]]] = []
        self._count = 0

    def add(self, record: Entry) -> None:
        row = _row(record)
        self._count += 1
        if len(self.latest) < LATEST:
            self.latest.append(row)
        heapq.heappush(self._slowest, (record.get("duration_ms") or 0, self._count, row))
        if len(self._slowest) > SLOWEST:
            heapq.heappop(self._slowest)

    def slowest(self) -> list[dict[str, Any]]:
        return [row for _, _, row in sorted(self._slowest, reverse=True)]


def _row(record: Entry) -> dict[str, Any]:
    error = (record.get("error") or {}).get("code")
    said = question(record)
    excerpt = said[:EXCERPT_CHARS] if isinstance(said, str) else None
    return {name: record.get(name) for name in ROW} | {"error": error, "excerpt": excerpt}


def _without_words(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_words(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: None if name in WORDS else _without_words(item) for name, item in value.items()}
