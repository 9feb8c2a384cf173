"""Reading the log: the files that rotation left, their lines and records, what to look for in them, their damage."""

from __future__ import annotations

import gzip
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

Record = dict[str, Any]
# Two bits in 2**27 (16 MB) for ten million lines let through few that are no duplicates; those are looked at again.
FILTER_BITS = 2**27


class Place(NamedTuple):
    """Where a line stands; `number` is counted from 1."""

    file: Path
    number: int


class Line(NamedTuple):
    """One line of a log, without its newline; `whole` is false where the file ends without one."""

    place: Place
    data: bytes
    whole: bool


def log_files(path: Path) -> list[Path]:
    """Return the log and what rotation made of it (LOG.1, LOG-20261123, also .gz), oldest first."""
    pattern = re.compile(re.escape(path.name) + r"([.-]\d[\d.-]*)?(\.gz)?")
    found = [file for file in path.parent.glob(f"{path.name}*") if pattern.fullmatch(file.name)]
    return sorted(found, key=lambda file: (file == path, began(file)))


def began(file: Path) -> float:
    """Return the time of a file's first record: names sort in many ways, times in one."""
    first = next(read_records(read_lines([file])), {})
    return cast(float, first.get("timestamp", file.stat().st_mtime))


def ended(file: Path) -> float:
    """Return the time of a file's last record."""
    last = next((r for data in last_lines(file, 1) if (r := parse(data))), {})
    return cast(float, last.get("timestamp", file.stat().st_mtime))


def read_lines(files: Iterable[Path], advance: Callable[[int], object] = lambda _: None) -> Iterator[Line]:
    """Yield the lines of the files, one at a time in memory; `advance` is told how many bytes on disk are done."""
    for file in files:
        with file.open("rb") as raw, cast(IO[bytes], gzip.open(raw) if file.suffix == ".gz" else raw) as lines:
            done = 0
            for number, data in enumerate(lines, 1):
                yield Line(Place(file, number), data.removesuffix(b"\n"), data.endswith(b"\n"))
                if number % 1000 == 0:
                    advance(raw.tell() - done)
                    done = raw.tell()
            advance(file.stat().st_size - done)


def read_records(lines: Iterable[Line]) -> Iterator[Record]:
    """Yield the records, passing over lines that are none."""
    for line in lines:
        if record := parse(line.data):
            yield record


def parse(data: bytes) -> Record | None:
    """Return the record in a line, or None."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def last_lines(path: Path, count: int) -> list[bytes]:
    """Return the last whole lines of a file, reading it from its end; none where there is no file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        start = file.seek(0, os.SEEK_END)
        data = b""
        while start and data.count(b"\n") <= count:
            size = min(start, 65_536)
            start = file.seek(start - size)
            data = file.read(size) + data
    return data.split(b"\n")[:-1][-count:] if count else []


def follow(path: Path, wait: Callable[[], object] = lambda: time.sleep(0.2)) -> Iterator[bytes]:
    """Yield each line that is added from now on, for ever, over rotation and removal; `wait` is called in between."""
    file: IO[bytes] | None = path.open("rb") if path.exists() else None
    if file:
        file.seek(0, os.SEEK_END)
    while True:
        if file:
            yield from _added(file)
        newer = _reopened(path, file)
        if newer is file:
            wait()
        elif file:
            yield from _added(file)  # what came between the last look and the rotation
            file.close()
        file = newer


def _added(file: IO[bytes]) -> Iterator[bytes]:
    while data := file.readline():
        if not data.endswith(b"\n"):
            file.seek(-len(data), os.SEEK_CUR)
            return
        yield data[:-1]


def _reopened(path: Path, file: IO[bytes] | None) -> IO[bytes] | None:
    try:
        if file and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
        return path.open("rb")
    except FileNotFoundError:
        return file


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

    def has(self, record: Record) -> bool:
        """Return whether `record` is one of them."""
        return (
            (self.backend is None or self.backend in (record.get("backend"), record.get("requested_backend")))
            and (self.status is None or self.status in (record.get("status"), str(record.get("http_status"))))
            and (self.since is None or record.get("timestamp", 0) >= self.since)
            and (self.until is None or record.get("timestamp", 0) < self.until)
            and (self.slower_than_ms is None or (record.get("duration_ms") or 0) > self.slower_than_ms)
            and (not self.fallbacks or bool(record.get("fallback")))
            and self._has_words(record)
        )

    def _has_words(self, record: Record) -> bool:
        if self.text is None and self.regex is None:
            return True
        words = "\n".join(texts(record))
        return (self.text is None or self.text.casefold() in words.casefold()) and (
            self.regex is None or self.regex.search(words) is not None
        )


def texts(record: Record) -> Iterator[str]:
    """Yield what was said in a request: system, messages or prompt, response, and an error's message."""
    turns = [message.get("content") for message in record.get("messages") or []]
    error = (record.get("error") or {}).get("message")
    for text in (record.get("system"), record.get("prompt"), *turns, record.get("response"), error):
        if isinstance(text, str):
            yield text


@dataclass
class Damage:
    """What `verify` found: the number of lines, and the places of those that are no record or occur twice."""

    lines: int
    broken: list[Place]
    duplicates: list[Place]


def verify(read: Callable[[], Iterator[Line]]) -> Damage:
    """Look at every line; memory does not grow with the log. `read` is called once more where a line may be double."""
    damage = Damage(0, [], [])
    seen = _Filter()
    suspects: dict[int, int] = {}
    for line in read():
        damage.lines += 1
        if not line.whole or not parse(line.data):
            damage.broken.append(line.place)
        elif seen.had(hash(line.data)):
            suspects[hash(line.data)] = 0
    for line in read() if suspects else ():
        if hash(line.data) in suspects:
            suspects[hash(line.data)] += 1
            if suspects[hash(line.data)] > 1:
                damage.duplicates.append(line.place)
    return damage


class _Filter:
    """A Bloom filter of two bits a line."""

    def __init__(self) -> None:
        self._bits = bytearray(FILTER_BITS // 8)

    def had(self, value: int) -> bool:
        """Return whether `value` was probably here before; it is from now on."""
        known = True
        for place in (value % FILTER_BITS, (value >> 32) % FILTER_BITS):
            known &= bool(self._bits[place >> 3] >> (place & 7) & 1)
            self._bits[place >> 3] |= 1 << (place & 7)
        return known


def set_aside(file: Path) -> None:
    """Rewrite `file` without its broken lines, which are added to FILE.torn. Nobody may append meanwhile."""
    mended = file.with_name(file.name + ".mended")
    opener = gzip.open if file.suffix == ".gz" else open
    with (
        cast(IO[bytes], opener(mended, "wb")) as good,
        file.with_name(file.name + ".torn").open("ab") as torn,
    ):
        for line in read_lines([file]):
            (good if line.whole and parse(line.data) else torn).write(line.data + b"\n")
    mended.chmod(file.stat().st_mode)
    mended.replace(file)
