"""One request's clock, and the switch that stops it from another thread.

`requests` bounds each read of a socket, never the whole, and a thread that waits for a silent upstream does not
see its own client leave. So one watchdog thread a process looks at every running request twenty times a second and
stops what it waits for: at the deadline, or when the client's socket is hung up. A client that does not read its answer
is cut off a little later.
"""

from __future__ import annotations

import logging
import math
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from ..errors import ClientGone, TimedOut, stack_of
from .per_process import PerProcess

TICK = 0.05
# What a client has after the deadline to read what is there, before it is cut off: it holds a thread meanwhile.
READ_SECONDS = 5.0
WHOLE = "no complete answer within the time a request may take (REQUEST_TIMEOUT)"
FIRST_CHUNK = "no beginning of an answer within the time of a first chunk (FIRST_CHUNK_TIMEOUT)"
# Linux says so when the peer has closed its side; elsewhere poll() reports only the full close (POLLHUP).
HANG_UP = getattr(select, "POLLRDHUP", 0)

logger = logging.getLogger(__name__)


class Deadline:
    """Bounds everything one request does. `seconds` is its whole time, `client` the socket to its client or None.

    `silence`: the seconds after which a backend that waits for its server yields an empty chunk; None: never.
    `more_in_hand`: a backend has read more of its answer already; `is_held`: what came before waits to leave with it.
    """

    def __init__(self, seconds: float, client: socket.socket | None = None) -> None:
        self._end = time.monotonic() + seconds
        self._until = self._end
        self._words = WHOLE
        self._stop: Callable[[], object] | None = None
        self._gone = False
        self._kept = False
        self.client = client
        self.silence: float | None = None
        self.more_in_hand = self.is_held = False

    def keep(self) -> None:
        """Watch the client until `release`: one that does not read its answer in time is cut off."""
        self._kept = True
        _watchdog().add(self)

    def release(self) -> None:
        """End what `keep` began."""
        self._kept = False
        _watchdog().remove(self)

    def remaining(self) -> float:
        """Return the seconds left for what runs now, never less than 0."""
        return max(0.0, self._until - time.monotonic())

    def check(self) -> None:
        """Raise ClientGone or TimedOut if the request is over."""
        if self._gone:
            raise ClientGone
        if self.remaining() <= 0:
            raise TimedOut(self._words)

    @contextmanager
    def keeping(self, seconds: float, at_most: float = math.inf) -> Iterator[None]:
        """Inside, the deadline comes `seconds` earlier, so that something is left for what follows.

        Or `at_most` seconds from now, the time of a first chunk.
        """
        first = time.monotonic() + at_most
        self._until = min(self._end - seconds, first)
        self._words = FIRST_CHUNK if self._until == first else WHOLE
        try:
            self.check()
            yield
        finally:
            self._until, self._words = self._end, WHOLE

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """Inside, `stop` is called from the watchdog's thread when the request is over; it must not block."""
        self._stop = stop
        _watchdog().add(self)
        try:
            yield
        finally:
            self._stop, self.more_in_hand = None, False
            if not self._kept:
                _watchdog().remove(self)

    def wait(self, seconds: float) -> None:
        """Sleep; raise ClientGone or TimedOut when the request ends first."""
        over = threading.Event()
        with self.stopping(over.set):
            over.wait(min(seconds, self.remaining()))
        self.check()

    def hung_up(self) -> None:
        """Note that the client is gone, and stop what runs."""
        self._gone = True
        self.stop()

    def stop(self) -> None:
        """Stop what runs now, if anything does. Where that fails it is said once: all requests need the watchdog."""
        try:
            if stop := self._stop:
                stop()
        except Exception as error:
            self._stop = None
            logger.error("what runs could not be stopped: an unexpected %s", stack_of(error))

    def enforce(self) -> None:
        """Stop what is over; some seconds later, cut off a client that has not read the end."""
        if self._gone or self.remaining() <= 0:  # again and again: it may have begun only after the client had gone
            self.stop()
        if self.client and time.monotonic() > self._end + READ_SECONDS:
            with suppress(OSError):
                self.client.shutdown(socket.SHUT_RDWR)


class _Watchdog:
    def __init__(self) -> None:
        self._running: set[Deadline] = set()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def add(self, deadline: Deadline) -> None:
        self._running.add(deadline)
        if self._thread is None:
            self._start()

    def remove(self, deadline: Deadline) -> None:
        self._running.discard(deadline)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="llm-api-watchdog", daemon=True)
                self._thread.start()

    def _watch(self) -> None:
        # It looks twenty times a second, busy or not: to be woken would cost each request a switch of threads.
        while True:
            time.sleep(TICK)
            if running := self._running.copy():
                self._inspect(running)

    def _inspect(self, running: set[Deadline]) -> None:
        clients = {fd: deadline for deadline in running if deadline.client and (fd := deadline.client.fileno()) >= 0}
        for deadline in running:
            deadline.enforce()
        for fd, event in look(clients, HANG_UP):
            if event & (HANG_UP | select.POLLHUP | select.POLLERR):
                clients[fd].hung_up()


def look(descriptors: Iterable[int], events: int) -> list[tuple[int, int]]:
    """Return what poll() says of the descriptors now."""
    poll = select.poll()
    for fd in descriptors:
        poll.register(fd, events)
    return poll.poll(0)


# A forked child has no thread of its parent, and may have got a lock that is held for ever.
_watchdog = PerProcess(_Watchdog)
