"""The caller: known by a key, or named by the host, once a request; and what it may see."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

from flask import current_app, request

from ..errors import OperatorsOnly, Unauthorized, UnknownHost
from ..rules import ApiKey, is_loopback
from .service import Service, service

View = TypeVar("View", bound=Callable[..., object])
CALLER = "llm_api.caller"
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+?)\.?(?::\d*)?")
_unguarded: set[object] = set()


def let_in() -> None:
    """Before each request: refuse callers without a key, where keys are on."""
    if request.method != "OPTIONS" and current_app.view_functions.get(request.endpoint or "") not in _unguarded:
        caller(service())


def is_open(view: View) -> View:
    """Mark a view that needs no key, or asks for it itself."""
    _unguarded.add(view)
    return view


def caller(here: Service) -> str | None:
    """Return the caller's name: as the host says, or that of the key, None without keys.

    Raises Unauthorized and UnknownHost.
    """
    return _names(here)[0]


def whose(here: Service) -> str | None:
    """Return whose requests the caller may see: its own ("" for a caller without a name), or None for everybody's."""
    return None if _is_operator(here) else caller(here) or ""


def operators_only(here: Service) -> None:
    """Raise OperatorsOnly for others, where there are operators."""
    if (here.settings.operators or here.hooks.operator) and not _is_operator(here):
        raise OperatorsOnly("only operators may see this (OPERATORS)")


def known_host(here: Service) -> None:
    """Raise UnknownHost where no key is asked for, and the client calls the service by a name that is not its own.

    A web page whose name is pointed at this machine (DNS rebinding) would do what a browser here may. Whoever sends no
    Host is no browser; an address is no name; a host app's own TRUSTED_HOSTS Flask looks at.
    """
    environ, settings = request.environ, here.settings
    said = environ.get("HTTP_HOST")
    if not said or settings.api_keys or here.hooks.caller:
        return
    # on a unix socket, where clients have no address, gunicorn takes this from Host
    listener = environ.get("REMOTE_ADDR") and environ.get("SERVER_NAME")
    is_ours = _is_ours(said, listener or "", settings.bind, settings.allowed_hosts)
    if not is_ours and current_app.config["TRUSTED_HOSTS"] is None:
        raise UnknownHost(f"the name {said[:100]!r} is not served: put it into ALLOWED_HOSTS, or set API_KEYS")


@lru_cache(maxsize=256)
def _is_ours(host: str, listener: str, bind: str, allowed: tuple[str, ...]) -> bool:
    found = HOST.fullmatch(host.lower())
    name = found[1] if found else ""
    bound = bind.rpartition(":")[0].lower()
    names = (".localhost", *allowed, *([bound] if bound != "unix" and is_loopback(bound) is None else []))
    if any(_fits(name, pattern) for pattern in names) or is_loopback(name):
        return True
    # of another address we know no better than that we listen on more than loopback
    return is_loopback(name) is False and is_loopback(listener) is False


def _fits(name: str, pattern: str) -> bool:
    """As Flask compares TRUSTED_HOSTS: `.example.com` is the name and all below it; `*.example.com` is all below it."""
    if pattern.startswith("*"):
        return name.endswith(pattern[1:])
    return name == pattern or (pattern.startswith(".") and f".{name}".endswith(pattern))


def _is_operator(here: Service) -> bool:
    if here.hooks.operator and here.hooks.operator():
        return True
    tells_apart = here.settings.api_keys or here.hooks.caller or here.hooks.operator
    return not tells_apart or _names(here)[1] in here.settings.operators


def _names(here: Service) -> tuple[str | None, str | None]:
    """Return the caller's name, and its key's."""
    environ = request.environ
    if CALLER not in environ:
        known_host(here)
        key = named_key(here.settings.api_keys, _said_key()) if here.settings.api_keys else None
        environ[CALLER] = here.hooks.caller() if here.hooks.caller else key, key
    names: tuple[str | None, str | None] = environ[CALLER]
    return names


def _said_key() -> str | None:
    environ = request.environ
    kind, _, key = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    other: str | None = environ.get("HTTP_X_API_KEY") or environ.get("HTTP_API_KEY")  # Anthropic's clients, Azure's
    return key.strip() if kind.lower() == "bearer" else other


def named_key(keys: tuple[ApiKey, ...], said: str | None) -> str:
    """Return the name of the key that was said. Raises Unauthorized.

    All are compared, each in constant time, so that the time it takes tells nothing.
    """
    digest = hashlib.sha256((said or "").encode("utf-8", "surrogateescape")).hexdigest()
    matching = [key.name for key in keys if hmac.compare_digest(key.sha256, digest)]
    if not matching:
        how = "send a key: Authorization: Bearer KEY, x-api-key or api-key"
        raise Unauthorized("this key is not known" if said else how)
    return matching[0]
