"""What to look for in the records of a log, finding them, and what is shown of one."""

from __future__ import annotations

import csv
import heapq
import io
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, islice
from operator import itemgetter
from typing import Any, NamedTuple

from ..errors import TimedOut, ValidationFailed
from .files import FAR, Entry, LogFile, parse, pieces_back
from .numbers import FOR_EVER, KNOWN, Numbers, Part, ended, finest, minute_of
from .record import FIELDS
from .stats import Kind, kind_of

SLOWEST = 20
TEXTS, HIDDEN = ("prompt", "system", "response"), ("truncated", "bytes", "chars", "sha256")
CSV_FIELDS = (*FIELDS, *(f"{name}_{what}" for name in TEXTS for what in HIDDEN))


@dataclass(frozen=True)
class Wanted:
    """Which records to look at; None and False mean: any. Times in Unix seconds."""

    text: str | None = None
    regex: re.Pattern[str] | None = None
    backend: str | None = None
    status: str | None = None
    since: float | None = None
    until: float | None = None
    slower_than_ms: float | None = None
    fallbacks: bool = False
    model: str | None = None
    operation: str | None = None
    error: str | None = None
    reason: str | None = None
    caller: str | None = None
    request_id: str | None = None

    def has(self, record: Entry) -> bool:
        """Return whether `record` is one of them."""
        return (
            (self.since is None or record.get("timestamp", 0) >= self.since)
            and (self.until is None or record.get("timestamp", 0) < self.until)
            and (self.slower_than_ms is None or (record.get("duration_ms") or 0) > self.slower_than_ms)
            and (self.request_id is None or record.get("request_id") == self.request_id)
            and (self.caller is None or record.get("caller") == self.caller)
            and self.has_kind(kind_of(record))
            and self._has_words(record)
        )

    def has_kind(self, kind: Kind) -> bool:
        """Return whether requests of this kind, of whichever caller, are among them, as far as a kind tells."""
        return (
            (self.backend is None or self.backend in (kind.backend, kind.requested))
            and (self.status is None or self.status in (kind.status, kind.http_status))
            and (self.model is None or self.model == kind.model)
            and (self.operation is None or self.operation == kind.operation)
            and (self.error is None or self.error == kind.error)
            and (self.reason is None or self.reason == kind.reason)
            and (not self.fallbacks or kind.fallback)
        )

    def _has_words(self, record: Entry) -> bool:
        words = [] if self.text is None and self.regex is None else list(texts(record))
        is_named = self.text is not None and self.text == record.get("request_id")
        has_text = self.text is None or is_named or any(self.text.casefold() in text.casefold() for text in words)
        return has_text and (self.regex is None or any(map(self.regex.search, words)))


class Found(NamedTuple):
    """A record, and where it is found again, whatever becomes of its file's name."""

    at: str
    record: Entry


# How good it is, the least first; a request, or what gives more of them, none of which is better.
Item = tuple[Any, Found | Callable[[], Iterator["Item"]]]


