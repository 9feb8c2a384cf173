"""The caller: known by a key, or named by the host, once a request."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import TypeVar

from flask import current_app, request

from ..errors import Unauthorized
from ..rules import ApiKey
from .service import Service, service

View = TypeVar("View", bound=Callable[..., object])
CALLER = "llm_api.caller"
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
    """Return the caller's name: as the host says, or that of the key, None without keys. Raises Unauthorized."""
    environ = request.environ
    if CALLER not in environ:
        environ[CALLER] = _named(here)
    name: str | None = environ[CALLER]
    return name


def _named(here: Service) -> str | None:
    if not here.settings.api_keys:
        return here.caller() if here.caller else None
    kind, _, key = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    environ = request.environ
    other = environ.get("HTTP_X_API_KEY") or environ.get("HTTP_API_KEY")  # Anthropic's clients, Azure's
    said = key.strip() if kind.lower() == "bearer" else other
    name = named_key(here.settings.api_keys, said)
    return here.caller() if here.caller else name


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
