"""Who may ask, and how often; how many at once is the generator's to know."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import math
import time
from functools import cached_property, lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .config import Settings
from .errors import ConfigError, LimitsUnavailable, RateLimitExceeded, Unauthorized
from .rules import ApiKey, Network

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.strategies import RateLimiter

# Seconds. A storage that is away must not hold up each request.
STORAGE_TIMEOUT = 0.5
LEFT_ALONE = 1.0
# Hits that are over count no more; until they are forgotten they only take memory.
FORGET_SECONDS = 1.0
# Of an IPv6 address, what one customer has in full (RFC 6177).
IPV6_PREFIX = 64

logger = logging.getLogger(__name__)


def named_key(keys: tuple[ApiKey, ...], said: str | None) -> str:
    """Return the name of the key that was said. Raises Unauthorized.

    All are compared, each in constant time, so that the time it takes tells nothing.
    """
    digest = hashlib.sha256((said or "").encode("utf-8", "surrogateescape")).hexdigest()
    matching = [key.name for key in keys if hmac.compare_digest(key.sha256, digest)]
    if not matching:
        raise Unauthorized("this key is not known" if said else "send a key: Authorization: Bearer KEY, or x-api-key")
    return matching[0]


def client_address(peer: str | None, forwarded_for: str, proxies: tuple[Network | None, ...]) -> str | None:
    """Return the address of who asks: the last one in X-Forwarded-For that no trusted proxy of `proxies` has.

    `peer` is who is connected, None or empty on a unix socket, for which None stands in `proxies`.
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
        ip = _ip(address)
    except ValueError:
        return False
    return any(ip in network for network in proxies if network)


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    # To a socket of both families an IPv4 client has an IPv6 address; all of them are in one /64.
    ip = ipaddress.ip_address(address)
    return getattr(ip, "ipv4_mapped", None) or ip


@lru_cache(maxsize=1024)
def _counted(address: str) -> str:
    try:
        return str(ipaddress.IPv6Network((_ip(address), IPV6_PREFIX), strict=False))
    except ValueError:
        return address


class RateLimits:
    """Counts requests a key or an address against RATE_LIMIT, in RATE_LIMIT_STORAGE.

    Making one raises ConfigError where a package is missing. Imports `limits` only where there is a limit.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._away_until = 0.0
        self._items: list[RateLimitItem] = []
        if settings.rate_limit:
            from limits import parse_many

            self._items = parse_many(settings.rate_limit)
            if settings.rate_limit_storage != "memory://" and not find_spec("redis"):
                raise ConfigError("RATE_LIMIT_STORAGE is a Redis, which needs a package: pip install redis")

    def count(self, key: str | None, address: str | None) -> None:
        """Count one request. Raises RateLimitExceeded, or LimitsUnavailable where that is what a lost storage means."""
        if self._items:
            self._hit(f"key {key}" if key else f"address {_counted(address or '')}")

    def storage_answers(self) -> bool:
        """Say whether RATE_LIMIT_STORAGE can be reached."""
        return bool(self._storage.storage.check())

    def _hit(self, who: str) -> None:
        from limits.errors import StorageError

        if time.monotonic() >= self._away_until:
            try:
                return self._hit_in(self._storage, who)
            except StorageError as error:
                self._away_until = time.monotonic() + LEFT_ALONE
                logger.error("the storage of the rate limits is away (%s)", type(error.storage_error).__name__)
        return self._hit_without(who)

    def _hit_without(self, who: str) -> None:
        match self._settings.rate_limit_on_failure:
            case "memory":
                self._hit_in(self._memory, who)
            case "deny":
                raise LimitsUnavailable("requests can't be counted now, so none is answered")

    def _hit_in(self, limiter: RateLimiter, who: str) -> None:
        for item in self._items:
            if not limiter.hit(item, who):
                left = limiter.get_window_stats(item, who).reset_time - time.time()
                raise RateLimitExceeded(f"more than {item} (RATE_LIMIT)", retry_after=math.ceil(left))

    # Made at the first request, so after gunicorn's fork: the one in memory has a thread.
    @cached_property
    def _storage(self) -> RateLimiter:
        from limits.storage import storage_from_string
        from limits.strategies import MovingWindowRateLimiter

        uri = self._settings.rate_limit_storage
        if uri == "memory://":
            return self._memory
        timeouts = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), STORAGE_TIMEOUT)
        return MovingWindowRateLimiter(storage_from_string(uri, wrap_exceptions=True, **timeouts))

    @cached_property
    def _memory(self) -> RateLimiter:
        from limits.storage import MemoryStorage
        from limits.strategies import MovingWindowRateLimiter

        class Memory(MemoryStorage):
            """limits' own starts a thread to forget old hits at each request that comes 10 ms after the last one."""

            def __setattr__(self, name: str, value: Any) -> None:
                if name == "timer":
                    value.interval, value.daemon = FORGET_SECONDS, True
                super().__setattr__(name, value)

        return MovingWindowRateLimiter(Memory())
