"""The numbers of a log, counted in one pass and bounded memory."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from .files import Entry

# Latencies are counted in classes that are 1 % wide, so percentiles are right to 1 %.
CLASS_WIDTH = math.log(1.01)
SLOTS = 24


class Distribution:
    """How often which value occurred; values are positive."""

    def __init__(self) -> None:
        self._classes: Counter[int] = Counter()

    def add(self, value: float) -> None:
        """Count one value."""
        self._classes[round(math.log(max(value, 0.001)) / CLASS_WIDTH)] += 1

    def percentile(self, percent: float) -> float | None:
        """Return the value that `percent` of the values do not exceed, to 1 %; None where there are none."""
        left = math.ceil(self._classes.total() * percent / 100)
        for number, count in sorted(self._classes.items()):
            left -= count
            if left <= 0:
                return float(f"{math.exp(number * CLASS_WIDTH):.4g}")
        return None


@dataclass
class Group:
    """Some requests: those a backend was to answer, one stretch of time's, or all.

    `latency` and `first_chunk` in milliseconds, and tokens, are of the answers that the group itself gave.
    """

    requests: int = 0
    errors: int = 0
    aborted: int = 0
    fallbacks: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    generating_ms: float = 0.0
    latency: Distribution = field(default_factory=Distribution)
    first_chunk: Distribution = field(default_factory=Distribution)

    def asked(self, record: Entry) -> None:
        """Count a request that came for this group, and how it ended."""
        self.requests += 1
        self.errors += record.get("status") == "error"
        self.aborted += record.get("status") == "aborted"
        self.fallbacks += bool(record.get("fallback"))

    def answered(self, record: Entry) -> None:
        """Count an answer of this group; a failure is fast or slow for other reasons."""
        if record.get("status") == "ok" and record.get("duration_ms") is not None:
            self.latency.add(record["duration_ms"])
            if record.get("time_to_first_chunk_ms") is not None:
                self.first_chunk.add(record["time_to_first_chunk_ms"])
            self.input_tokens += record.get("input_tokens") or 0
            if record.get("output_tokens"):
                self.output_tokens += record["output_tokens"]
                self.generating_ms += record["duration_ms"]

    def numbers(self) -> dict[str, Any]:
        """Return the group's numbers; times in milliseconds."""
        share = round(self.fallbacks / self.requests, 4) if self.requests else 0.0
        speed = round(self.output_tokens / self.generating_ms * 1000, 1) if self.generating_ms else None
        return {
            **{name: getattr(self, name) for name in ("requests", "errors", "aborted", "fallbacks")},
            "fallback_share": share,
            **{f"p{percent}_ms": self.latency.percentile(percent) for percent in (50, 95, 99)},
            **{f"first_chunk_p{percent}_ms": self.first_chunk.percentile(percent) for percent in (50, 95)},
            **{name: getattr(self, name) for name in ("input_tokens", "output_tokens")},
            "tokens_per_second": speed,
        }


class Stats:
    """The numbers of all requests, by backend, by model, and by time: 24 stretches from `since` to `until` (Unix
    seconds); how often which reason made another backend answer.

    A request counts for the backend that was configured, its time and tokens for the one that answered; one that was
    refused before any was asked counts as `refused`. For a model count those that it answered, or began to.
    """

    def __init__(self, since: float, until: float) -> None:
        self.backends: defaultdict[str, Group] = defaultdict(Group)
        self.models: defaultdict[str, Group] = defaultdict(Group)
        self.reasons: Counter[str] = Counter()
        self.refused = Group()
        self.total = Group()
        self.slots = [Group() for _ in range(SLOTS)]
        self._since = since
        self._width = max(until - since, 1e-3) / SLOTS

    def count(self, record: Entry) -> None:
        """Count a record."""
        slot = self.slots[min(max(int((record["timestamp"] - self._since) / self._width), 0), SLOTS - 1)]
        asked, answering = self._groups(record)
        both = [self.total, slot]
        if record.get("backend"):
            both.append(self.models[f"{record['backend']}/{record.get('model')}"])
        for group in (asked, *both):
            group.asked(record)
        for group in (answering, *both):
            group.answered(record)
        if record.get("fallback_reason"):
            self.reasons[record["fallback_reason"]] += 1

    def _groups(self, record: Entry) -> tuple[Group, Group]:
        if record.get("status") == "error" and not record.get("attempts"):
            return self.refused, self.refused
        asked = record.get("requested_backend") or record.get("backend") or "unknown"
        return self.backends[asked], self.backends[record.get("backend") or asked]

    def numbers(self) -> dict[str, Any]:
        """Return all of it; `over_time` has the Unix time each stretch begins at."""
        return {
            "total": self.total.numbers(),
            "refused": self.refused.numbers(),
            "backends": {name: group.numbers() for name, group in sorted(self.backends.items())},
            "models": {name: group.numbers() for name, group in sorted(self.models.items())},
            "fallback_reasons": dict(self.reasons.most_common()),
            "over_time": [
                {"timestamp": round(self._since + number * self._width, 3), **slot.numbers()}
                for number, slot in enumerate(self.slots)
            ],
        }