class Requests:
    """Single requests since a time (Unix seconds, a whole minute's). Only lines are read of which the numbers tell that
    they may be wanted; compressed files, which can be read from the front only, are not.

    `check` is called for each line. When it raises TimedOut the rest is left out, and `is_cut_short`.
    """

    def __init__(
        self,
        numbers: Numbers,
        wanted: Wanted,
        since: int,
        shown: Callable[[Entry], Entry],
        check: Callable[[], object],
    ) -> None:
        self.kinds = numbers.kinds(wanted.caller, wanted.has_kind)
        self.is_cut_short = False
        self._numbers = numbers
        self._wanted = wanted
        self._since = since
        self._shown = shown
        self._check = check
        self._may_be = _sieve(wanted)
        self._finest = finest(wanted.caller)
        self._files = [file for file in numbers.files if not file.packed]
        self._parts = self._parts_of(self._files)
        self._line = b""

    def latest(self, before: str | None = None) -> Iterator[Found]:
        """Yield those that were answered last first; `before`: from a place on. Raises ValidationFailed on no place."""
        rank, offset = self._place(before) if before else (0, FAR)
        ranks = {file.first: rank for rank, file in enumerate(self._files)}

        def sort(parts: list[Part]) -> Iterator[Item]:
            stretches = defaultdict[tuple[int, int], list[Part]](list)
            for part in parts:
                stretches[ranks[part.file.first], part.start].append(part)
            return _sorted(
                ((of, -max(part.high for part in same)), partial(more, of, same)) for (of, _), same in stretches.items()
            )

        def more(of: int, same: list[Part]) -> Iterator[Item]:
            if same[0].width > self._finest:
                return sort(self._numbers.narrower(same[0], self.kinds))
            return (((of, -at), found) for at, found in self._read(same, offset if of == rank else FAR))

        return self._walk(sort([part for part in self._parts if ranks[part.file.first] >= rank]))

    def slowest(self) -> Iterator[Found]:
        """Yield the slowest first."""

        def sort(parts: list[Part]) -> Iterator[Item]:
            return _sorted((-part.slowest[0][0], partial(known, part)) for part in parts)

        def known(part: Part) -> Iterator[Item]:
            for duration, at in part.slowest:
                part.file.data.seek(at)
                if found := self._found(part.file, at, part.file.data.readline()):
                    yield -duration, found
            if len(part.slowest) == KNOWN:
                yield -part.slowest[-1][0], partial(others, part)

        def others(part: Part) -> Iterator[Item]:
            if part.width > self._finest:
                return sort(self._numbers.narrower(part, [part.kind]))
            items = ((-(found.record.get("duration_ms") or 0), found) for _, found in self._read([part], FAR))
            return iter(heapq.nsmallest(SLOWEST, items, itemgetter(0)))

        seen = set[str]()
        for found in self._walk(sort(self._parts)):
            if found.at not in seen:
                seen.add(found.at)
                yield found

    def complete_since(self) -> float:
        """Return since when all are read; 0 where all are that the log has."""
        if self.is_cut_short:
            record = parse(self._line)
            return ended(record) if record else time.time()
        if self.has_compressed():
            return (self._files[-1].reach.ended if self._files else None) or time.time()
        return 0

    def has_compressed(self) -> bool:
        """Return whether there are some in compressed files."""
        packed = [file for file in self._numbers.files if file.packed]
        return bool(packed and self._parts_of(packed))

    def _place(self, at: str) -> tuple[int, int]:
        first, _, offset = at.partition("-")
        for rank, file in enumerate(self._files):
            if file.first == first and offset.isdecimal() and len(offset) < 19:
                return rank, int(offset)
        words = "No place in the log, or none any more."
        raise ValidationFailed(f"before: {words}", param="before", fields={"before": [words]})

    def _parts_of(self, files: list[LogFile]) -> list[Part]:
        return self._numbers.parts(files, self.kinds, self._since, self._finest, self._wanted.until or FOR_EVER)

    def _walk(self, items: Iterator[Item]) -> Iterator[Found]:
        """Yield the best first."""
        heap: list[tuple[Any, int, Any, Iterator[Item]]] = []
        numbers = count()

        def push(items: Iterator[Item]) -> None:
            for value, item in islice(items, 1):
                heapq.heappush(heap, (value, next(numbers), item, items))

        try:
            push(items)
            while heap:
                _, _, item, others = heapq.heappop(heap)
                push(others)
                if isinstance(item, Found):
                    yield item
                else:
                    push(item())
        except TimedOut:
            self.is_cut_short = True

    def _read(self, same: list[Part], end: int) -> Iterator[tuple[int, Found]]:
        """Yield what is wanted of a stretch of time, from its end back, each with its place."""
        file, start, width = same[0].file, same[0].start, same[0].width
        for low, high in _joined(same):
            for at, line in _lines_back(file, low, min(high, end)):
                found = self._found(file, at, line)
                if found and start <= minute_of(found.record) < start + width:
                    yield at, found

    def _found(self, file: LogFile, at: int, line: bytes) -> Found | None:
        self._line = line
        self._check()
        if self._may_be(line) and (record := parse(line)) and minute_of(record) >= self._since:
            shown = self._shown(record)
            return Found(f"{file.first}-{at}", shown) if self._wanted.has(shown) else None
        return None


