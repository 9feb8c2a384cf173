"""Reading the log: the files that rotation left, whatever their names; their lines and records."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from .. import strict_json
from .record import FIELDS

# A record as it is read back.
Entry = dict[str, Any]
_TYPES = [(name, types) for name, types in FIELDS.items() if object not in types]
# What a compressed file raises that is cut off or broken.
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error)
# What is read at once going back.
BACK_BYTES = 2**20
FAR = 2**62


class Place(NamedTuple):
    """The place of a line; `number` is counted from 1."""

    file: Path
    number: int

    def __str__(self) -> str:
        return f"{self.file}:{self.number}"


class Line(NamedTuple):
    """One line of a log, without its newline; `whole` is false where the file ends without one."""

    place: Place
    data: bytes
    whole: bool


class Reach(NamedTuple):
    """How much of a file is counted: the bytes from `begin` to `end`; of a compressed one, which is counted from its
    front, `begin` is 0 when all is. The request of the first line ended at `ended`.
    """

    begin: int = FAR
    end: int = 0
    ended: float | None = None


@dataclass
class LogFile:
    """A file of the log, known by its `first` record whatever its name. `unpacked`: how long a compressed one was
    before, modulo 2**32 (RFC 1952, ISIZE).
    """

    first: str
    data: IO[bytes]
    inode: int
    packed: bool
    unpacked: int
    id: int = 0
    reach: Reach = field(default_factory=Reach)

    def was(self, inode: int, packed: bool, begin: int, end: int) -> bool:
        """Whether it was that: it is longer now, or compressed since all of it was counted; not another, nor cut."""
        if self.packed and not packed:
            return begin == 0 and self.unpacked == end % 2**32
        return self.inode == inode and (self.packed or self.data.seek(0, os.SEEK_END) >= end)

    def end(self) -> int:
        """Return where the last whole line ends."""
        size = self.data.seek(0, os.SEEK_END)
        return size - len(next(pieces_back(self.data)))

    def has_more(self) -> bool:
        """Whether there may be lines behind the counted part."""
        return bool(self.reach.begin) if self.packed else any(self.lines(self.reach.end, FAR))

    def line_before(self, end: int, size: int) -> int:
        """Return where a line begins, so many bytes before another does; or more, where that is longer."""
        begin, start = end, end
        while begin == end:
            start = max(0, start - size)
            self.data.seek(max(0, start - 1))
            begin = start and start - 1 + len(self.data.readline())
        return begin

    def lines(self, at: int, end: int) -> Iterator[bytes]:
        """Yield the whole lines that begin between two places, the first of which is a line's begin."""
        with suppress(*BROKEN):
            self.data.seek(at)
            while at < end and (line := self.data.readline()).endswith(b"\n"):
                yield line
                at += len(line)


def log_files(path: Path) -> list[Path]:
    """Return the log and what rotation made of it (LOG.1, LOG-20261123, also .gz), oldest first."""
    pattern = re.compile(re.escape(path.name) + r"([.-]\d[\d.-]*)?(\.gz)?")
    folder = path.parent
    named = (file for file in folder.iterdir() if pattern.fullmatch(file.name)) if folder.is_dir() else ()
    return sorted(filter(Path.is_file, named), key=lambda file: (file == path, began(file)))


def began(file: Path) -> float:
    """Return the time of a file's first record: names sort in many ways, times in one."""
    first = next(read_records(read_lines([file])), {})
    return cast(float, first.get("timestamp", file.stat().st_mtime))


def ended(file: Path) -> float:
    """Return the time of a file's last record."""
    last = next((r for data in last_lines(file, 1) if (r := parse(data))), {})
    return cast(float, last.get("timestamp", file.stat().st_mtime))


def opened_files(log: Path, stack: ExitStack) -> list[LogFile]:
    """Return the files that have records, the newest first; of one that is being compressed what is not."""
    found: dict[str, LogFile] = {}
    for path in reversed(log_files(log)):
        with suppress(FileNotFoundError):  # renamed meanwhile
            raw = stack.enter_context(path.open("rb"))
            packed = path.suffix == ".gz"
            data: Any = stack.enter_context(gzip.GzipFile(fileobj=raw)) if packed else raw
            first = _first(data)
            if first and (first not in found or found[first].packed):
                stat = os.fstat(raw.fileno())
                unpacked = int.from_bytes(os.pread(raw.fileno(), 4, max(0, stat.st_size - 4)), "little")
                found[first] = LogFile(first, data, stat.st_ino, packed, unpacked)
    return list(found.values())


