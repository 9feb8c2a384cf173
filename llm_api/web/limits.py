"""How often a caller may ask, and how many tokens it may use, counted by key or by address."""

from __future__ import annotations

import ipaddress
import logging
import math
import threading
import time
from bisect import bisect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import LimitsUnavailable, RateLimitExceeded
from ..rules import Network, Rate, rates, unmapped
from ..runtime.per_process import PerProcess
from ..settings import Settings, load

if TYPE_CHECKING:
    from limits.strategies import RateLimiter

# Seconds. A storage that is away must not hold up each request.
STORAGE_TIMEOUT = 0.5
LEFT_ALONE = 1.0
PACKAGES = ("limits.strategies", "redis")
# Of an IPv6 address, what one customer has in full (RFC 6177).
IPV6_PREFIX = 64

T = TypeVar("T")

logger = logging.getLogger(__name__)


def client_address(peer: str | None, forwarded_for: str, proxies: tuple[Network | None, ...]) -> str | None:
    """Return the address of who asks: the last one in X-Forwarded-For that no trusted proxy of `proxies` has.

    `peer` is the connected address, None or empty on a unix socket, which is None in `proxies`.
    """
    address = peer or None
    for said in reversed([part.strip() for part in forwarded_for.split(",")]):
        if not said or not _is_trusted(address, proxies):
            break
        address = said
    return address


def _is_trusted(address: str | None, proxies: tuple[Network | None, ...]) -> bool:
    if address is None:
        return None in proxies
    try:
        ip = unmapped(address)
    except ValueError:
        return False
    return any(ip in network for network in proxies if network)


@lru_cache(maxsize=1024)
def _counted(address: str) -> str:
    try:
        return str(ipaddress.IPv6Network((unmapped(address), IPV6_PREFIX), strict=False))
    except ValueError:
        return address


class Standing(NamedTuple):
    """A caller's state under a rate after a request: `wait` is 0 where it counted, else the seconds until one would;
    `remaining` more may be made or used now, and in `reset` seconds more than that.
    """

    rate: Rate
    wait: float
    remaining: int
    reset: float

    def headers(self) -> dict[str, str]:
        """Return what OpenAI's clients look for; its page on rate limits has the names and the form of the time."""
        said = {"limit": self.rate.amount, "remaining": self.remaining, "reset": _go_duration(math.ceil(self.reset))}
        return {f"x-ratelimit-{name}-{self.rate.counts}": str(value) for name, value in said.items()}


def _go_duration(seconds: int) -> str:
    """Return `6m0s`, as Go writes it and OpenAI sends it."""
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


class Window:
    """A rate's moving window in this process.

    Not of `limits`, which keeps each address for ever, looks through all of them again and again, and starts threads
    for that.
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        # when whose requests came that count; who has been away for the longest is the first
        self._hits: OrderedDict[str, list[float]] = OrderedDict()

    def hit(self, who: str) -> Standing:
        """Count a request, or don't where one is too many."""
        now = time.monotonic()
        begin = now - self._rate.seconds
        with self._lock:
            while self._hits and next(iter(self._hits.values()))[-1] <= begin:
                self._hits.popitem(last=False)
            hits = self._hits.setdefault(who, [])
            del hits[: bisect(hits, begin)]
            if len(hits) >= self._rate.amount:
                return Standing(self._rate, hits[0] - begin, 0, hits[0] - begin)
            hits.append(now)
            self._hits.move_to_end(who)
            return Standing(self._rate, 0, self._rate.amount - len(hits), hits[0] - begin)


class RedisWindow:
    """A rate's moving window in a Redis. Raises limits' StorageError where that is away."""

    def __init__(self, rate: Rate, limiter: RateLimiter) -> None:
        from limits import parse

        self._rate = rate
        self._item = parse(str(rate))
        self._limiter = limiter

    def hit(self, who: str) -> Standing:
        """As Window.hit."""
        counts = self._limiter.hit(self._item, who)
        found = self._limiter.get_window_stats(self._item, who)
        reset = max(found.reset_time - time.time(), 0.001)  # a wait of 0 is for those that count
        return Standing(self._rate, 0 if counts else reset, found.remaining, reset)


class Quota:
    """A rate of tokens in this process. What it lasts for begins with the first of them."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._lock = threading.Lock()
        # until when, and how many; what ends first is the first
        self._used: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def hit(self, who: str) -> Standing:
        """Say whether there are tokens left: how many a request needs is known at its end."""
        with self._lock:
            return _quota(self._rate, *self._standing(who))

    def use(self, who: str, tokens: int) -> None:
        """Count what a request has used."""
        with self._lock:
            seconds, used = self._standing(who)
            self._used[who] = (time.monotonic() + seconds, used + tokens)

    def _standing(self, who: str) -> tuple[float, int]:
        now = time.monotonic()
        while self._used and next(iter(self._used.values()))[0] <= now:
            self._used.popitem(last=False)
        until, used = self._used.get(who, (now + self._rate.seconds, 0))
        return until - now, used


class RedisQuota:
    """A rate of tokens in a Redis. Raises limits' StorageError where that is away."""

    def __init__(self, rate: Rate, limiter: RateLimiter) -> None:
        self._rate = rate
        self._storage = limiter.storage

    def hit(self, who: str) -> Standing:
        """As Quota.hit."""
        key = self._key(who)
        used = self._storage.get(key)
        return _quota(self._rate, self._storage.get_expiry(key) - time.time() if used else self._rate.seconds, used)

    def use(self, who: str, tokens: int) -> None:
        """As Quota.use."""
        self._storage.incr(self._key(who), self._rate.seconds, amount=tokens)

    def _key(self, who: str) -> str:
        return f"LLM_API/{who}/{self._rate}"


