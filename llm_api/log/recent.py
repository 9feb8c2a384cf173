"""What the dashboard shows: the numbers of the last minutes, and single requests, read back from the log's end."""

from __future__ import annotations

import heapq
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..errors import LogUnavailable, NoCapacity
from ..settings import Settings
from .files import Entry, log_files, newest_first, parse, read_lines, read_records
from .search import Wanted, question
from .stats import Stats
from .writer import Turn

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
WORDS = {
    *("prompt", "system", "content", "text", "name", "url", "response", "reasoning", "arguments", "message"),
    *("stop", "response_format"),
}

Key = tuple[int, Wanted]


class Dashboard:
    """Reads one log. Shared by all threads: the same question within a few seconds is answered by one reading."""

    def __init__(self, settings: Settings) -> None:
        self._path = Path(settings.log_file)
        self._to_stdout = settings.logs_to_stdout
        self._hides = not settings.log_prompts
        self._reading = Turn(threading.Lock(), PATIENCE_SECONDS)
        self._readers = Turn(threading.Semaphore(READERS), 0)
        self._answers: OrderedDict[Key, tuple[float, dict[str, Any]]] = OrderedDict()

    def data(self, minutes: int, wanted: Wanted) -> dict[str, Any]:
        """Return the numbers of the last `minutes` and single requests; `complete_since` where the log has more than
        was read. Raises NoCapacity when others' questions take too long, LogUnavailable where there is nothing to read.
        """
        minutes = min(max(minutes, 1), MAX_MINUTES)
        key = (minutes, wanted)
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
        if self._to_stdout:
            raise LogUnavailable("the log goes to standard output (LOG_FILE=-), so nothing of it is shown here")
        try:
            with self._readers, self._reading:
                yield
        except TimeoutError:
            raise NoCapacity("the log is being read for others") from None
        except PermissionError as error:
            raise LogUnavailable(f"the service's user may not read {Path(error.filename).name}") from None

    def records(self, request_id: str, wanted: Wanted) -> list[Entry]:
        """Return the latest records with this id: a client that chooses ids may use one twice. Raises as `data`."""
        name = request_id.encode()
        found = (parse(line) for line in newest_first(self._path, MAX_BYTES) if name in line)
        shown = (self._shown(r) for r in found if r and r.get("request_id") == request_id and wanted.has(r))
        with self._turn():
            return list(islice(shown, SAME_ID))

    def _read(self, minutes: int, wanted: Wanted) -> dict[str, Any]:
        until = time.time()
        since = until - minutes * 60
        first = next((r["timestamp"] for r in read_records(read_lines(log_files(self._path)))), None)
        stats = Stats(first if first and since < first < until else since, until)
        oldest, ended = None, until

        def chosen() -> Iterator[dict[str, Any]]:
            nonlocal oldest, ended
            for oldest, ended, records in self._latest(since):  # noqa: B007  (nonlocal)
                for record in filter(wanted.has, map(self._shown, records)):
                    stats.count(record)
                    yield _row(record)

        rows = chosen()
        latest = list(islice(rows, LATEST))
        slowest = heapq.nlargest(SLOWEST, chain(latest, rows), key=lambda row: row["duration_ms"] or 0)
        is_complete = oldest == first or ended < since
        return {
            "since": since,
            "until": until,
            "complete_since": None if is_complete else ended,
            "prompts_hidden": self._hides,
            "only_own": wanted.caller is not None,
            "stats": stats.numbers(),
            "latest": latest,
            "slowest": slowest,
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