def _first(data: IO[bytes]) -> str | None:
    with suppress(*BROKEN):
        for line in data:
            if parse(line):
                return hashlib.sha256(line.rstrip(b"\n")).hexdigest()[:16]
    return None


def read_lines(files: Iterable[Path], advance: Callable[[int], object] = lambda _: None) -> Iterator[Line]:
    """Yield the lines of the files, one at a time in memory; `advance` is told how many bytes on disk are done.

    Where a compressed file breaks off, a line that is not whole takes the place of the rest.
    """
    for file in files:
        number = 0
        try:
            for number, data in enumerate(_raw_lines(file, advance), 1):
                yield Line(Place(file, number), data.removesuffix(b"\n"), data.endswith(b"\n"))
        except BROKEN:
            yield Line(Place(file, number + 1), b"", False)


def _raw_lines(file: Path, advance: Callable[[int], object]) -> Iterator[bytes]:
    with file.open("rb") as raw, cast(IO[bytes], gzip.open(raw) if file.suffix == ".gz" else raw) as lines:
        done = 0
        for number, data in enumerate(lines, 1):
            yield data
            if number % 1000 == 0:
                advance(raw.tell() - done)
                done = raw.tell()
        advance(raw.tell() - done)


def read_records(lines: Iterable[Line]) -> Iterator[Entry]:
    """Yield the records, passing over lines that are none."""
    for line in lines:
        if record := parse(line.data):
            yield record


def parse(data: bytes) -> Entry | None:
    """Return the record in a line; None where it is not one, or a field has another type."""
    try:
        record = strict_json.decode(data)
    except ValueError:
        return None
    if not isinstance(record, dict) or type(record.get("timestamp")) not in (float, int):
        return None
    return record if all(isinstance(record.get(name), types) for name, types in _TYPES) else None


def is_foreign(data: bytes) -> bool:
    """Whether a line that is no record is another program's: its own object, or text. No crash leaves such a one."""
    try:
        return isinstance(strict_json.decode(data), dict)
    except ValueError:
        return data.strip()[:1] not in b"{[" and b"\0" not in data


def last_lines(path: Path, count: int) -> list[bytes]:
    """Return the last whole lines of a file, read from its end."""
    if path.suffix == ".gz":
        return [line.data for line in deque(read_lines([path]), count) if line.whole]
    with path.open("rb") as file:
        return last_lines_of(file, count)


def last_lines_of(file: IO[bytes], count: int) -> list[bytes]:
    """As `last_lines`; the file's position is behind the last of them."""
    end = file.seek(0, os.SEEK_END)
    rest, *lines = islice(pieces_back(file), count + 1)
    file.seek(end - len(rest))
    return lines[::-1]


def pieces_back(file: IO[bytes], limit: int = sys.maxsize) -> Iterator[bytes]:
    """Yield what is between newlines, from the file's position back: first what may not be a whole line yet."""
    start, first = file.tell(), b""
    while start and limit:
        size = min(start, BACK_BYTES, limit)
        limit -= size
        start = file.seek(start - size)
        first, *lines = (file.read(size) + first).split(b"\n")
        yield from reversed(lines)
    if not start:
        yield first


def follow(path: Path, wait: Callable[[], object], file: IO[bytes] | None) -> Iterator[bytes]:
    """Yield each line that is added from now on, for ever, over rotation and removal.

    `wait` is called in between; `file` is the log, to go on from its position, None where there is none yet.
    """
    try:
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
    finally:
        if file:
            file.close()


def open_unbuffered(path: Path) -> IO[bytes]:
    """Open a log to follow, without a buffer: a repair may cut off and rewrite bytes that were read ahead."""
    return cast(IO[bytes], path.open("rb", buffering=0))


def _added(file: IO[bytes]) -> Iterator[bytes]:
    if file.tell() > os.fstat(file.fileno()).st_size:
        file.seek(0)
    *lines, rest = file.read().split(b"\n")
    file.seek(-len(rest), os.SEEK_CUR)
    yield from lines


def _reopened(path: Path, file: IO[bytes] | None) -> IO[bytes] | None:
    try:
        if file and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
        return open_unbuffered(path)
    except FileNotFoundError:
        return file
