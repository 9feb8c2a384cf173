"""The numbers of a log: what is counted of a record, how counts are added up, what is told of them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

from .files import Entry

# Latencies are counted in classes that are less than 2 % wide, so percentiles are right to 1 %.
CLASS_WIDTH = math.log(1.018)
SLOTS = 24
TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")


class Kind(NamedTuple):
    """What the requests have in common that are counted together; `refused`: before any backend was asked."""

    requested: str | None
    backend: str | None
    model: str | None
    status: str | None
    refused: bool
    fallback: bool
    reason: str | None
    error: str | None
    operation: str | None = None
    http_status: str | None = None
    caller: str | None = None

    @property
    def asked(self) -> str | None:
        """The backend that a request counts for; None where it was refused."""
        return None if self.refused else self.requested or self.backend or "unknown"

    @property
    def answered(self) -> str | None:
        """The backend that its time and tokens count for."""
        return None if self.refused else self.backend or self.asked


def kind_of(record: Entry) -> Kind:
    """Return the kind of a record, of whose fields some may have any type."""
    status, caller = record.get("status"), record.get("caller")
    code = (record.get("error") or {}).get("code")
    return Kind(
        record.get("requested_backend"),
        record.get("backend"),
        record.get("model"),
        status,
        status == "error" and not record.get("attempts"),
        bool(record.get("fallback")),
        record.get("fallback_reason"),
        code if isinstance(code, str) else None,
        record.get("operation"),
        str(record.get("http_status")),
        caller if isinstance(caller, str) else None,
    )


class Distribution(dict[int, int]):
    """How often which class of values occurred; values are positive."""

    def count(self, value: float) -> None:
        """Count one value."""
        number = round(math.log(max(value, 0.001)) / CLASS_WIDTH)
        self[number] = self.get(number, 0) + 1

    def add(self, other: dict[int, int]) -> None:
        """Add what was counted elsewhere."""
        get = self.get  # a Counter's update takes twice as long
        for number, count in other.items():
            self[number] = get(number, 0) + count

    def percentiles(self, *percents: int) -> list[float | None]:
        """Return for each of the `percents` the value that so many do not exceed, to 1 %; None where none is."""
        if not self:
            return [None] * len(percents)
        classes = sorted(self)
        up_to = list(accumulate(self[each] for each in classes))
        places = (bisect_left(up_to, math.ceil(up_to[-1] * percent / 100)) for percent in percents)
        return [float(f"{math.exp(classes[place] * CLASS_WIDTH):.4g}") for place in places]


@dataclass(slots=True)
class Count:
    """Requests of one kind. Tokens, `latency` and `first_chunk` (milliseconds) are of the answers that ended well: a
    failure is fast or slow for other reasons.
    """

    requests: int = 0
    tokens: list[int] = field(default_factory=lambda: [0] * len(TOKENS))
    generating_ms: float = 0.0
    latency: Distribution = field(default_factory=Distribution)
    first_chunk: Distribution = field(default_factory=Distribution)

    def count(self, record: Entry) -> None:
        """Count a record."""
        self.requests += 1
        duration = record.get("duration_ms")
        if record.get("status") != "ok" or duration is None:
            return
        self.latency.count(duration)
        if (first := record.get("time_to_first_chunk_ms")) is not None:
            self.first_chunk.count(first)
        for number, name in enumerate(TOKENS):
            self.tokens[number] += record.get(name) or 0
        self.generating_ms += duration if record.get("output_tokens") else 0

    def add(self, other: Count) -> None:
        """Add what was counted elsewhere."""
        self.requests += other.requests
        self.tokens = [ours + theirs for ours, theirs in zip(self.tokens, other.tokens, strict=True)]
        self.generating_ms += other.generating_ms
        self.latency.add(other.latency)
        self.first_chunk.add(other.first_chunk)


@dataclass
class Group:
    """Some requests: those a backend was to answer, one stretch of time's, or all. `given` are its own answers."""

    requests: int = 0
    errors: int = 0
    aborted: int = 0
    fallbacks: int = 0
    given: Count = field(default_factory=Count)

    def ask(self, kind: Kind, requests: int) -> None:
        """Count requests that came for this group, and how they ended."""
        self.requests += requests
        self.errors += requests * (kind.status == "error")
        self.aborted += requests * (kind.status == "aborted")
        self.fallbacks += requests * kind.fallback

    def add(self, other: Group) -> None:
        """Add another group's requests."""
        self.requests += other.requests
        self.errors += other.errors
        self.aborted += other.aborted
        self.fallbacks += other.fallbacks
        self.given.add(other.given)

    def numbers(self) -> dict[str, Any]:
        """Return the group's numbers; times in milliseconds."""
        given = self.given
        tokens = dict(zip(TOKENS, given.tokens, strict=True))
        speed = round(tokens["output_tokens"] / given.generating_ms * 1000, 1) if given.generating_ms else None
        p50, p95, p99 = given.latency.percentiles(50, 95, 99)
        first_p50, first_p95 = given.first_chunk.percentiles(50, 95)
        return {
            **{name: getattr(self, name) for name in ("requests", "errors", "aborted", "fallbacks")},
            "fallback_share": round(self.fallbacks / self.requests, 4) if self.requests else 0.0,
            **{"p50_ms": p50, "p95_ms": p95, "p99_ms": p99},
            **{"first_chunk_p50_ms": first_p50, "first_chunk_p95_ms": first_p95},
            **tokens,
            "tokens_per_second": speed,
        }


