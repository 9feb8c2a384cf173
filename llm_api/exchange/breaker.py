"""A circuit breaker: a backend that keeps failing is left alone for a while, so that its fallback answers at once."""

from __future__ import annotations

import math
import threading
import time

FAILURES = 5
OPEN_SECONDS = 10.0
REMEMBERED_SECONDS = 10.0


class Breaker:
    """One backend's, in one process. Open after 5 failures in a row, for 10 s; then one request may try."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0
        self._trouble: tuple[float, str] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has opened, and no request has succeeded since."""
        return self._failures >= FAILURES

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
            if not left and self._failures >= FAILURES:
                self._open_until = time.monotonic() + OPEN_SECONDS
            return left

    def succeeded(self) -> None:
        """Close."""
        self._failures = 0
        self._open_until = 0.0

    def failed(self) -> None:
        """Count a failure; open at the fifth in a row."""
        with self._lock:
            self._failures += 1
            if self._failures >= FAILURES:
                self._open_until = time.monotonic() + OPEN_SECONDS

    def abandoned(self) -> None:
        """A request ended before its backend could show how it is; if it was the trial, the next one may be."""
        with self._lock:
            if self._failures >= FAILURES:
                self._open_until = 0.0
