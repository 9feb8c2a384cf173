"""Reading the log: the files that rotation left, their lines and records, what to look for in them."""

from __future__ import annotations

import gzip
import os
import re
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
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