class Stats:
    """The numbers of all requests, by backend, by model, and by time: stretches of `width` seconds from `since` to
    `until` (Unix seconds), 24 where no width is given; how often which reason made another backend answer, and which
    error occurred.

    A request counts for the backend that was configured, its time and tokens for the one that answered; one that was
    refused before any was asked counts as `refused`. For a model count those that it answered, or began to.
    """

    def __init__(self, since: float, until: float, width: float = 0) -> None:
        self._since = since
        self._width = width or max(until - since, 1e-3) / SLOTS
        slots = max(1, math.ceil((until - since) / width)) if width else SLOTS
        self._slots = [defaultdict[str | None, Group](Group) for _ in range(slots)]
        self._models = defaultdict[str | None, Group](Group)
        self._reasons, self._errors = Counter[str](), Counter[str]()

    def count(self, record: Entry) -> None:
        """Count a record."""
        for given in self._given(record["timestamp"], kind_of(record), 1):
            given.count(record)

    def add(self, timestamp: float, kind: Kind, count: Count) -> None:
        """Add requests of one kind that were counted before."""
        for given in self._given(timestamp, kind, count.requests):
            given.add(count)

    def _given(self, timestamp: float, kind: Kind, requests: int) -> list[Count]:
        """Count requests that came; return what counts their answers."""
        if kind.reason:
            self._reasons[kind.reason] += requests
        if kind.error:
            self._errors[kind.error] += requests
        number = int((timestamp - self._since) / self._width)
        slot = self._slots[min(max(number, 0), len(self._slots) - 1)]
        slot[kind.asked].ask(kind, requests)
        given = [slot[kind.answered].given]
        if kind.backend:
            model = self._models[f"{kind.backend}/{kind.model}"]
            model.ask(kind, requests)
            given.append(model.given)
        return given

    def numbers(self) -> dict[str, Any]:
        """Return all of it; `over_time` has the Unix time each stretch begins at, and its numbers by backend."""
        backends = defaultdict[str | None, Group](Group)
        for name, group in (pair for slot in self._slots for pair in slot.items()):
            backends[name].add(group)
        return {
            "total": _all(backends).numbers(),
            "refused": backends.pop(None, Group()).numbers(),
            "backends": _numbers(backends),
            "models": _numbers(self._models),
            "fallback_reasons": dict(self._reasons.most_common()),
            "error_codes": dict(self._errors.most_common()),
            "over_time": [
                {
                    "timestamp": round(self._since + number * self._width, 3),
                    **_all(slot).numbers(),
                    "backends": _numbers(slot),
                }
                for number, slot in enumerate(self._slots)
            ],
        }


# Without a name are those that were refused.
Groups = dict[str | None, Group]


def _all(groups: Groups) -> Group:
    whole = Group()
    for group in groups.values():
        whole.add(group)
    return whole


def _numbers(groups: Groups) -> dict[str, dict[str, Any]]:
    return {name: groups[name].numbers() for name in sorted(filter(None, groups))}
