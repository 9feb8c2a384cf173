"""The log's numbers by minute, hour, six hours and day, kept beside it in LOG_FILE.numbers: nothing is counted twice.

An SQLite file. The log remains the only truth: the file may be deleted, and what it has is what the log has. Each
portion that is counted and how far that reaches are written in one transaction: a kill leaves both as they were before.
Of workers one counts at a time; all read the same. A file of the log is known by its first record, so renaming and
compressing it change nothing; what rotation deletes goes here too. First the newest part of the log is counted, then
what comes behind it, and back to its begin.

A row also has where in the file its lines are, so that single requests are found without reading the others.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil, gcd
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from .files import BROKEN, Entry, log_files, parse, pieces_back
from .stats import Count, Distribution, Kind, Stats, kind_of
from .writer import is_no_file, open_own

WIDTHS = MINUTE, HOUR, QUARTER, DAY = (60, 3600, 21_600, 86_400)
# What is counted at once: first so many bytes, then as many as have so many parts, which take the memory.
PORTION_BYTES, MOST_BYTES, PORTION_PARTS = 2**19, 2**23, 5000
PAUSE_LINES = 100
# Of so many of a part's slowest requests the places are kept.
KNOWN = 2
LOCK_SECONDS = 2.0
MAKING = threading.Lock()
# Another version's file is begun afresh.
VERSION = 4
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS file (id INTEGER PRIMARY KEY, first TEXT UNIQUE, inode INT, packed INT,
    begin INT, end INT, ended REAL);
CREATE TABLE IF NOT EXISTS kind (id INTEGER PRIMARY KEY, caller TEXT, said TEXT UNIQUE);
CREATE INDEX IF NOT EXISTS kind_by_caller ON kind (caller);
CREATE TABLE IF NOT EXISTS part (file INT, width INT, kind INT, start INT, low INT, high INT, slowest TEXT, count TEXT,
    PRIMARY KEY (file, width, kind, start)) WITHOUT ROWID;
PRAGMA user_version = {VERSION};
COMMIT;
"""
KEY = "file = ? AND width = ? AND kind = ? AND start = ?"
CHOSEN = """FROM part WHERE file IN (SELECT value FROM json_each(?)) AND width = ?
    AND kind IN (SELECT value FROM json_each(?)) AND start >= ? AND start < ?"""
CALLERS = "SELECT DISTINCT caller FROM kind WHERE caller IS NOT NULL ORDER BY caller LIMIT ?"
FOR_EVER = 2**40
FAR = 2**62


@dataclass
class _Part:
    """Requests of one kind in a stretch of time. Their lines are in the bytes from `low` to `high` of a file; of the
    `slowest` it has the milliseconds and the places, slowest first.
    """

    low: int = FAR
    high: int = 0
    slowest: list[tuple[float, int]] = field(default_factory=list)
    count: Count = field(default_factory=Count)

    def count_line(self, record: Entry, low: int, high: int) -> None:
        self._place(low, high, [(float(record.get("duration_ms") or 0), low)])
        self.count.count(record)

    def add(self, other: _Part) -> None:
        self._place(other.low, other.high, other.slowest)
        self.count.add(other.count)

    def _place(self, low: int, high: int, slowest: list[tuple[float, int]]) -> None:
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.slowest = sorted(self.slowest + slowest, reverse=True)[:KNOWN]

    def row(self) -> tuple[int, int, str, str]:
        """Return its columns."""
        own = self.count
        distributions = ([list(each), list(each.values())] for each in (own.latency, own.first_chunk))
        told = [own.requests, own.tokens, own.generating_ms, *distributions]
        return self.low, self.high, json.dumps(self.slowest), json.dumps(told, separators=(",", ":"))


# By their width, when they begin, and of what kind.
Parts = defaultdict[tuple[int, int, Kind], _Part]


class Reach(NamedTuple):
    """How much of a file is counted: the bytes from `begin` to `end`; of a compressed one, which is counted from its
    front, `begin` is 0 when all is. The request of the first line ended at `ended`.
    """

    begin: int = FAR
    end: int = 0
    ended: float | None = None


NOTHING = Reach()


@dataclass
class LogFile:
    """A file of the log. `unpacked`: how long a compressed one was before, modulo 2**32 (RFC 1952, ISIZE)."""

    first: str
    data: IO[bytes]
    inode: int
    packed: bool
    unpacked: int
    id: int = 0
    reach: Reach = NOTHING


class Part(NamedTuple):
    """What is kept of one kind's requests in a stretch of time in one file: the bytes in which their lines are, and
    of the slowest the milliseconds and the places. Where these are fewer than `KNOWN`, there are no others.
    """

    width: int
    file: LogFile
    kind: int
    start: int
    low: int
    high: int
    slowest: list[tuple[float, int]]


