"""Whether the service can serve, asked of the backends no more than once in two seconds."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from .backends import Backend
from .deadline import Deadline
from .errors import LLMAPIError
from .generator import Generator

FRESH_SECONDS = 2.0
PROBE_SECONDS = 2.0
# What a request waits for a new report while it has an old one to show.
PATIENCE_SECONDS = 0.05


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
        failure = self._generator.log.failure
        if failure:
            return Report("unhealthy", failure)
        probe = self._current_probe()
        probe.join(PATIENCE_SECONDS if self._report else PROBE_SECONDS + 1)
        return self._report or Report("unhealthy", "the backends have not answered yet")

    def _current_probe(self) -> threading.Thread:
        with self._lock:
            stale = time.monotonic() - self._asked_at > FRESH_SECONDS
            if self._probing is None or (stale and not self._probing.is_alive()):
                self._asked_at = time.monotonic()
                self._probing = threading.Thread(target=self._probe, name="llm-api-health", daemon=True)
                self._probing.start()
            return self._probing

    def _probe(self) -> None:
        reasons: list[str] = []
        for backend, breaker in self._generator.chain:
            reason = "circuit_open" if breaker.open_for() else _trouble(backend)
            if not reason:
                first = reasons[0] if reasons else None
                self._report = Report("degraded" if first else "healthy", first)
                return
            reasons.append(f"{backend.name}: {reason}")
        self._report = Report("unhealthy", "; ".join(reasons))


def _trouble(backend: Backend) -> str | None:
    try:
        backend.check(Deadline(PROBE_SECONDS))
    except LLMAPIError as error:
        return error.message
    except (KeyError, TypeError):
        return "its list of models has an unexpected shape"
    return None
