"""Broken and duplicate lines of the log: finding them, and setting the broken ones aside."""

from __future__ import annotations

import gzip
import os
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, cast

from .files import BROKEN, Line, Place, is_foreign, parse


@dataclass
class Damage:
    """What `verify` found: the number of lines, and the places of those that are not records, or are duplicates.

    `unfinished` is the last line of the live log where it had no end yet: torn, or just being written. `foreign` is the
    first line of another program.
    """

    lines: int = 0
    broken: list[Place] = field(default_factory=list)
    duplicates: list[Place] = field(default_factory=list)
    unfinished: Place | None = None
    foreign: Place | None = None


def verify(lines: Iterable[Line], live: Path) -> Damage:
    """Look at every line once. What was seen is kept in a temporary file: memory does not grow with the log."""
    damage = Damage()
    with closing(sqlite3.connect("", isolation_level=None)) as seen:
        seen.execute("CREATE TABLE seen (line INTEGER PRIMARY KEY)")
        seen.execute("BEGIN")
        for line in lines:
            damage.lines += 1
            if not line.whole and line.place.file == live:
                damage.unfinished = line.place
            elif not line.whole or not parse(line.data):
                damage.broken.append(line.place)
                if line.whole and is_foreign(line.data):
                    damage.foreign = damage.foreign or line.place
            elif not seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (hash(line.data),)).rowcount:
                damage.duplicates.append(line.place)
    return damage


def set_aside(file: Path, lock: Callable[[], AbstractContextManager[object]]) -> None:
    """Rewrite `file` without its broken lines, which are added to FILE.torn.

    Most is copied while others append; `lock` keeps them out for the rest. Raises OSError, for a compressed file
    that breaks off too: what follows there can't be told.
    """
    repaired, aside = file.with_name(file.name + ".repaired"), file.with_name(file.name + ".torn")
    packed = file.suffix == ".gz"
    with (
        cast(IO[bytes], gzip.open(file) if packed else file.open("rb")) as source,
        _like(file, repaired, os.O_TRUNC) as raw,
        _like(file, aside, os.O_APPEND) as torn,
        cast(IO[bytes], gzip.open(raw, "wb") if packed else nullcontext(raw)) as good,
    ):
        try:
            rest = _sift(source, good, torn)
            with lock():
                # read again: a writer may have repaired the last line since
                rest = rest if packed else _read_from(file, source.tell() - len(rest))
                _sift(BytesIO(rest if not rest or rest.endswith(b"\n") else rest + b"\n"), good, torn)
                good.flush()
                os.fsync(raw.fileno())
                repaired.replace(file)
        except BROKEN:
            repaired.unlink()
            raise OSError(f"{file} breaks off: move it away") from None
    if not aside.stat().st_size:
        aside.unlink()


def _read_from(file: Path, start: int) -> bytes:
    with file.open("rb") as source:
        source.seek(start)
        return source.read()


def _sift(source: IO[bytes], good: IO[bytes], torn: IO[bytes]) -> bytes:
    """Copy whole lines to where they belong; return a last one that is not whole."""
    for line in source:
        if not line.endswith(b"\n"):
            return line
        (good if parse(line) else torn).write(line)
    return b""


def _like(model: Path, path: Path, flag: int) -> IO[bytes]:
    """Open a file for writing that belongs to whom `model` belongs to; its other readers may not read it."""
    stat = model.stat()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flag, 0o600)
    with suppress(PermissionError):  # only root may give a file away
        os.fchown(file, stat.st_uid, stat.st_gid)
    os.fchmod(file, stat.st_mode & 0o7770)
    return os.fdopen(file, "wb")
