"""Whether the service can serve, asked of the backends no more than once in two seconds."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from ..backends import Backend
from ..errors import LLMAPIError, TimedOut, Unreachable, stack_of
from ..log.writer import RequestLog
from ..runtime.deadline import Deadline
from .chain import Chain

FRESH_SECONDS = 2.0
LOG_FRESH_SECONDS = 0.5
PROBE_SECONDS = 0.8  # so that a report is never over three seconds old, however busy the machine
STALE_SECONDS = 3.0
# What a request waits for one answer while it has one to show that is not stale.
PATIENCE_SECONDS = 0.04
NOT_YET = "it has not answered yet"

REMEDY = "start it, or correct its settings"

Look = Callable[[], str | None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """`status` is healthy, degraded or unhealthy; `reason` says why unless healthy."""

    status: str
    reason: str | None = None


class Health:
    """Looks at backends and log in threads of its own, so that one that hangs does not make /health hang."""

    def __init__(self, chain: Chain, log: RequestLog) -> None:
        self._chain = chain
        self._log = log
        self._probes = [_Probe(partial(_trouble, backend), FRESH_SECONDS) for backend, _ in chain.links]
        self._disk = _Probe(log.check, LOG_FRESH_SECONDS)

    def begin(self, *, warns: bool = False) -> None:
        """Begin to look, so that the first report need not wait; `warns`: log what is wrong, and what to do."""
        self._disk.begin()
        for (backend, _), probe in zip(self._chain.links, self._probes, strict=True):
            probe.begin(partial(_first_look, backend) if warns else None)

    def report(self) -> Report:
        """Return the state of the service. A backend that is slow to answer counts as it did three seconds ago."""
        self._disk.ask()
        log = self._log_report()
        if log and log.status == "unhealthy":
            return log
        backends = self._backends_report()
        return log if log and backends.status == "healthy" else backends

    def _log_report(self) -> Report | None:
        log = self._log
        if not log.failure:
            return None
        if self._chain.settings.log_required:
            return Report("unhealthy", log.failure)
        return Report("degraded", f"{log.failure} ({log.failures} lines went to stderr)")

    def _backends_report(self) -> Report:
        reasons: list[str] = []
        for (backend, breakers), probe in zip(self._chain.links, self._probes, strict=True):
            breaker = breakers.own
            # what a request has just met is newer than what a probe was told
            reason = "circuit_open" if breaker.open_for() else probe.ask(breaker.recent_trouble())
            if not reason:
                first = reasons[0] if reasons else None
                return Report("degraded" if first else "healthy", first)
            reasons.append(f"{backend.name}: {reason}")
        return Report("unhealthy", "; ".join(reasons))


class _Probe:
    """Runs `look` in a thread, one at a time and no more than once in `seconds`, but for the second look."""

    def __init__(self, look: Look, seconds: float) -> None:
        self._look = look
        self._seconds = seconds
        self._lock = threading.Lock()
        self._begun = self._due = -math.inf
        self._thread = threading.Thread()
        self._said: str | None = NOT_YET
        self._waits = True

    def begin(self, look: Look | None = None) -> None:
        """Begin to look, so that nobody waits for the first answer; the next look may come sooner than others do.

        So the processes of a fleet, which begin at once, do not all ask in the same second ever after.
        """
        self._waits = False
        self._look_again(look or self._look)
        self._due -= random.uniform(0, self._seconds)

    def ask(self, newer: str | None = None) -> str | None:
        """Return what `look` says now, or said not long ago; or `newer`, where there is that."""
        age = self._look_again(self._look)
        is_known = age < STALE_SECONDS and not self._waits
        left = self._begun + PROBE_SECONDS + 1 - time.monotonic()
        self._thread.join(PATIENCE_SECONDS if is_known else max(PATIENCE_SECONDS, left))
        return newer or (self._said if is_known or not self._thread.is_alive() else NOT_YET)

    def _look_again(self, look: Look) -> float:
        """Look if that is due. Return how long ago the look before this was begun, or the one that still goes on."""
        with self._lock:
            now = time.monotonic()
            age = now - self._begun
            if now > self._due and not self._thread.is_alive():
                self._begun, self._due = now, now + self._seconds
                self._thread = threading.Thread(target=self._run, args=[look], name="llm-api-health", daemon=True)
                self._thread.start()
            return age

    def _run(self, look: Look) -> None:
        self._said = look()
        self._waits = False


def _first_look(backend: Backend) -> str | None:
    """Return why `backend` can't serve, and log it. It is asked for its model with the same breath."""
    reason, said = None, None
    try:
        if not backend.has_model(Deadline(PROBE_SECONDS)):
            said = f"{backend.name} does not list the model {backend.model!r}: flask llm doctor names some of its"
    except Exception as error:
        reason = reason_of(backend, error)
        # a model that is being loaded is not at fault
        if not isinstance(error, Unreachable) or type(backend).begin is Backend.begin:
            said = f"{backend.name} can't serve: {reason}: {REMEDY}"
    with suppress(Exception):  # a plugin's may be any
        said = backend.caveat(Deadline(PROBE_SECONDS)) or said
    if said:
        logger.warning("%s", said)
    return reason


def _trouble(backend: Backend) -> str | None:
    try:
        backend.check(Deadline(PROBE_SECONDS))
    except Exception as error:
        return reason_of(backend, error)
    return None


def reason_of(backend: Backend, error: Exception) -> str:
    """Return why a backend can't serve that has raised `error` when it was asked."""
    if isinstance(error, TimedOut):
        return "it does not answer in time"  # the error's own words are a request's
    if isinstance(error, LLMAPIError):
        return error.message
    logger.error("the check of %s met an unexpected %s", backend.name, stack_of(error))
    return f"its check broke ({type(error).__name__})"
