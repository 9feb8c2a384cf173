"""The process that a local model runs in: one for all workers, begun by whoever needs it first.

An open connection to its socket `lease` is a lease: without any it ends within two seconds, by whatever death its users
went. The lock on its folder is inherited by it and never unlocked, so it is held exactly as long as it lives, and a
socket behind a free lock is a dead one's. What cleans folders for temporary files leaves a locked one alone
(tmpfiles.d(5)). Two services of one user that ask for the same file with the same settings share it; no others meet.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...errors import BackendError, CircuitOpen, NotConfigured, ServerError, TimedOut, Unreachable
from ...runtime.deadline import Deadline
from .serve import CANT_FETCH, CANT_LOAD

PROGRAM = Path(__file__).with_name("serve.py")
TICK = 0.05
# For its first line of Python, on a machine that has other things to do.
START_SECONDS = 30.0
# For its word that it has loaded, where it has.
JOIN_SECONDS = 0.05
# How long a request that has lost its connection waits for the engine's last words.
WORDS_SECONDS = 1.0
DEATHS = 3
REST_SECONDS = 10.0
DAY_SECONDS = 86_400
MAX_REASON_CHARS = 300
# sun_path's 108 bytes less the longest name in the folder, and macOS has 104.
MAX_FOLDER_BYTES = 90
# Of its threads, which spin while they wait for each other.
ENVIRONMENT = {"GOMP_SPINCOUNT": "3000"}  # docs/local-model.md
# They decide which model a name is, and which GPU it is on.
SURROUNDINGS = ("HF_ENDPOINT", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")

# Of this machine, before a file's name: clients see the last words.
FOLDERS = re.compile(r"(?<![\w/:])/(?:[^\s/'\"]+/)+")
# How llama.cpp's lines begin.
ERROR = re.compile(r"^[\d.]+ E ")

logger = logging.getLogger(__name__)

Hello = dict[str, Any]


class Lease:
    """One process's use of one engine, which it has found, or begun as `process`.

    `hello` is what the engine says when it has loaded, `ended` why it is gone, `doing` what it does until then.
    """

    def __init__(self, doing: str) -> None:
        self.doing = doing
        self.process: subprocess.Popen[bytes] | None = None
        self.hello: Future[Hello] = Future()
        self.ended: Future[str] = Future()


class Engine:
    """The engine for `asked`, as this process sees it; the process takes a lease when it first needs it."""

    def __init__(self, name: str, asked: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self.name, self.key = name, ""
        self._folder = _folder(asked)
        self.socket = str(self._folder / "http.sock")
        self._asked = {**asked, "lease": str(self._folder / "lease.sock"), "http": self.socket}
        self._environment = environment
        self._deaths = self._folder / "deaths"
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._was_needed = False

    def begin(self) -> Lease:
        """Return the lease, and take it first where there is none. Does not wait for the model."""
        with self._lock:
            lease = self._lease
            if lease is None:
                self._was_needed = True
                lease = self._lease = Lease(f"loading {self.name}")
                threading.Thread(target=self._hold, args=[lease], name="llm-api-engine", daemon=True).start()
            return lease  # it may have ended already

    def lease(self, deadline: Deadline) -> Lease:
        """Return the lease of an engine that has loaded its model.

        Raises TimedOut, ClientGone, ServerError where it can't be had, CircuitOpen where it has died too often.
        """
        self._check_rest()
        lease, over = self.begin(), threading.Event()
        lease.hello.add_done_callback(lambda _: over.set())
        with deadline.stopping(over.set):
            over.wait(deadline.remaining())
        if not lease.hello.done():
            with suppress(TimedOut):
                deadline.check()
            raise TimedOut(f"{self.name} is still being loaded")
        lease.hello.result()
        return lease

    def check(self) -> Lease | None:
        """Return the lease of an engine that has loaded its model, or None where nobody has needed one yet.

        One that others have, or that has died, is this process's too: it takes a lease of it, and begins it again.
        Raises CircuitOpen, Unreachable while the model is being loaded, what it died of where it can't be.
        """
        self._check_rest()
        if not (self._was_needed or _is_held(self._folder)):
            return None
        lease = self.begin()
        wait([lease.hello], JOIN_SECONDS)
        if not lease.hello.done():
            raise Unreachable(lease.doing)
        lease.hello.result()
        return lease

    def served(self) -> None:
        """Note that it has answered: what comes now is another row of deaths."""
        self._deaths.unlink(missing_ok=True)

    def cause_of(self, error: BackendError, lease: Lease) -> BackendError:
        """Return the error for a request whose connection broke with `error`: its own, or that of the engine's end."""
        try:
            detail = lease.ended.result(WORDS_SECONDS)
        except TimeoutError:
            return error
        ended = ServerError(f"the engine of {self.name} ended", detail=detail)
        ended.retryable = isinstance(error, Unreachable)  # otherwise it may have been this request that it died of
        return ended

    def _check_rest(self) -> None:
        """Raise CircuitOpen while it is left alone, by all its users: begun again at once, it would only die again."""
        try:
            deaths = self._deaths.stat()
        except FileNotFoundError:
            return
        left = deaths.st_mtime + REST_SECONDS - time.time()
        if deaths.st_size >= DEATHS and 0 < left <= REST_SECONDS:
            raise CircuitOpen(
                f"the engine of {self.name} ended {deaths.st_size} times in a row, and is left alone for now",
                detail=self._output()[-1], retry_after=left,
            )  # fmt: skip

    def _hold(self, lease: Lease) -> None:
        try:
            connection, hello = self._joined(lease)
        except BackendError as error:
            self._died(lease, error.detail or error.message)
            lease.hello.set_exception(error)
            return
        if lease.process:
            # at this level it reaches the console without any configuration
            size, seconds, asked = hello["size"] / 1e6, hello["seconds"], self._asked
            room = f"{asked['threads']} threads, {asked['slots']} slots of {asked['context']:,} tokens"
            logger.warning("%s is loaded: %.0f MB in %.1f s; %s", self.name, size, seconds, room)
        self.key = hello["key"]
        lease.hello.set_result(hello)
        while _line(connection):
            pass
        self._died(lease, self._last_words(lease))

    def _died(self, lease: Lease, words: str) -> None:
        if lease.process:
            with suppress(OSError), self._deaths.open("a") as file:
                file.write(".")  # one for each
        self._lease = None
        logger.error("the engine of %s ended: %s", self.name, words)
        lease.ended.set_result(words)

    def _joined(self, lease: Lease) -> tuple[socket.SocketIO, Hello]:
        """Find the engine, or begin it; return the connection that is the lease, and what it said when it had loaded.

        Raises BackendError.
        """
        give_up = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up:
            if connection := _connected(self._asked["lease"]):
                while line := _line(connection):
                    said = json.loads(line)
                    if "key" in said:
                        return connection, said
                    self._tell(lease, said["doing"])
                connection.close()  # it was about to go, or has died
                give_up = time.monotonic() + START_SECONDS
            if lease.process is None:
                lease.process = self._begun()
            elif lease.process.poll() is not None:
                raise self._failure(lease)
            time.sleep(TICK)
        raise Unreachable(f"the engine's process does not answer in {START_SECONDS:.0f} s")

    def _tell(self, lease: Lease, words: str) -> None:
        lease.doing = f"loading {self.name}: {words}"
        if lease.process:
            logger.warning("%s: %s", self.name, words)

    def _begun(self) -> subprocess.Popen[bytes] | None:
        """Begin its process, unless another has: then that one is there in a moment."""
        try:
            self._folder.mkdir(0o700, exist_ok=True)  # another service may have swept it since
            with (
                _locked(self._folder, fcntl.LOCK_EX) as lock,
                (self._folder / "starts").open("a+") as starts,
                (self._folder / "output").open("wb") as output,
            ):
                asked = json.dumps(self._asked | {"starts": starts.tell() + 1, "lock": lock})
                starts.write(".")  # one for each
                for name in ("lease", "http"):
                    Path(self._asked[name]).unlink(missing_ok=True)
                return subprocess.Popen(  # noqa: S603  (no word of it from outside)
                    [sys.executable, "-P", PROGRAM, asked], env={**ENVIRONMENT, **os.environ, **self._environment},
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[lock],
                    start_new_session=True,
                )  # fmt: skip
        except BlockingIOError:
            return None
        except OSError as error:
            raise NotConfigured(
                f"the engine can't be begun in {self._folder}: {os.strerror(error.errno or 0)}"
            ) from None

    def _failure(self, lease: Lease) -> BackendError:
        assert lease.process
        code, words = lease.process.wait(), self._last_words(lease)
        if code == CANT_FETCH:
            return NotConfigured(words)
        what = "can't be loaded: is HF_MODEL a model?" if code == CANT_LOAD else "ended its engine"
        failed = ServerError(f"{self.name} {what}", detail=words)
        failed.retryable = False  # it would fail in the same way
        return failed

    def _last_words(self, lease: Lease) -> str:
        """Return why it is gone: to be asked when it is."""
        if lease.process is None:
            time.sleep(4 * TICK)  # who has begun it adds what it died of
        elif why := _why(lease.process.wait(), self._output()):
            with suppress(OSError), (self._folder / "output").open("a") as file:  # its disk may be full
                file.write(f"\n{why}\n")
            return why
        return self._output()[-1]

    def _output(self) -> list[str]:
        text = ""
        with suppress(OSError):
            text = (self._folder / "output").read_text("utf-8", "replace").replace(self._asked["model"], self.name)
        lines = [line[:MAX_REASON_CHARS] for line in FOLDERS.sub("", text).splitlines() if line.strip()]
        return lines or ["it ended without a word, as what is killed does"]


