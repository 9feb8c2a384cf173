"""The log's numbers from minutes to days, kept beside it in LOG_FILE.numbers: nothing is counted twice.

An SQLite file. The log remains the only truth: the file may be deleted, and what it has is what the log has. Each
portion that is counted and how far that reaches are written in one transaction: a kill leaves both as they were before.
Of workers one counts at a time; all read the same. A file of the log is known by its first record, so renaming and
compressing it change nothing; what rotation deletes goes here too. First the newest part of the log is counted, then
what comes behind it, and back to its begin.

A row also has where in the file its lines are, so that single requests are found without reading the others.
"""

from __future__ import annotations

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
from typing import Any, NamedTuple, cast

from .files import FAR, Entry, LogFile, Reach, opened_files, parse
from .stats import Count, Distribution, Kind, Stats, count_of, kind_of
from .writer import is_no_file, open_own

WIDTHS = MINUTE, _, HOUR, _, DAY = (60, 900, 3600, 21_600, 86_400)
# In seconds; whole days.
FOR_EVER = DAY * 10**7
# What is counted at once: first so many bytes, then as many as have so many parts, which take the memory.
PORTION_BYTES, MOST_BYTES, PORTION_PARTS = 2**19, 2**23, 4000
PAUSE_LINES = 100
# Of so many of the slowest requests the places are kept.
KNOWN = 2
LOCK_SECONDS = 2.0
MAKING = threading.Lock()
# Another version's file is begun afresh.
VERSION = 5
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
KEPT = "SELECT low, high, slowest, count FROM part WHERE file = ? AND width = ? AND kind = ? AND start = ?"
CHOSEN = """FROM part WHERE file IN (SELECT value FROM json_each(?)) AND width = ?
    AND kind IN (SELECT value FROM json_each(?)) AND start >= ? AND start < ?"""
CALLERS = "SELECT DISTINCT caller FROM kind WHERE caller IS NOT NULL ORDER BY caller LIMIT ?"


