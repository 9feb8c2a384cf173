"""Circuit breakers: a model that keeps failing is left alone for a while, so that its fallback answers at once.

And the budget of retries.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from itertools import count

FAILURES = 5
# At random between these: of a fleet, not all processes shall try in the same second.
OPEN_SECONDS = 7.5, 12.5
REMEMBERED_SECONDS = 10.0
# A success this recent means that the backend lives, whatever fails: one node behind its address may be dead.
ALIVE_SECONDS = 10.0
# Places of answers that have ended, which those that were refused may take: they look for one twice a second.
MAX_PLACES, PLACE_SECONDS = 16, 2.0
# Models that clients named, in one backend.
MAX_MODELS = 64
# Retries to requests, over these seconds, and how many there may be in any case.
SHARE, BUDGET_SECONDS, FLOOR = 0.2, 10.0, 3


class Breaker:
    """One model's of one backend, in one process. Open after 5 failures in a row, for 10 s or so; then one may try.

    Failures open it only where nothing says that the backend lives: a success in the last 10 s, or a request that was
    sent before the one that failed and still has no answer, since it may be getting one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tickets = count()
        self._out: dict[int, float] = {}
        self._failures = 0
        self._places = 0
        self._served_at = -math.inf
        self._opened_at = self._open_until = 0.0
        self._trouble: tuple[float, str] | None = None
        self.is_open = False
        self.cause = ""

    def remember(self, trouble: str | None) -> None:
        """Note why the last request was not served, or None where it was."""
        self._trouble = (time.monotonic(), trouble) if trouble else None

    def recent_trouble(self) -> str | None:
        """Return why the last request was not served, where that was in the last 10 s."""
        at, trouble = self._trouble or (-math.inf, None)
        return trouble if time.monotonic() - at < REMEMBERED_SECONDS else None

    def open_for(self) -> float:
        """Return the seconds it stays open; 0 where a request may go through."""
        return max(0.0, self._open_until - time.monotonic())

    def admit(self) -> float:
        """As `open_for`; where a trial is due, admit this request and keep the others out until it has ended."""
        with self._lock:
            left = self.open_for()
            if not left and self.is_open:
                self._open()
            return left

    def serves_since(self, moment: float) -> bool:
        """Whether the backend answers others: one not long ago, or one that has been out since before `moment`."""
        with self._lock:
            return self._is_alive() or next(iter(self._out.values()), math.inf) < moment

    def take_place(self) -> bool:
        """Take the place of an answer that has ended not long ago, where there is one."""
        with self._lock:
            taken = self._places > 0 and time.monotonic() - self._served_at < PLACE_SECONDS
            self._places -= taken
            return taken

    def sent(self) -> int:
        """Note a request on its way; one of the methods below takes its ticket."""
        with self._lock:
            ticket = next(self._tickets)
            self._out[ticket] = time.monotonic()
            return ticket

    def served(self, ticket: int) -> None:
        """Note a complete answer."""
        self.answered(ticket)
        with self._lock:
            self._served_at = time.monotonic()
            self._places = min(self._places + 1, MAX_PLACES)

    def answered(self, ticket: int) -> None:
        """Close: a backend that refuses a request is well."""
        with self._lock:
            del self._out[ticket]
            self._failures = 0
            self._open_until = 0.0
            self.is_open = False

    def failed(self, ticket: int, cause: str) -> None:
        """Count a failure."""
        with self._lock:
            is_oldest = next(iter(self._out)) == ticket
            sent_at = self._out.pop(ticket)
            self._failures += 1
            self.cause = cause
            if self.is_open:
                is_due = sent_at >= self._opened_at  # what was sent before says nothing new
            else:
                is_due = self._failures >= FAILURES and is_oldest and not self._is_alive()
            if is_due:
                self._open()

    def abandoned(self, ticket: int) -> None:
        """A request ended before its backend could show how it is; if it was the trial, the next one may be."""
        with self._lock:
            del self._out[ticket]
            self._open_until = 0.0

    def _is_alive(self) -> bool:
        return time.monotonic() - self._served_at < ALIVE_SECONDS

    def _open(self) -> None:
        self.is_open = True
        self._opened_at = time.monotonic()
        self._open_until = self._opened_at + random.uniform(*OPEN_SECONDS)


class Breakers:
    """Those of one backend: `own` is its configured model's, kept apart from the names that clients choose."""

    def __init__(self) -> None:
        self.own = Breaker()
        self._named: dict[str, Breaker] = {}
        self._lock = threading.Lock()

    def of(self, model: str | None) -> Breaker:
        """Return that of a model; None is the configured one. Of the others, the longest unused is forgotten."""
        if model is None:
            return self.own
        with self._lock:
            breaker = self._named.pop(model) if model in self._named else Breaker()
            self._named[model] = breaker
            if len(self._named) > MAX_MODELS:
                del self._named[next(iter(self._named))]
            return breaker


class Retries:
    """How often a backend may be asked again: `most` times a request, and all requests of a process within a share.

    Of a provider in trouble they would make three times what it is asked.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        # not bounded by time while nothing is retried
        self._requests: deque[float] = deque(maxlen=10_000)
        self._retries: deque[float] = deque()

    def count(self) -> None:
        """Count a request."""
        self._requests.append(time.monotonic())

    def take(self) -> bool:
        """Return whether one more retry is within the share, and count it then."""
        now = time.monotonic()
        with self._lock:
            for counted in (self._requests, self._retries):
                while counted and now - counted[0] > BUDGET_SECONDS:
                    counted.popleft()
            within = len(self._retries) < max(FLOOR, SHARE * len(self._requests))
            if within:
                self._retries.append(now)
            return within