def _joined(parts: list[Part]) -> list[tuple[int, int]]:
    """Return the bytes that the parts' lines are in, the last first."""
    joined: list[tuple[int, int]] = []
    for part in sorted(parts, key=lambda part: part.high, reverse=True):
        low, high = part.low, part.high
        while joined and joined[-1][0] <= high:
            before = joined.pop()
            low, high = min(low, before[0]), before[1]
        joined.append((low, high))
    return joined


def _lines_back(file: LogFile, low: int, high: int) -> Iterator[tuple[int, bytes]]:
    """Yield the lines between two places, from the end back, each with its own."""
    newline_before = min(low, 1)
    file.data.seek(max(high, low))
    for line in islice(pieces_back(file.data, max(0, high - low) + newline_before), 1, None):
        high -= len(line) + 1
        yield high, line


def _sorted(items: Iterable[Item]) -> Iterator[Item]:
    return iter(sorted(items, key=itemgetter(0)))


def _sieve(wanted: Wanted) -> Callable[[bytes], bool]:
    """Return what tells most of the lines that are not wanted, at a twentieth of what reading them costs."""
    values = (wanted.request_id, wanted.caller, wanted.backend, wanted.model, wanted.operation, wanted.status)
    names = [name.encode() for name in (*values, wanted.error, wanted.reason) if name and _is_plain(name)]
    word = max((wanted.text or "").split(" "), key=len)  # between spaces, since what is searched is joined by them
    needle = word.lower().encode() if _is_plain(word) else b""

    def may_be(line: bytes) -> bool:
        # an escape may be a letter that is the same without case: the Kelvin sign is a k
        has_text = not needle or needle in line.lower() or b"\\u" in line or not line.isascii()
        return has_text and all(name in line for name in names)

    return may_be


def _is_plain(text: str) -> bool:
    """Whether JSON has it as it is."""
    return text.isascii() and text.isprintable() and not set(text) & set('"\\/')


def texts(record: Entry) -> Iterator[str]:
    """Yield what was said: system, messages, inputs or prompt, thoughts, response, calls, and an error's message."""
    error = (record.get("error") or {}).get("message")
    asked = (record.get("system"), record.get("prompt"), *_turns(record))
    for text in (*asked, record.get("reasoning"), record.get("response"), *calls(record), error):
        if isinstance(text, str):
            yield text


def calls(record: Entry) -> list[str]:
    """Return the calls of an answer, and of the turns before it, as lines."""
    said = [record, *(turn for turn in record.get("messages") or [] if isinstance(turn, dict))]
    made = [call for turn in said for call in turn.get("tool_calls") or () if isinstance(call, dict)]
    return [f"{call.get('name')} {call.get('arguments', '')}" for call in made]


def question(record: Entry) -> Any:
    """Return the prompt, or the last of the messages or inputs; None where the log has neither."""
    return record.get("prompt") or next(reversed(_turns(record)), None)


def _turns(record: Entry) -> list[Any]:
    turns = [*(record.get("messages") or ()), *(record.get("inputs") or ())]
    return [turn.get("content", turn.get("text")) for turn in turns if isinstance(turn, dict)]


def csv_lines(records: Iterable[Entry]) -> Iterator[str]:
    """Yield records as lines of CSV, nested fields as JSON; what a spreadsheet would run as a formula gets an
    apostrophe.
    """
    line = io.StringIO()
    writer = csv.writer(line)
    for row in chain([CSV_FIELDS], ([_cell(record.get(name)) for name in CSV_FIELDS] for record in records)):
        writer.writerow(row)
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return json_text(value)
    text = printable(value, allowed="\n\t")
    return f"'{text}" if value.lstrip()[:1] in ("=", "+", "-", "@") or value[:1] in ("\t", "\r") else text


def json_text(value: object, indent: int | None = None) -> str:
    """Return JSON that is ASCII without control characters, DEL too, which JSON itself lets through."""
    return json.dumps(value, indent=indent).replace("\x7f", "\\u007f")


def printable(text: str, allowed: str = "") -> str:
    """Replace what would steer a terminal: a model's answer is a stranger's text."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in allowed else "�" for char in text)