def _why(code: int, lines: list[str]) -> str | None:
    if code == CANT_LOAD:
        # what follows is only that it can't go on
        return ERROR.sub("", next(filter(ERROR.match, lines), lines[-1]))
    if code == -signal.SIGKILL:
        return "it was killed (SIGKILL), as by the kernel where memory runs out"
    return f"it died of {signal.Signals(-code).name}: {lines[-1]}" if code < 0 else None


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[int]:
    """Lock the folder; yield the descriptor that holds the lock. Raises BlockingIOError where an engine lives there."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


def _is_held(folder: Path) -> bool:
    """Whether an engine lives there."""
    try:
        with _locked(folder, fcntl.LOCK_SH):
            return False
    except BlockingIOError:
        return True
    except OSError:  # nobody has begun one yet
        return False


def _connected(path: str) -> socket.SocketIO | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        return None
    # unbuffered: a buffer has a lock, which a forked child would wait for
    lease = connection.makefile("rb", buffering=0)
    connection.close()  # with the lease
    _leases.add(lease)
    return lease


def _line(connection: socket.SocketIO) -> bytes:
    """Return what is said; b"" where the engine is gone."""
    try:
        return connection.readline()
    except OSError:
        return b""


def _folder(asked: Mapping[str, Any]) -> Path:
    """Return the folder of the engine for `asked`, which only this user can enter. Raises NotConfigured."""
    # a file system that machines share has sockets and locks of a folder for each of them apart
    around = [socket.gethostname(), *map(os.environ.get, SURROUNDINGS)]
    same = [sys.executable, PROGRAM.stat().st_mtime_ns, asked, around]
    name = hashlib.sha256(json.dumps(same).encode()).hexdigest()[:12]
    folder = Path(f"llm-api-{os.geteuid()}")
    try:
        # gettempdir raises FileNotFoundError where nothing can be written to
        folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / folder
        if len(os.fsencode(folder / name)) > MAX_FOLDER_BYTES:
            raise NotConfigured(f"{folder} is too long for a socket's address: set XDG_RUNTIME_DIR to a shorter one")
        folder.mkdir(0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077 or not stat.S_ISDIR(found.st_mode):
            raise NotConfigured(f"{folder} is open to other users, or another's: set XDG_RUNTIME_DIR to your own")
        _sweep(folder)
    except OSError as error:
        raise NotConfigured(
            f"{folder} can't be made ({os.strerror(error.errno or 0)}): set XDG_RUNTIME_DIR to one that can be"
        ) from None
    return folder / name


def _sweep(folder: Path) -> None:
    """Remove what engines have left there that have not been begun for a day: each model and setting has its own."""
    for left in folder.iterdir():
        with suppress(OSError):  # others sweep too, and a living engine's is locked
            if time.time() - left.stat().st_mtime > DAY_SECONDS:
                with _locked(left, fcntl.LOCK_EX):
                    shutil.rmtree(left, ignore_errors=True)


# A forked child takes its own when it needs one: with its parent's it would keep the engine alive.
_leases: weakref.WeakSet[socket.SocketIO] = weakref.WeakSet()


def _let_go() -> None:
    for lease in list(_leases):
        lease.close()


os.register_at_fork(after_in_child=_let_go)
