"""What Prometheus is told, summed over the workers where gunicorn.conf.py has made a folder for that.

The names follow https://prometheus.io/docs/practices/naming/. No label holds what a client may choose freely.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from ..errors import BackendError, ClientGone, InternalError, RequestRefused
from ..log.record import End

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
NOBODY = "none"
# What an upstream calls a refusal is its own, and may be another word each time.
OUTCOMES = {"ok", ClientGone.code, InternalError.code, *(kind.code for kind in BackendError.__subclasses__())}
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

_registry = CollectorRegistry()
_counter = partial(Counter, namespace="llm_api", registry=_registry)
_gauge = partial(Gauge, namespace="llm_api", registry=_registry)
_histogram = partial(Histogram, namespace="llm_api", registry=_registry, buckets=SECONDS)

_requests = _counter("requests", "Requests to generate, by their end.", ["operation", "backend", "status", "code"])
_duration = _histogram("request_duration_seconds", "From a request's arrival to its end.", ["operation", "backend"])
_first_chunk = _histogram(
    "time_to_first_chunk_seconds", "From a request's arrival to the first piece of its answer.", ["backend"]
)
_tokens = _counter("tokens", "Tokens, as the backends count them.", ["backend", "kind"])
_tool_calls = _counter("tool_calls", "Tool calls in answers.", ["backend"])
_fallbacks = _counter(
    "fallbacks", "Answers of another backend than the one asked first.", ["requested_backend", "backend", "reason"]
)
_attempts = _counter("attempts", "Tries of a backend.", ["backend", "outcome"])
_breaker = _gauge(
    "circuit_breaker_open", "1 while a backend is left alone, until one request has succeeded.", ["backend"],
    multiprocess_mode="livemax",
)  # fmt: skip
_in_flight = _gauge("requests_in_flight", "Requests to generate that run.", multiprocess_mode="livesum")
_log_failures = _counter("log_write_failures", "Lines that could not be written.")


def begun() -> None:
    """Count a request in."""
    _in_flight.inc()


def over() -> None:
    """Count it out."""
    _in_flight.dec()


def ended(operation: str, end: End, *, logged: bool) -> None:
    """Count what became of a request; `logged`: whether its line was written."""
    backend = end.head.backend if end.head else NOBODY
    _one(_requests, operation, backend, end.status, end.http_status).inc()
    _one(_duration, operation, backend).observe(end.duration_ms / 1000)
    if end.time_to_first_chunk_ms is not None:
        _one(_first_chunk, backend).observe(end.time_to_first_chunk_ms / 1000)
    for kind, count in (("input", end.usage.input_tokens), ("output", end.usage.output_tokens)):
        if count:
            _one(_tokens, backend, kind).inc(count)
    if end.tool_calls:
        _one(_tool_calls, backend).inc(end.tool_calls)
    if end.head and end.head.fallback_reason:
        _one(_fallbacks, end.requested_backend, backend, end.head.fallback_reason).inc()
    for attempt in end.attempts:
        outcome = attempt.outcome if attempt.outcome in OUTCOMES else RequestRefused.code
        _one(_attempts, attempt.backend, outcome).inc()
    if not logged:
        _log_failures.inc()


# Of each backend; most requests change nothing.
_told: dict[str, bool] = {}
_telling = threading.Lock()


# The library looks a label up under a lock, and makes texts of all of them each time.
@lru_cache(maxsize=1024)
def _one(metric: Any, *labels: object) -> Any:
    return metric.labels(*labels)


def breaker(backend: str, is_open: bool) -> None:
    """Set the state of a backend's circuit breaker in this process."""
    if _told.get(backend) != is_open:
        with _telling:
            _one(_breaker, backend).set(is_open)
            _told[backend] = is_open


class _Workers(Collector):
    """The files of all workers; one that has just been made is empty, for good where its worker was killed then."""

    def collect(self) -> Iterable[Metric]:
        files = []
        for file in Path(os.environ[FOLDER]).glob("*.db"):
            with suppress(FileNotFoundError):  # a dead worker's
                if file.stat().st_size:
                    files.append(str(file))
        merged: Iterable[Metric] = MultiProcessCollector.merge(files, accumulate=True)
        return merged


class _Others(Collector):
    """What the backends tell at this moment, by their names without `llm_api_`."""

    def __init__(self, numbers: Mapping[str, float]) -> None:
        self._numbers = numbers

    def collect(self) -> Iterable[Metric]:
        for name, value in self._numbers.items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield kind(f"llm_api_{name}", "Of the local model's process.", value)


def exposition(numbers: Mapping[str, float]) -> tuple[bytes, str]:
    """Return all numbers in Prometheus' text format, those of the backends too, and its media type."""
    _in_flight.inc(0)  # what has no labels is shown from the start
    registry = _registry
    if os.environ.get(FOLDER):
        registry = CollectorRegistry()
        registry.register(_Workers())
    others = CollectorRegistry()
    others.register(_Others(numbers))
    return generate_latest(registry) + generate_latest(others), CONTENT_TYPE_LATEST