def _quota(rate: Rate, seconds: float, used: int) -> Standing:
    left = max(rate.amount - used, 0)
    return Standing(rate, 0 if left else max(seconds, 0.001), left, seconds)


class RateLimits:
    """Counts requests and tokens a key or an address against RATE_LIMIT, in RATE_LIMIT_STORAGE.

    Making one raises ConfigError where a package is missing. Imports `limits` only for a Redis.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._away_until = 0.0
        # what one without tokens, or a short one, refuses is not to count for a longer one
        said = rates(settings.rate_limit) if settings.rate_limit else ()
        self._rates = sorted(said, key=lambda rate: (rate.counts == "requests", rate.seconds))
        self._is_shared = settings.rate_limit_storage != "memory://"
        if self._rates and self._is_shared:
            load(PACKAGES, "RATE_LIMIT_STORAGE is a Redis, which needs two packages: pip install limits redis")
        self._here = PerProcess(lambda: {rate: _HERE[rate.counts](rate) for rate in self._rates})
        self._limiter = PerProcess(self._make_limiter)
        self._shared = PerProcess(lambda: {rate: _SHARED[rate.counts](rate, self._limiter()) for rate in self._rates})

    def count(self, key: str | None, address: str | None) -> dict[str, str]:
        """Count one request; return the headers that give the caller's state under the rates that are used up first.

        Raises RateLimitExceeded, or LimitsUnavailable where that is what a lost storage means.
        """
        if not self._rates:
            return {}
        who = _who(key, address)
        if not self._is_shared:
            return _count(self._here(), who)
        headers = self._ask_storage(lambda: _count(self._shared(), who))
        return self._count_without(who) if headers is None else headers

    def use(self, key: str | None, address: str | None, tokens: int) -> None:
        """Count what a request has used; in this process while the storage is away."""
        if tokens and any(rate.counts == "tokens" for rate in self._rates):
            who = _who(key, address)
            if not self._is_shared or self._ask_storage(lambda: _use(self._shared(), who, tokens)) is None:
                _use(self._here(), who, tokens)

    def storage_answers(self) -> bool:
        """Say whether the Redis can be reached."""
        return bool(self._limiter().storage.check())

    def _ask_storage(self, ask: Callable[[], T]) -> T | None:
        """Return what it answers; None while it is away."""
        from limits.errors import StorageError

        if time.monotonic() >= self._away_until:
            try:
                return ask()
            except StorageError as error:
                self._away_until = time.monotonic() + LEFT_ALONE
                logger.error("the storage of the rate limits is away (%s)", type(error.storage_error).__name__)
        return None

    def _count_without(self, who: str) -> dict[str, str]:
        match self._settings.rate_limit_on_failure:
            case "memory":
                return _count(self._here(), who)
            case "deny":
                raise LimitsUnavailable("requests can't be counted now, so none is answered")
        return {}

    def _make_limiter(self) -> RateLimiter:
        from limits.storage import storage_from_string
        from limits.strategies import MovingWindowRateLimiter

        timeouts = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), STORAGE_TIMEOUT)
        uri = self._settings.rate_limit_storage
        return MovingWindowRateLimiter(storage_from_string(uri, wrap_exceptions=True, **timeouts))


_HERE: Mapping[str, Callable[[Rate], Any]] = {"requests": Window, "tokens": Quota}
_SHARED: Mapping[str, Callable[[Rate, RateLimiter], Any]] = {"requests": RedisWindow, "tokens": RedisQuota}


def _who(key: str | None, address: str | None) -> str:
    return f"key {key}" if key else f"address {_counted(address or '')}"


def _count(windows: Mapping[Rate, Any], who: str) -> dict[str, str]:
    standings: list[Standing] = []
    for rate, window in windows.items():
        standing = window.hit(who)
        if standing.wait:
            words = f"more than {rate} (RATE_LIMIT)"
            raise RateLimitExceeded(words, retry_after=math.ceil(standing.wait), headers=standing.headers())
        standings.append(standing)
    headers: dict[str, str] = {}
    for standing in sorted(standings, key=lambda standing: -standing.remaining):
        headers |= standing.headers()
    return headers


def _use(windows: Mapping[Rate, Any], who: str, tokens: int) -> bool:
    for rate, window in windows.items():
        if rate.counts == "tokens":
            window.use(who, tokens)
    return True
