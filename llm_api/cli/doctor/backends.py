"""Who can answer: the backends, their models, the names that stand for those."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path

from ...backends import Backend
from ...exchange.chain import Chain, Names
from ...exchange.health import REMEDY, reason_of
from ...runtime.deadline import Deadline
from .finding import CHECK_SECONDS, Finding

SOON_DAYS = 90
# The vendors' announced dates, by model.
SHUTDOWNS: dict[str, date] = tomllib.loads(Path(__file__).with_name("shutdowns.toml").read_text("utf-8"))


def check(chain: Chain) -> Iterator[Finding]:
    """Yield what is found of each backend, in the order in which they are asked, and of each alias."""
    for backend, _ in chain.links:
        yield from _backend(backend, is_first=backend is chain.first)
    yield from _aliases(chain)


def _backend(backend: Backend, *, is_first: bool) -> Iterator[Finding]:
    level = "error" if is_first else "warning"
    if day := SHUTDOWNS.get(backend.model):
        yield _shutdown(backend, day)
    try:
        backend.check(Deadline(CHECK_SECONDS))
        has_model = backend.has_model(Deadline(CHECK_SECONDS))
        listed = [] if has_model else backend.list_models(Deadline(CHECK_SECONDS))
        caveat = backend.caveat(Deadline(CHECK_SECONDS))
        had = "answers, and has" if backend.is_begun else "is not begun, so it is not known whether it can load"
    except Exception as error:
        yield Finding(level, f"{backend.name} can't serve: {reason_of(backend, error)}", REMEDY)
        return
    if has_model:
        yield Finding("ok", f"{backend.name} {had} {backend.model}")
    else:
        some = ", ".join([*listed[:5], "…"])
        yield Finding(level, f"{backend.name} does not list the model {backend.model!r}", f"take one of its: {some}")
    if caveat:
        yield Finding("warning", caveat)


def _aliases(chain: Chain) -> Iterator[Finding]:
    for name, alias in (chain.settings.model_aliases or {}).items():
        link, model = chain.aliased(alias)
        if model is None or Names(link.backend).have(model) is not False:
            yield Finding("ok", f"{name} is {link.backend.name}/{model or link.backend.model}")
        else:
            what = f"{name} stands for {model!r}, which {link.backend.name} does not list"
            yield Finding("warning", what, "set MODEL_ALIASES to a model of /v1/models")


def _shutdown(backend: Backend, day: date) -> Finding:
    gone = day <= date.today()
    level = "error" if gone else "warning" if (day - date.today()).days <= SOON_DAYS else "ok"
    what = f"{backend.model} {'was' if gone else 'will be'} shut down on {day}"
    return Finding(level, what, f"set {backend.name.upper()}_MODEL to one that lives on")
