"""Whether the service can serve, asked of the backends no more than once in two seconds."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from ..backends import Backend
from ..errors import LLMAPIError, stack_of
from ..log.writer import RequestLog
from ..runtime.deadline import Deadline
from .chain import Chain

FRESH_SECONDS = 2.0
LOG_FRESH_SECONDS = 0.5
PROBE_SECONDS = 0.8  # so that a report is never over three seconds old, however busy the machine
# What a request waits for a new report while it has an old one to show.
PATIENCE_SECONDS = 0.05

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
        self._report: Report | None = None
        self._backends = _Probe(self._look_at_backends, FRESH_SECONDS)
        self._disk = _Probe(log.check, LOG_FRESH_SECONDS)

    def begin(self) -> threading.Thread:
        """Warn of what backends do though they are healthy. Return the thread that asks them, already begun."""
        thread = threading.Thread(target=self._warn, name="llm-api-start", daemon=True)
        thread.start()
        return thread

    def report(self) -> Report:
        """Return the state of the service, at most about two seconds old, or as old as one hanging probe."""
        self._disk.wait(PATIENCE_SECONDS)
        log = self._log_report()
        if log and log.status == "unhealthy":
            return log
        self._backends.wait(PATIENCE_SECONDS if self._report else PROBE_SECONDS + 1)
        backends = self._report or Report("unhealthy", "the backends have not answered yet")
        return log if log and backends.status == "healthy" else backends

    def _log_report(self) -> Report | None:
        log = self._log
        if not log.failure:
            return None
        if self._chain.settings.log_required:
            return Report("unhealthy", log.failure)
        return Report("degraded", f"{log.failure} ({log.failures} lines went to stderr)")

    def _warn(self) -> None:
        for backend, _ in self._chain.links:
            with suppress(LLMAPIError):
                if caveat := backend.caveat(Deadline(FRESH_SECONDS)):
                    logger.warning("%s", caveat)

    def _look_at_backends(self) -> None:
        self._report = self._backends_report()

    def _backends_report(self) -> Report:
        reasons: list[str] = []
        for backend, breakers in self._chain.links:
            breaker = breakers.own
            reason = "circuit_open" if breaker.open_for() else _trouble(backend) or breaker.recent_trouble()
            if not reason:
                first = reasons[0] if reasons else None
                return Report("degraded" if first else "healthy", first)
            reasons.append(f"{backend.name}: {reason}")
        return Report("unhealthy", "; ".join(reasons))


class _Probe:
    """Runs `look` in a thread, one at a time and no more than once in `seconds`."""

    def __init__(self, look: Callable[[], object], seconds: float) -> None:
        self._look = look
        self._seconds = seconds
        self._lock = threading.Lock()
        self._begun = 0.0
        self._thread: threading.Thread | None = None

    def wait(self, seconds: float) -> None:
        """Begin to look if that is due, and wait so long for the end."""
        with self._lock:
            due = time.monotonic() - self._begun > self._seconds
            if self._thread is None or (due and not self._thread.is_alive()):
                self._begun = time.monotonic()
                self._thread = threading.Thread(target=self._look, name="llm-api-health", daemon=True)
                self._thread.start()
            thread = self._thread
        thread.join(seconds)


def _trouble(backend: Backend) -> str | None:
    try:
        backend.check(Deadline(PROBE_SECONDS))
    except LLMAPIError as error:
        return error.message
    except Exception as error:
        logger.error("the check of %s met an unexpected %s", backend.name, stack_of(error))
        return f"its check broke ({type(error).__name__})"
    return None