@dataclass
class Tally:
    """Requests of one kind in a stretch of time. Their lines are in the bytes from `low` to `high` of a file; of the
    `slowest` it has the milliseconds and the places, slowest first.
    """

    low: int = FAR
    high: int = 0
    slowest: list[tuple[float, int]] = field(default_factory=list)
    count: Count = field(default_factory=Count)

    def add(self, other: Tally) -> None:
        """Add what was counted elsewhere in the file."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.slowest = sorted(self.slowest + other.slowest, reverse=True)[:KNOWN]
        self.count.add(other.count)


# By their width, when they begin, and of what kind.
Tallies = defaultdict[tuple[int, int, Kind], Tally]


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
                    self._keep(file, *_counted(file, begin, end, pause))
                    return True
        return False

    def _uncounted(self, until: float) -> tuple[LogFile, int, int] | None:
        """Return where the lines are that are to be counted next."""
        for file in self.files:
            if not (reach := self._reach(file)):
                continue  # somebody has found it gone
            file.reach = reach
            if file.has_more():
                return file, reach.end, reach.end + self._portion
            if reach.begin and not file.packed and (reach.ended or FOR_EVER) >= until:
                return file, file.line_before(reach.begin, self._portion), reach.begin
            if reach.ended and reach.ended < until:
                break
        return None

    def complete_since(self) -> float:
        """Return since when all requests are counted; 0 where that are all that the log has."""
        bound = time.time()
        if any(not file.packed and file.has_more() for file in self.files):
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

    def add_to(self, stats: Stats, since: int, width: int, kinds: dict[int, Kind], until: float) -> None:
        """Add what was counted since then, and before `until`, by `width` in seconds; `finest` or wider."""
        for kind, start, count in self._rows("kind, start, count", self.files, kinds, widest(width), since, until):
            stats.add(start, kinds[kind], _count(count))

    def parts(self, files: list[LogFile], kinds: Iterable[int], since: int, width: int, until: float) -> list[Part]:
        """Return the parts since then, as wide as there are that begin and end then; `width`: the shortest kept.

        At both ends there is more, up to a whole stretch of that width.
        """
        begin = since // width * width
        end = ceil(until / width) * width
        return self._parts(files, kinds, widest(gcd(begin, end)), begin, end)

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

    def _keep(self, file: LogFile, reach: Reach, tallies: Tallies) -> None:
        numbers = {kind: self._number(kind) for kind in {kind for *_, kind in tallies}}
        for (width, start, kind), tally in tallies.items():
            self._add((file.id, width, numbers[kind], start), tally)
        self._db.execute("UPDATE file SET begin = ?, end = ?, ended = ? WHERE id = ?", (*reach, file.id))
        file.reach = reach
        self._portion = min(self._portion * PORTION_PARTS // (len(tallies) + 1) + 1, MOST_BYTES)

    def _number(self, kind: Kind) -> int:
        said = json.dumps(kind)
        self._db.execute("INSERT OR IGNORE INTO kind (caller, said) VALUES (?, ?)", (_name(kind.caller), said))
        (number,) = self._db.execute("SELECT id FROM kind WHERE said = ?", (said,)).fetchone()
        return cast(int, number)

    def _add(self, key: tuple[int, int, int, int], tally: Tally) -> None:
        if row := self._db.execute(KEPT, key).fetchone():
            low, high, slowest, count = row
            tally.add(Tally(low, high, list(map(tuple, json.loads(slowest))), _count(count)))
        told = tally.low, tally.high, json.dumps(tally.slowest), _told(tally.count)
        self._db.execute("REPLACE INTO part VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*key, *told))


@contextmanager
def opened(log: Path) -> Iterator[Numbers]:
    """Give the numbers of a log; whoever writes them is waited for."""
    before = _mark(numbers_file(log))
    with ExitStack() as stack:
        try:
            files = opened_files(log, stack)
            db = stack.enter_context(closing(_connect(numbers_file(log)) if files else _nothing()))
            if not _are_known(db, files):
                with _begun(db):
                    files = opened_files(log, stack)  # as they are now: of two that look one writes first
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
    return int(min(max(record["timestamp"], 0), FOR_EVER - 1)) // MINUTE * MINUTE


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


def _are_known(db: sqlite3.Connection, files: list[LogFile]) -> bool:
    """Find what is known of the files; return whether each is, and none that is gone."""
    rows = db.execute("SELECT first, id, inode, packed, begin, end FROM file").fetchall()
    known = {first: row for first, *row in rows}
    for file in files:
        if file.first in known and file.was(*known[file.first][1:]):
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
            begin, end = (FAR, 0) if file.packed else (file.end(),) * 2
            add = "INSERT INTO file (first, inode, packed, begin, end) VALUES (?, ?, ?, ?, ?)"
            file.id = db.execute(add, (file.first, file.inode, file.packed, begin, end)).lastrowid or 0


def _counted(file: LogFile, begin: int, end: int, pause: Callable[[], object]) -> tuple[Reach, Tallies]:
    """Count the whole lines that begin between two places; return what of the file is counted then."""
    at, first, tallies = begin, None, Tallies(Tally)
    for number, line in enumerate(file.lines(begin, end)):
        if number % PAUSE_LINES == 0:
            pause()
        low, at = at, at + len(line)
        if record := parse(line):
            first = first or ended(record)
            kind, slowest = kind_of(record), [(float(record.get("duration_ms") or 0), low)]
            counted = Tally(low, at, slowest, count_of(record))
            for each in {kind, kind._replace(caller=None)}:
                width = finest(each.caller)
                tallies[width, minute_of(record) // width * width, each].add(counted)
    _widen(tallies)
    reach = file.reach
    if begin < reach.begin and not file.packed:
        return Reach(begin, reach.end, first), tallies
    return Reach(0 if file.packed and at < end else reach.begin, at, reach.ended or first), tallies


def _widen(tallies: Tallies) -> None:
    """Add those of longer stretches of time."""
    for narrower, wider in pairwise(WIDTHS):
        for (width, start, kind), tally in list(tallies.items()):
            if width == narrower:
                tallies[wider, start // wider * wider, kind].add(tally)


def _name(caller: str | None) -> str | None:
    """JSON has half of a surrogate pair, SQLite has not."""
    return None if caller is None else json.dumps(caller)


def _told(count: Count) -> str:
    """Return what is kept of it: of a distribution its classes, and how often each occurred."""
    distributions = ([list(each), list(each.values())] for each in (count.latency, count.first_chunk))
    told = [count.requests, count.tokens, count.generating_ms, *distributions]
    return json.dumps(told, separators=(",", ":"))


def _count(told: str) -> Count:
    *others, latency, first_chunk = json.loads(told)
    return Count(*others, *(Distribution(zip(*each, strict=True)) for each in (latency, first_chunk)))
