"""The log file: one JSON object a line, appended so that no kill, full disk or rotation loses or tears one.

docs/log.md, "The protocol", has what was measured without each of these steps:

1. The line is serialised first: ASCII, no NaN. Readers split bytes on newlines only.
2. A lock of this process, since an flock whose descriptor is shared by threads excludes none of them. The thread that
   gets it writes the lines of all threads that wait: a turn at the file costs six system calls, and the GIL with them.
3. A descriptor of this process: one that is inherited over fork shares its flock with the parent.
4. An flock on the log itself (a sidecar can be deleted), waited for two seconds at most.
5. If the path names another file by now, that one is opened: rotation is by rename, our own (LOG_MAX_BYTES) too.
6. A torn last line is repaired first, or it would swallow this one.
7. Written whole or cut back to the old size.
8. Only when `append` has returned may the answer's last byte leave.

Of standard output (LOG_FILE=-) none of 3 to 7 is known: a line is written at once, where somebody reads.

When a line can't be written, the request is not answered, and each later one tries again, so that the service recovers
by itself. With LOG_REQUIRED=false the line goes to stderr instead, and is counted.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import stat
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

from .. import strict_json
from ..errors import ConfigError, LogUnavailable
from ..settings import Settings
from .files import is_foreign, parse, pieces_back

LOCK_SECONDS = 2.0
PROBE_BYTES = 65_536
STDOUT = 1

logger = logging.getLogger(__name__)


class Turn:
    """A lock that is waited for some seconds only; TimeoutError when they are over."""

    def __init__(self, lock: threading.Lock | threading.Semaphore, seconds: float) -> None:
        self._lock = lock
        self._seconds = seconds

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=self._seconds):
            raise TimeoutError("another thread holds it")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@dataclass(eq=False)
class _Line:
    data: bytes
    is_written: bool = False
    is_given_back: bool = False


class RequestLog:
    """Appends records to LOG_FILE; the values of secret settings never reach it.

    `failure` is the reason why the last line could not be written, or None; `failures` counts such lines.
    """

    def __init__(self, settings: Settings) -> None:
        self.path = Path(settings.log_file)
        self.failure: str | None = None
        self.failures = 0
        # as a line has them
        self._secrets = [strict_json.dumps(secret)[1:-1] for secret in settings.secrets]
        self._settings = settings
        self._lock = Turn(threading.Lock(), LOCK_SECONDS)
        self._waiting: deque[_Line] = deque()
        self._file: int | None = None
        self._opened: os.stat_result
        self._size = 0
        self._close: Callable[[], object] = lambda: None
        _logs.add(self)

    def refuse_what_is_no_file(self) -> None:
        """Raise ConfigError where LOG_FILE names a link, a folder, a pipe or a device."""
        if is_no_file(self.path) and not self._settings.logs_to_stdout:
            raise ConfigError(f"LOG_FILE={self.path} is no file: name one, or - for standard output")

    def append(self, record: Mapping[str, Any]) -> bool:
        """Append one line; return whether it is there. Raises LogUnavailable instead of False with LOG_REQUIRED."""
        line = strict_json.dumps(record) + "\n"
        if any(secret in line for secret in self._secrets):
            line = strict_json.dumps(self._redacted(record)) + "\n"
        try:
            self._write_in_turn(_Line(line.encode("ascii")))
        except OSError as error:
            self._failed(error)
            self.failures += 1
            if self._settings.log_required:
                raise LogUnavailable(f"the request can't be logged, so it is not answered: {self.failure}") from error
            with suppress(OSError):  # it may be a file on the same full disk
                sys.stderr.write(line)
            return False
        self._works()
        return True

    def check(self) -> None:
        """Try whether lines can be written, as far as that shows without writing one; update `failure`."""
        try:
            with self.exclusive() as file:
                if self.failure and not self._settings.logs_to_stdout:
                    _try_space(self.path, os.fstat(file).st_size)
        except OSError as error:
            self._failed(error)
        else:
            self._works()

    def is_torn(self) -> bool:
        """Return whether the last line has no end, while no process is writing it. Raises OSError."""
        with self.exclusive() as file:
            size = os.fstat(file).st_size
            return size > 0 and os.pread(file, 1, size - 1) != b"\n"

    def _failed(self, error: OSError) -> None:
        why = os.strerror(error.errno) if error.errno else str(error)
        if not self.failure:
            logger.error("%s can't be written: %s", self.path, why)
        self.failure = f"{self.path.name} can't be written: {why}"

    def _works(self) -> None:
        if self.failure:
            logger.warning("%s can be written again", self.path)
        self.failure = None

    def _write_in_turn(self, mine: _Line) -> None:
        self._waiting.append(mine)
        give_up = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                with self._lock:
                    if not mine.is_written:
                        with self._locked(give_up) as file:
                            self._write_waiting(file, mine)
                    return
            except BaseException as error:
                if not (self._is_in_hand(mine) and isinstance(error, TimeoutError)):
                    raise

    def _is_in_hand(self, mine: _Line) -> bool:
        """Whether another thread is writing it, which then decides. A line that still waits is taken back."""
        try:
            self._waiting.remove(mine)
        except ValueError:
            return not mine.is_given_back
        return False

    def _write_waiting(self, file: int, mine: _Line) -> None:
        lines = self._take_waiting(mine)
        try:
            self._append(file, b"".join(line.data for line in lines))
        except BaseException as error:
            for line in lines:
                line.is_given_back = True
            if len(lines) == 1 or not isinstance(error, OSError):
                raise
            lines = [mine]  # it may fit alone; each other line gets its own turn
            self._append(file, mine.data)
        for line in lines:
            line.is_written = True

    def _take_waiting(self, mine: _Line) -> list[_Line]:
        """Return all lines that wait; with LOG_MAX_BYTES, which each line is held against, only `mine`."""
        if self._settings.log_max_bytes:
            self._waiting.remove(mine)
            return [mine]
        lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
        return lines if mine in lines else [*lines, mine]

    def _append(self, file: int, line: bytes) -> None:
        if self._settings.logs_to_stdout:
            _write(file, line)
            return
        size = self._repaired_size(file)
        while size > 0 and 0 < self._settings.log_max_bytes < size + len(line):
            self._rotate()
            file = self._locked_file(time.monotonic() + LOCK_SECONDS)
            size = self._repaired_size(file)
        try:
            _write(file, line)
            if self._settings.log_fsync:
                os.fdatasync(file)
        except BaseException:
            os.ftruncate(file, size)
            raise

    def _rotate(self) -> None:
        numbered = (self.path.with_name(f"{self.path.name}.{number}") for number in count(1))
        names = [self.path, *islice((name for name in numbered if not name.is_dir()), self._settings.log_backups)]
        for newer, older in reversed(list(pairwise(names))):
            with suppress(FileNotFoundError):  # also the log itself: renamed by somebody else meanwhile
                newer.replace(older)

    def _redacted(self, value: Any) -> Any:
        """Values, not the line: its escapes and names may contain a key by chance."""
        if isinstance(value, str):
            return self._settings.redact(value)
        if isinstance(value, list | tuple):
            return [self._redacted(item) for item in value]
        if isinstance(value, Mapping):
            return {name: self._redacted(item) for name, item in value.items()}
        return value

    @contextmanager
    def exclusive(self) -> Iterator[int]:
        """Inside, no other writer writes; the value is the log's descriptor. Raises OSError, also TimeoutError."""
        give_up = time.monotonic() + LOCK_SECONDS
        with self._lock, self._locked(give_up) as file:
            yield file

    @contextmanager
    def _locked(self, give_up: float) -> Iterator[int]:
        if self._settings.logs_to_stdout:
            yield _when_read(STDOUT, give_up)
            return
        try:
            yield self._locked_file(give_up)
        finally:
            if self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _locked_file(self, give_up: float) -> int:
        while True:
            if self._file is None:
                self._file = open_own(self.path)
                self._opened = os.fstat(self._file)
                self._close = weakref.finalize(self, os.close, self._file)
            _flock(self._file, give_up)
            if self._is_named():
                return self._file
            self._close()
            self._file = None

    def _is_named(self) -> bool:
        """Whether the path still names our file (its inode can't be reused while it is open); note how long it is."""
        try:
            now = os.stat(self.path)  # noqa: PTH116  (three times as fast)
        except FileNotFoundError:
            return False
        self._size = now.st_size
        return os.path.samestat(now, self._opened)

    def _repaired_size(self, file: int) -> int:
        if self._size and os.pread(file, 1, self._size - 1) != b"\n":
            _repair(file, self._size, self.path)
            self._size = os.fstat(file).st_size
        return self._size

    def _forget_descriptor(self) -> None:
        self._lock = Turn(threading.Lock(), LOCK_SECONDS)
        self._waiting.clear()
        self._close()  # the child's copy; the parent's lock stays
        self._file = None


