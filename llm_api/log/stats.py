"""The numbers of a log: what is counted of a record, how counts are added up, what is told of them."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import accumulate
from operator import add
from typing import Any, NamedTuple

from .files import Entry

# Latencies are counted in classes that are less than 2 % wide, so percentiles are right to 1 %.
CLASS_WIDTH = math.log(1.018)
SLOTS = 24
ASKED = ("requests", "errors", "aborted", "fallbacks")
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

    @classmethod
    def of(cls, value: float | None) -> Distribution:
        """Return that of one value, or of none."""
        return cls() if value is None else cls({round(math.log(max(value, 0.001)) / CLASS_WIDTH): 1})

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

    def add(self, other: Count) -> None:
        """Add what was counted elsewhere."""
        self.requests += other.requests
        self.tokens = _sum(self.tokens, other.tokens)
        self.generating_ms += other.generating_ms
        self.latency.add(other.latency)
        self.first_chunk.add(other.first_chunk)


def count_of(record: Entry) -> Count:
    """Return what is counted of a record."""
    duration, first = record.get("duration_ms"), record.get("time_to_first_chunk_ms")
    if record.get("status") != "ok" or duration is None:
        return Count(1)
    tokens = [record.get(name) or 0 for name in TOKENS]
    generating_ms = float(duration) if record.get("output_tokens") else 0.0
    return Count(1, tokens, generating_ms, Distribution.of(duration), Distribution.of(first))


@dataclass
class Group:
    """Some requests: those a backend was to answer, one stretch of time's, or all. `given` are its own answers."""

    asked: list[int] = field(default_factory=lambda: [0] * len(ASKED))
    given: Count = field(default_factory=Count)

    def ask(self, kind: Kind, requests: int) -> None:
        """Count requests that came for this group, and how they ended."""
        are = (True, kind.status == "error", kind.status == "aborted", kind.fallback)
        self.asked = _sum(self.asked, [requests * each for each in are])

    def add(self, other: Group) -> None:
        """Add another group's requests."""
        self.asked = _sum(self.asked, other.asked)
        self.given.add(other.given)

    def numbers(self) -> dict[str, Any]:
        """Return the group's numbers; times in milliseconds."""
        given, asked = self.given, dict(zip(ASKED, self.asked, strict=True))
        tokens = dict(zip(TOKENS, given.tokens, strict=True))
        speed = round(tokens["output_tokens"] / given.generating_ms * 1000, 1) if given.generating_ms else None
        p50, p95, p99 = given.latency.percentiles(50, 95, 99)
        first_p50, first_p95 = given.first_chunk.percentiles(50, 95)
        return {
            **asked,
            "fallback_share": round(asked["fallbacks"] / asked["requests"], 4) if asked["requests"] else 0.0,
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
        self.add(record["timestamp"], kind_of(record), count_of(record))

    def add(self, timestamp: float, kind: Kind, count: Count) -> None:
        """Add requests of one kind that were counted before."""
        number = int((timestamp - self._since) / self._width)
        slot = self._slots[min(max(number, 0), len(self._slots) - 1)]
        slot[kind.asked].ask(kind, count.requests)
        slot[kind.answered].given.add(count)
        if kind.backend:
            model = self._models[f"{kind.backend}/{kind.model}"]
            model.ask(kind, count.requests)
            model.given.add(count)
        if kind.reason:
            self._reasons[kind.reason] += count.requests
        if kind.error:
            self._errors[kind.error] += count.requests

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


def _sum(ours: list[int], theirs: list[int]) -> list[int]:
    return list(map(add, ours, theirs))