class Numbers:
    """The numbers of the log's `files`, the newest first, as they were when it was opened.

    Raises sqlite3.OperationalError where the file can't be written, or is locked for two seconds; a broken one is
    removed, to be made again.
    """

    def __init__(self, db: sqlite3.Connection, files: list[LogFile]) -> None:
        self.files = files
        self._db = db
        self._portion = PORTION_BYTES

    def count_on(self, until: float = 0, pause: Callable[[], object] = lambda: None) -> bool:
        """Count what was appended, else what is before the counted part, back to `until` (Unix seconds), one portion.

        Return whether there was any. Whoever counts already is waited for. `pause` is called now and then.
        """
        while portion := self._uncounted(until):
            file, begin, end = portion
            with _begun(self._db):
                if self._reach(file) == file.reach:
                    self._keep(file, *_count(file, begin, end, pause))
                    return True
        return False

    def _uncounted(self, until: float) -> tuple[LogFile, int, int] | None:
        """Return where the lines are that are to be counted next."""
        for file in self.files:
            if not (reach := self._reach(file)):
                continue  # somebody has found it gone
            file.reach = reach
            if _has_more(file):
                return file, reach.end, reach.end + self._portion
            if reach.begin and not file.packed and (reach.ended or FOR_EVER) >= until:
                return file, _line_before(file.data, reach.begin, self._portion), reach.begin
            if reach.ended and reach.ended < until:
                break
        return None

    def complete_since(self) -> float:
        """Return since when all requests are counted; 0 where that are all that the log has."""
        bound = time.time()
        if any(not file.packed and _has_more(file) for file in self.files):
            return bound
        for file in self.files:
            if file.reach.ended and not (file.packed and file.reach.begin):
                bound = file.reach.ended
            if file.reach.begin:
                return bound
        return 0

    def kinds(self, caller: str | None, are_wanted: Callable[[Kind], bool] = lambda _: True) -> dict[int, Kind]:
        """Return the kinds of a caller's requests, or of everybody's, by their number."""
        rows = self._db.execute("SELECT id, said FROM kind WHERE caller IS ?", (_name(caller),)).fetchall()
        kinds = ((number, Kind(*json.loads(said))) for number, said in rows)
        return {number: kind for number, kind in kinds if are_wanted(kind)}

    def callers(self, most: int) -> list[str]:
        """Return the first of the callers' names."""
        return [json.loads(name) for (name,) in self._db.execute(CALLERS, (most,)).fetchall()]

    def add_to(self, stats: Stats, since: int, width: int, kinds: dict[int, Kind], until: float | None = None) -> None:
        """Add what was counted since then, and before `until`, by `width` in seconds; `finest` or wider."""
        end = FOR_EVER if until is None else until
        for kind, start, told in self._rows("kind, start, count", self.files, kinds, widest(width), since, end):
            stats.add(start, kinds[kind], _told(told))

    def parts(
        self, files: list[LogFile], kinds: Iterable[int], since: int, width: int, until: float | None = None
    ) -> list[Part]:
        """Return the parts since then, as wide as there are that begin and end then; `width`: the shortest kept.

        At both ends there is more, up to a whole stretch of that width.
        """
        begin = since // width * width
        end = FOR_EVER if until is None else ceil(until / width) * width
        return self._parts(files, kinds, widest(begin if until is None else gcd(begin, end)), begin, end)

    def narrower(self, part: Part, kinds: Iterable[int]) -> list[Part]:
        """Return the next shorter parts of a longer one."""
        width = WIDTHS[WIDTHS.index(part.width) - 1]
        return self._parts([part.file], kinds, width, part.start, part.start + part.width)

    def _parts(self, files: list[LogFile], kinds: Iterable[int], width: int, since: int, until: int) -> list[Part]:
        by_id = {file.id: file for file in files}
        rows = self._rows("file, kind, start, low, high, slowest", files, kinds, width, since, until)
        return [
            Part(width, by_id[file], kind, start, low, high, json.loads(slowest))
            for file, kind, start, low, high, slowest in rows
        ]

    def _rows(
        self, fields: str, files: list[LogFile], kinds: Iterable[int], width: int, since: int, until: float
    ) -> Iterator[tuple[Any, ...]]:
        values = json.dumps([file.id for file in files]), width, json.dumps(list(kinds)), since, until
        return self._db.execute(f"SELECT {fields} {CHOSEN}", values)

    def _reach(self, file: LogFile) -> Reach | None:
        row = self._db.execute("SELECT begin, end, ended FROM file WHERE id = ?", (file.id,)).fetchone()
        return Reach(*row) if row else None

    def _keep(self, file: LogFile, reach: Reach, parts: Parts) -> None:
        numbers = {kind: self._number(kind) for kind in {kind for *_, kind in parts}}
        for (width, start, kind), part in parts.items():
            self._add((file.id, width, numbers[kind], start), part)
        self._db.execute("UPDATE file SET begin = ?, end = ?, ended = ? WHERE id = ?", (*reach, file.id))
        file.reach = reach
        self._portion = min(self._portion * PORTION_PARTS // (len(parts) + 1) + 1, MOST_BYTES)

    def _number(self, kind: Kind) -> int:
        said = json.dumps(kind)
        self._db.execute("INSERT OR IGNORE INTO kind (caller, said) VALUES (?, ?)", (_name(kind.caller), said))
        (number,) = self._db.execute("SELECT id FROM kind WHERE said = ?", (said,)).fetchone()
        return cast(int, number)

    def _add(self, key: tuple[int, int, int, int], part: _Part) -> None:
        row = self._db.execute(f"SELECT low, high, slowest, count FROM part WHERE {KEY}", key).fetchone()  # noqa: S608
        if row:
            low, high, slowest, told = row
            part.add(_Part(low, high, list(map(tuple, json.loads(slowest))), _told(told)))
        self._db.execute("REPLACE INTO part VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*key, *part.row()))


@contextmanager
def opened(log: Path) -> Iterator[Numbers]:
    """Give the numbers of a log; whoever writes them is waited for."""
    before = _mark(numbers_file(log))
    with ExitStack() as stack:
        try:
            files = _files(log, stack)
            db = stack.enter_context(closing(_connect(numbers_file(log)) if files else _nothing()))
            if not _are_known(db, files):
                with _begun(db):
                    files = _files(log, stack)  # as they are now: of two that look one writes first
                    _note(db, files)
            yield Numbers(db, files)
        except sqlite3.DatabaseError as error:
            now = _mark(numbers_file(log))
            # as long as it is open here, no other file has its number
            if _is_broken(error) and before and now and before[0] == now[0]:
                _remove(numbers_file(log), now)
            raise


def numbers_file(log: Path) -> Path:
    """Return where the numbers of a log are kept."""
    return log.with_name(log.name + ".numbers")


def finest(caller: str | None) -> int:
    """Return the shortest stretch that is kept: there are too many callers to keep each one's minutes."""
    return HOUR if caller else MINUTE


def widest(seconds: int) -> int:
    """Return the longest of the widths that divide a time, or a stretch of time."""
    return max(width for width in WIDTHS if seconds % width == 0)


def minute_of(record: Entry) -> int:
    """Return the Unix time of the minute that a request began in."""
    return int(min(max(record["timestamp"], 0), FOR_EVER)) // MINUTE * MINUTE


def ended(record: Entry) -> float:
    """Return the Unix time at which a request ended: what stands before its line ended before."""
    return cast(float, record["timestamp"] + (record.get("duration_ms") or 0) / 1000)


def _connect(path: Path) -> sqlite3.Connection:
    _make(path)
    mark = _mark(path)
    try:
        db = sqlite3.connect(path, LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version in (0, VERSION):
            db.executescript("" if version else SCHEMA)
            return db
    except sqlite3.DatabaseError as error:
        if not _is_broken(error):
            raise
    _remove(path, mark)
    return _connect(path)


def _make(path: Path) -> None:
    """Make the file where there is none: SQLite would let everybody read it.

    One that is there is not opened: to close a file ends all the locks that a process has on it, other threads' too
    (fcntl(2)), and two that write at once break it.
    """
    with MAKING:
        if is_no_file(path) or not path.exists():
            os.close(open_own(path))


def _is_broken(error: sqlite3.Error) -> bool:
    return type(error) is sqlite3.DatabaseError


def _remove(path: Path, mark: tuple[int, int] | None) -> None:
    """Remove the file, unless it has been made again meanwhile."""
    with MAKING:
        if _mark(path) == mark:
            # in this order: what is half written belongs to the old one
            for name in (f"{path.name}-journal", path.name):
                path.with_name(name).unlink(missing_ok=True)


def _mark(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from one made in its place: its number, which may be given again, and its time."""
    with suppress(FileNotFoundError):
        stat = path.stat()
        return stat.st_ino, stat.st_ctime_ns
    return None


def _nothing() -> sqlite3.Connection:
    """No log, no file beside it."""
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    db.executescript(SCHEMA)
    return db


def _begun(db: sqlite3.Connection) -> sqlite3.Connection:
    """Begin a transaction; leaving the connection's context ends it."""
    db.execute("BEGIN IMMEDIATE")
    return db


def _files(log: Path, stack: ExitStack) -> list[LogFile]:
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
    """Return what tells a file of the log from others, whatever its name: its first record."""
    with suppress(*BROKEN):
        for line in data:
            if parse(line):
                return hashlib.sha256(line.rstrip(b"\n")).hexdigest()[:16]
    return None


def _are_known(db: sqlite3.Connection, files: list[LogFile]) -> bool:
    """Find what is known of the files; return whether each is, and none that is gone."""
    rows = db.execute("SELECT first, id, inode, packed, begin, end FROM file").fetchall()
    known = {first: row for first, *row in rows}
    for file in files:
        if file.first in known and _is_same(file, *known[file.first][1:]):
            file.id = known[file.first][0]
    return len(known) == len(files) and all(file.id for file in files)


def _note(db: sqlite3.Connection, files: list[LogFile]) -> None:
    """Add files that are not known; forget those that are gone, or not what they were."""
    _are_known(db, files)
    gone = {number for (number,) in db.execute("SELECT id FROM file").fetchall()} - {file.id for file in files}
    for number in gone:
        db.execute("DELETE FROM part WHERE file = ?", (number,))
        db.execute("DELETE FROM file WHERE id = ?", (number,))
    if gone:
        db.execute("DELETE FROM kind WHERE id NOT IN (SELECT kind FROM part)")
    for file in files:
        if not file.id:
            begin, end = (FAR, 0) if file.packed else (_end(file.data),) * 2
            add = "INSERT INTO file (first, inode, packed, begin, end) VALUES (?, ?, ?, ?, ?)"
            file.id = db.execute(add, (file.first, file.inode, file.packed, begin, end)).lastrowid or 0


def _is_same(file: LogFile, inode: int, packed: bool, begin: int, end: int) -> bool:
    """Whether a file is what it was: longer, or compressed when all of it was counted; not another, nor cut."""
    if file.packed and not packed:
        return begin == 0 and file.unpacked == end % 2**32
    return file.inode == inode and (file.packed or file.data.seek(0, os.SEEK_END) >= end)


def _end(data: IO[bytes]) -> int:
    """Return where the last whole line ends."""
    size = data.seek(0, os.SEEK_END)
    return size - len(next(pieces_back(data)))


def _has_more(file: LogFile) -> bool:
    """Whether there may be lines behind the counted part."""
    return bool(file.reach.begin) if file.packed else any(_lines(file.data, file.reach.end, FAR))


def _line_before(data: IO[bytes], end: int, size: int) -> int:
    """Return where a line begins, so many bytes before the place where another does; or more, where that is longer."""
    begin, start = end, end
    while begin == end:
        start = max(0, start - size)
        data.seek(max(0, start - 1))
        begin = start and start - 1 + len(data.readline())
    return begin


def _count(file: LogFile, begin: int, end: int, pause: Callable[[], object]) -> tuple[Reach, Parts]:
    """Count the whole lines that begin between two places; return what of the file is counted then."""
    at, first, parts = begin, None, Parts(_Part)
    for number, line in enumerate(_lines(file.data, begin, end)):
        if number % PAUSE_LINES == 0:
            pause()
        low, at = at, at + len(line)
        if record := parse(line):
            first = first or ended(record)
            kind = kind_of(record)
            for each in {kind, kind._replace(caller=None)}:
                width = finest(each.caller)
                parts[width, minute_of(record) // width * width, each].count_line(record, low, at)
    _widen(parts)
    reach = file.reach
    if begin < reach.begin and not file.packed:
        return Reach(begin, reach.end, first), parts
    return Reach(0 if file.packed and at < end else reach.begin, at, reach.ended or first), parts


def _lines(data: IO[bytes], at: int, end: int) -> Iterator[bytes]:
    with suppress(*BROKEN):
        data.seek(at)
        while at < end and (line := data.readline()).endswith(b"\n"):
            yield line
            at += len(line)


def _widen(parts: Parts) -> None:
    """Add the parts of longer stretches of time."""
    for narrower, wider in pairwise(WIDTHS):
        for (width, start, kind), part in list(parts.items()):
            if width == narrower:
                parts[wider, start // wider * wider, kind].add(part)


def _name(caller: str | None) -> str | None:
    """JSON has half of a surrogate pair, SQLite has not."""
    return None if caller is None else json.dumps(caller)


def _told(text: str) -> Count:
    *others, latency, first_chunk = json.loads(text)
    return Count(*others, *(Distribution(zip(*each, strict=True)) for each in (latency, first_chunk)))
