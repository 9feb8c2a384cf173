"""Who may ask, and how often."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ...settings import Settings
from ...web.service import Service
from ..show import counted
from .finding import Finding


def check(settings: Settings) -> Iterator[Finding]:
    """Yield what is found of keys, and of the threads for those who ask."""
    if settings.api_keys:
        yield Finding("ok", f"API_KEYS has {counted(len(settings.api_keys), 'key')}")
    elif settings.is_public:
        who = f"any client that reaches {settings.bind} may use the service"
        yield Finding("error", who, "set API_KEYS (flask llm keys new NAME)")
    else:
        yield Finding("ok", f"no keys; only this machine reaches {settings.bind}")
    if settings.concurrency > settings.threads - 1:
        what = "MAX_CONCURRENCY leaves no thread to refuse requests and to answer /health"
        yield Finding("warning", what, f"set it to {max(1, settings.threads - 2)} or less, or raise THREADS")


def check_rates(service: Service, settings: Settings) -> Iterator[Finding]:
    """Yield what is found of the rate limits."""
    if not settings.rate_limit:
        return
    if settings.rate_limit_storage == "memory://":
        who = "each worker of each pod" if "KUBERNETES_SERVICE_HOST" in os.environ else "each worker"
        yield Finding("warning", f"{who} counts requests for itself", "set RATE_LIMIT_STORAGE=redis://HOST:PORT/0")
    elif not service.rate_limits.storage_answers():
        what = "the storage of the rate limits does not answer"
        yield Finding("error", what, "start it, or correct RATE_LIMIT_STORAGE")
    if not settings.api_keys and not settings.trusted_proxies and not settings.is_public:
        what = "behind a proxy all clients have one address, and share one limit"
        yield Finding("warning", what, "set TRUSTED_PROXIES to the proxy's address, or to unix")
