"""Lines of the log that are broken or there twice: finding them, and setting the broken ones aside."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, cast

from .files import Line, Place, parse

# Two bits in 2**27 (16 MB) for ten million lines let through few that are no duplicates; those are looked at again.
FILTER_BITS = 2**27


@dataclass
class Damage:
    """What `verify` found: the number of lines, and the places of those that are no record or occur twice.

    `unfinished` is the last line of the live log where it had no end yet: torn, or just being written.
    """

    lines: int = 0
    broken: list[Place] = field(default_factory=list)
    duplicates: list[Place] = field(default_factory=list)
    unfinished: Place | None = None


def verify(read: Callable[[], Iterator[Line]], live: Path) -> Damage:
    """Look at every line; memory does not grow with the log. `read` is called once more where a line may be double."""
    damage = Damage()
    seen = _Filter()
    suspects: dict[int, int] = {}
    for line in read():
        damage.lines += 1
        if not line.whole and line.place.file == live:
            damage.unfinished = line.place
        elif not line.whole or not parse(line.data):
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


def set_aside(file: Path, lock: Callable[[], AbstractContextManager[object]]) -> None:
    """Rewrite `file` without its broken lines, which are added to FILE.torn.

    Most is copied while others append; `lock` keeps them out for the rest. Raises OSError, for a compressed file
    that breaks off too: what follows there can't be told.
    """
    mended, aside = file.with_name(file.name + ".mended"), file.with_name(file.name + ".torn")
    packed = file.suffix == ".gz"
    with (
        cast(IO[bytes], gzip.open(file) if packed else file.open("rb")) as source,
        _like(file, mended, os.O_TRUNC) as raw,
        _like(file, aside, os.O_APPEND) as torn,
        cast(IO[bytes], gzip.open(raw, "wb") if packed else nullcontext(raw)) as good,
    ):
        try:
            rest = _sift(source, good, torn)
            with lock():
                # read anew: a writer may have mended the last line since
                rest = rest if packed else _read_from(file, source.tell() - len(rest))
                _sift(BytesIO(rest if not rest or rest.endswith(b"\n") else rest + b"\n"), good, torn)
                good.flush()
                os.fsync(raw.fileno())
                mended.replace(file)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            mended.unlink()
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
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, 0o600)
    with suppress(PermissionError):  # only root may give a file away
        os.fchown(file, stat.st_uid, stat.st_gid)
    os.fchmod(file, stat.st_mode & 0o7770)
    return os.fdopen(file, "wb")
