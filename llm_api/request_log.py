"""The log file: one JSON object a line, appended so that no kill, full disk or rotation loses or tears one.

The protocol, each step with what was lost without it, is measured in the design's reliability page, section 1:

1. The line is serialised first: ASCII, no NaN. Readers split bytes on newlines only.
2. A lock of this process, since an flock whose descriptor is shared by threads excludes none of them.
3. A descriptor of this process: one that is inherited over fork shares its flock with the parent.
4. An flock on the log itself (a sidecar can be deleted), waited for two seconds at most.
5. If the path names another file by now, that one is opened: rotation is by rename.
6. A torn last line is mended first, or it would swallow this one.
7. Written whole or cut back to the old size.
8. Only when `append` has returned may the answer's last byte leave.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import strict_json
from .errors import LogUnavailable

LOCK_SECONDS = 2.0
REDACTED = "[redacted]"
# A shorter key is more likely to be a placeholder, and to occur in any text.
MIN_SECRET_CHARS = 8


class RequestLog:
    """Appends records to the file `path`; the values in `secrets` never reach it."""

    def __init__(self, path: str | Path, secrets: tuple[str, ...] = ()) -> None:
        self.path = Path(path)
        self.failure: str | None = None
        self._secrets = [strict_json.dumps(s)[1:-1] for s in secrets if len(s) >= MIN_SECRET_CHARS]
        self._lock = threading.Lock()
        self._file: int | None = None
        _logs.add(self)

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one line. Raises LogUnavailable, with the reason in `failure` until an append succeeds again."""
        line = self._redacted(strict_json.dumps(record)).encode("ascii") + b"\n"
        try:
            with self._exclusive() as file:
                _append(file, line, self.path)
        except OSError as error:
            self.failure = f"{self.path.name} can't be written: {os.strerror(error.errno) if error.errno else error}"
            raise LogUnavailable(f"the request could not be logged, so it is not answered: {self.failure}") from error
        self.failure = None

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return text

    @contextmanager
    def _exclusive(self) -> Iterator[int]:
        if not self._lock.acquire(timeout=LOCK_SECONDS):
            raise TimeoutError("another thread holds it")
        try:
            file = self._locked_file()
            try:
                yield file
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)
        finally:
            self._lock.release()

    def _locked_file(self) -> int:
        while True:
            if self._file is None:
                self._file = _open(self.path)
            _flock(self._file)
            if _names(self.path, self._file):
                return self._file
            os.close(self._file)
            self._file = None

    def _forget_descriptor(self) -> None:
        self._lock = threading.Lock()
        self._file = None


_logs: weakref.WeakSet[RequestLog] = weakref.WeakSet()


def _start_afresh() -> None:
    for log in _logs:
        log._forget_descriptor()


os.register_at_fork(after_in_child=_start_afresh)


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)


def _flock(file: int) -> None:
    """Take the lock, or raise TimeoutError: whoever holds it may be stopped, which must not hang the service."""
    give_up = time.monotonic() + LOCK_SECONDS
    pause = 0.0005
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise TimeoutError("another process holds it") from None
        time.sleep(pause)
        pause = min(2 * pause, 0.01)


def _names(path: Path, file: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _append(file: int, line: bytes, path: Path) -> None:
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        _mend(file, size, path)
        size = os.fstat(file).st_size
    try:
        _write(file, line)
    except BaseException:
        os.ftruncate(file, size)
        raise


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _mend(file: int, size: int, path: Path) -> None:
    """End a last line that is whole; set aside one that is not, in `LOG.torn`."""
    tail = _last_line(file, size)
    if _is_record(tail):
        _write(file, b"\n")
        return
    torn = _open(path.with_name(path.name + ".torn"))
    try:
        _write(torn, tail + b"\n")
    finally:
        os.close(torn)
    os.ftruncate(file, size - len(tail))


def _last_line(file: int, size: int) -> bytes:
    start, tail = size, b""
    while start and b"\n" not in tail:
        start = max(0, start - 65_536)
        tail = os.pread(file, size - start, start)
    return tail.rpartition(b"\n")[2]


def _is_record(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
