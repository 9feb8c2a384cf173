"""Whether the service can serve, asked of the backends no more than once in two seconds."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from .backends import Backend
from .deadline import Deadline
from .errors import LLMAPIError, stack_of
from .generator import Generator

FRESH_SECONDS = 2.0
PROBE_SECONDS = 2.0
# What a request waits for a new report while it has an old one to show.
PATIENCE_SECONDS = 0.05

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """`status` is healthy, degraded or unhealthy; `reason` says why unless healthy."""

    status: str
    reason: str | None = None


class Health:
    """Probes the chain in a thread of its own, so that a backend that hangs does not make /health hang."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._lock = threading.Lock()
        self._report: Report | None = None
        self._asked_at = -FRESH_SECONDS
        self._probing: threading.Thread | None = None

    def report(self) -> Report:
        """Return the state of the service, at most about two seconds old, or as old as one hanging probe."""
        probe = self._current_probe()
        probe.join(PATIENCE_SECONDS if self._report else PROBE_SECONDS + 1)
        return self._log_report() or self._report or Report("unhealthy", "the backends have not answered yet")

    def _log_report(self) -> Report | None:
        log = self._generator.log
        if not log.failure:
            return None
        if self._generator.settings.log_required:
            return Report("unhealthy", log.failure)
        return Report("degraded", f"{log.failure} ({log.failures} lines went to stderr)")

    def _current_probe(self) -> threading.Thread:
        with self._lock:
            stale = time.monotonic() - self._asked_at > FRESH_SECONDS
            if self._probing is None or (stale and not self._probing.is_alive()):
                self._asked_at = time.monotonic()
                self._probing = threading.Thread(target=self._probe, name="llm-api-health", daemon=True)
                self._probing.start()
            return self._probing

    def _probe(self) -> None:
        log = self._generator.log
        if log.failure:
            log.check()
        self._report = self._backends_report()

    def _backends_report(self) -> Report:
        reasons: list[str] = []
        for backend, breaker in self._generator.chain:
            reason = "circuit_open" if breaker.open_for() else _trouble(backend)
            if not reason:
                first = reasons[0] if reasons else None
                return Report("degraded" if first else "healthy", first)
            reasons.append(f"{backend.name}: {reason}")
        return Report("unhealthy", "; ".join(reasons))


def _trouble(backend: Backend) -> str | None:
    try:
        backend.check(Deadline(PROBE_SECONDS))
    except LLMAPIError as error:
        return error.message
    except Exception as error:
        logger.error("the check of %s met an unexpected %s", backend.name, stack_of(error))
        return f"its check broke ({type(error).__name__})"
    return None