_logs: weakref.WeakSet[RequestLog] = weakref.WeakSet()


def _start_afresh() -> None:
    for log in _logs:
        log._forget_descriptor()


os.register_at_fork(after_in_child=_start_afresh)


def open_own(path: Path) -> int:
    """Open a file of the log's, made where it is not there; for its user and group alone. Raises OSError on a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_no_file(path):
        raise OSError("it is no file")
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)


def is_no_file(path: Path) -> bool:
    """A pipe's reader may hold up each request, and whoever may write the folder must not choose a file by a link."""
    with suppress(OSError):  # what can't be looked at can't be opened either, and that says why
        return not stat.S_ISREG(path.lstat().st_mode)
    return False


def _when_read(pipe: int, give_up: float) -> int:
    """Return the pipe when it has room for a line. Raises TimeoutError."""
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    if not poll.poll(max(0, give_up - time.monotonic()) * 1000):
        raise TimeoutError("nobody reads it")
    return pipe


def _flock(file: int, give_up: float) -> None:
    """Take the lock, or raise TimeoutError: whoever holds it may be stopped, which must not hang the service."""
    pause = 0.0005
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise TimeoutError("another process holds it") from None
        time.sleep(pause)
        pause = min(2 * pause, 0.01)


def _try_space(path: Path, size: int) -> None:
    """Write into a file beside the log, as far from its start, since there may be a limit on a file's size too.

    Not into the log: it holds requests' lines and nothing else.
    """
    probe = path.with_name(path.name + ".probe")
    probe.unlink(missing_ok=True)  # a killed one's, or a link or a pipe that is none of ours
    try:
        with probe.open("xb") as file:
            file.seek(size)
            file.write(bytes(PROBE_BYTES))
    finally:
        probe.unlink(missing_ok=True)


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _repair(file: int, size: int, path: Path) -> None:
    """End a last line that is whole, or in another program's file; set aside one that is not, in `LOG.torn`."""
    tail = _last_line(file, size)
    if _is_record(tail) or _is_anothers(file, tail, size - len(tail)):
        _write(file, b"\n")
        return
    torn = open_own(path.with_name(path.name + ".torn"))
    try:
        _write(torn, tail + b"\n")
    finally:
        os.close(torn)
    os.ftruncate(file, size - len(tail))


def _is_anothers(file: int, tail: bytes, end: int) -> bool:
    """Whether the tail is another program's, or one of the lines before it that are near the file's ends."""
    some = min(PROBE_BYTES, end)
    first, last = (os.pread(file, some, start).split(b"\n") for start in (0, end - some))
    lines = [*first[:-1], *last[1:-1], *([tail] if tail.isascii() else [])]
    return any(not parse(line) and is_foreign(line) for line in lines)


def _last_line(file: int, size: int) -> bytes:
    with os.fdopen(file, "rb", closefd=False) as log:
        log.seek(size)
        return next(pieces_back(log))


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(strict_json.decode(line), dict)
    except ValueError:
        return False
