"""The chain: which backends a service has, which of them a request is for, and who is asked when one can't serve."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..backends import Backend, make_backend
from ..errors import BackendError, LLMAPIError, ModelForbidden, RequestError, RequestRefused, Unsupported
from ..runtime.deadline import Deadline
from ..runtime.per_process import PerProcess
from ..settings import Settings
from ..types import EmbeddingRequest, GenerationRequest, Request
from .attempts import Attempts, Begun, ask
from .breaker import Breaker, Breakers, Retries

# A backend that hangs must leave time for those behind it: each of them keeps this share of the whole.
KEPT_FOR_FALLBACK = 0.1
LIST_SECONDS = 5.0
SERVES_SECONDS = 1.0
# How long a list is asked for while a request waits, and how long it is believed.
NAME_SECONDS, LISTED_SECONDS = 2.0, 30.0
WARN_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Names:
    """The models of a backend by all their names."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._listed: list[str] | None = None
        self._until = -math.inf

    def have(self, name: str) -> bool | None:
        """Whether it is a model's that the backend has; None where the backend can't tell, or lists none."""
        if self._backend.is_own(name) or name == self._backend.embed_model:
            return True
        if time.monotonic() > self._until:
            listed = None
            with suppress(Exception):  # a plugin's may be any
                listed = self._backend.list_models(Deadline(NAME_SECONDS))
            self._listed = listed
            self._until = time.monotonic() + LISTED_SECONDS
        listed = self._listed
        return None if not listed else any(self._backend.means(name, other) for other in listed)


class Link(NamedTuple):
    """A backend of the chain, with its breakers."""

    backend: Backend
    breakers: Breakers

    def breaker(self, model: str | None) -> Breaker:
        """Return that of a model as a request names it."""
        return self.breakers.of(None if self.backend.is_own(model) else model)


class Route(NamedTuple):
    """The links that a request may go to, in order, and the request as the first of them is asked."""

    links: list[Link]
    request: Request


@dataclass(frozen=True)
class Hooks:
    """What a host decides: whether a caller may use `backend/model`, how a line of the log is written, who asks in the
    current request, and whether that one sees everybody's requests.
    """

    may_use: Callable[[str | None, str], bool] | None = None
    redact: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    caller: Callable[[], str | None] | None = None
    operator: Callable[[], bool] | None = None

    def permit(self, caller: str | None, model: str) -> bool:
        """Return whether `caller` may use `model`."""
        return self.may_use is None or self.may_use(caller, model)


class Fallbacks:
    """Warns of answers that a fallback has begun: of the first at once, then once a minute with how many they are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: dict[tuple[str, str], tuple[int, float]] = {}

    def count(self, asked: str, answering: str, code: str) -> None:
        """Count one; `code` is that of the error of the backend that was asked."""
        now = time.monotonic()
        with self._lock:
            count, warned = self._counted.get((asked, answering), (0, -math.inf))
            is_due = now - warned >= WARN_SECONDS
            self._counted[asked, answering] = (0, now) if is_due else (count + 1, warned)
        if is_due:
            words = "%s could not serve (%s), and %s answers in its place: %d since the last such line"
            logger.warning(words, asked, code, answering, count + 1)


class Chain:
    """The backends of one service in the order they are asked. Shared by all threads.

    `backends` replaces those that `settings` name.
    """

    def __init__(self, settings: Settings, hooks: Hooks, backends: Iterable[Backend] | None = None) -> None:
        self.settings = settings
        self.hooks = hooks
        names = dict.fromkeys((settings.llm_backend, *settings.llm_fallback))
        found = backends if backends is not None else [make_backend(name, settings) for name in names]
        self.links = [Link(backend, Breakers()) for backend in found]
        self._names = [Names(link.backend) for link in self.links]
        self._retries = Retries(settings.max_retries)
        self._fallbacks = Fallbacks()
        # a forked child has none of its parent's requests
        self.places = PerProcess(lambda: threading.BoundedSemaphore(settings.concurrency))

    @property
    def first(self) -> Backend:
        """The configured backend."""
        return self.links[0].backend

    @property
    def choices(self) -> list[Backend]:
        """The backends that a request's `model` may choose."""
        return [link.backend for link in (self.links if self.settings.allow_model_choice else self.links[:1])]

    def models(self) -> dict[str, list[str]]:
        """Return the names that a request's `model` may have, as `backend/model`, each with what it serves.

        A backend that can't tell is left out; raises its BackendError when none can.
        """
        with ThreadPoolExecutor(len(self.choices)) as pool:
            found = list(pool.map(_listed, self.choices))
        lists = [names for names in found if isinstance(names, dict)]
        if not lists and isinstance(found[0], LLMAPIError):
            raise found[0]
        return {name: serves for names in lists for name, serves in names.items()}

    def serves(self) -> dict[str, list[str]]:
        """Return what each backend's own model serves, as far as that can be had at once."""
        return {backend.name: _serves(backend, None, Deadline(SERVES_SECONDS)) for backend, _ in self.links}

    def route(self, request: Request) -> Route:
        """Return where `request` goes, with its model as the first backend calls it."""
        first, model = self.named(request.model)
        if isinstance(request, EmbeddingRequest):
            model = model or first.backend.embed_model
        links = [first, *(link for link in self.links[1:] if link is not first)]
        if model != request.model:
            request = dataclasses.replace(request, model=model)
        return Route(links if request.fallback else links[:1], request)

    def count(self, request: Request, caller: str | None) -> int | None:
        """Return how many tokens the model reads of `request`; None where its backend can't tell now.

        Raises ModelForbidden.
        """
        route = self.permitted(self.route(request), caller)
        assert isinstance(route.request, GenerationRequest), "only those are counted"
        with suppress(LLMAPIError):
            return route.links[0].backend.count(route.request, Deadline(LIST_SECONDS))
        return None

    def permitted(self, route: Route, caller: str | None) -> Route:
        """Return `route` without the fallbacks that `caller` may not use. Raises ModelForbidden for the first."""
        first, *others = route.links
        if not self.hooks.permit(caller, f"{first.backend.name}/{route.request.model or first.backend.model}"):
            raise ModelForbidden("this caller may not use this model", param="model")
        allowed = [x for x in others if self.hooks.permit(caller, f"{x.backend.name}/{x.backend.model}")]
        return Route([first, *allowed], route.request)

    def begin(self, route: Route, deadline: Deadline, attempts: Attempts) -> Begun:
        """Ask the backends of `route` in turn; return the answer that has begun.

        Raises the first backend's error when none can serve, RequestRefused when the request itself is wrong,
        ClientGone or TimedOut.
        """
        self._retries.count()
        failures: list[BackendError] = []
        request = route.request
        for behind, link in zip(reversed(range(len(route.links))), route.links, strict=True):
            try:
                kept = behind * KEPT_FOR_FALLBACK * self.settings.request_timeout
                with deadline.keeping(kept, self._patience(request) if behind else math.inf):
                    breaker = link.breaker(request.model)
                    begun = ask(link.backend, breaker, request, deadline, attempts, self._retries)
            except BackendError as error:
                failures.append(error)
                _remember(link, request, error)
                # a model's name means something to the first backend only
                request = dataclasses.replace(request, model=None)
            except RequestError as error:
                raise _first(failures) or error from None
            else:
                link.breakers.own.remember(None)
                if not failures:
                    return begun
                reason = failures[0].code
                self._fallbacks.count(route.links[0].backend.name, begun.backend, reason)
                return dataclasses.replace(begun, fallback_reason=reason)
        words = "; ".join(failure.message for failure in failures)
        raise _first(failures) or RequestRefused(words, code="unsupported_parameter", param=failures[0].param)

    def _patience(self, request: Request) -> float:
        """Return the seconds that a backend has to begin, where its beginning can be told from its whole answer."""
        begins = request.stream and not request.response_format and not request.tool_choice.is_forced
        return self.settings.first_chunk_timeout or math.inf if begins else math.inf

    def named(self, name: str | None) -> tuple[Link, str | None]:
        """Return the link that a request's model names, and the model's name there; None: the configured one's.

        A name of MODEL_ALIASES is what it stands for, unless a backend lists a model of that name. Any backend of the
        chain may be behind it: the operator has chosen.
        """
        alias = self.alias(name) if name else None
        link, model = self._read(name, self.choices)
        if alias is None or self._names[self.links.index(link)].have(model or ""):
            return link, model
        return self.aliased(alias)

    def aliased(self, alias: str) -> tuple[Link, str | None]:
        """Return what stands behind a name of MODEL_ALIASES, as `named` does."""
        return self._read(None if alias == "default" else alias, [link.backend for link in self.links])

    def alias(self, name: str) -> str | None:
        """Return what a name of MODEL_ALIASES stands for, None where it is none."""
        aliases = (self.settings.model_aliases or {}).items()
        fits = (model for said, model in aliases if name == said or (said[-1] == "*" and name.startswith(said[:-1])))
        return next(fits, None)

    def _read(self, name: str | None, backends: list[Backend]) -> tuple[Link, str | None]:
        """Return which of the first `backends` is meant by a name that is no alias, and the model's name there.

        Any name is a model of the configured backend, but for `backend/model`: where that backend lists such a model,
        and the configured one none of the whole name, as Groq has `openai/gpt-oss-20b`. Where one can't tell, its own
        model's name says whether a slash is a part of its names.
        """
        first = self.links[0]
        prefix, _, model = (name or "").partition("/")
        named = [number for number, backend in enumerate(backends) if backend.name == prefix]
        if not model or not named or self._names[0].have(f"{prefix}/{model}"):
            return first, name
        listed = self._names[named[0]].have(model)
        has_prefix = not first.backend.model.startswith(f"{prefix}/") if listed is None else listed
        return (self.links[named[0]], model) if has_prefix else (first, name)


def _first(failures: Iterable[BackendError]) -> BackendError | None:
    """Return the first failure of a backend that could serve such a request."""
    return next((failure for failure in failures if not isinstance(failure, Unsupported)), None)


def _remember(link: Link, request: Request, error: BackendError) -> None:
    """Note why a backend did not serve, for /health, unless something of the client's own choice is why."""
    is_theirs = isinstance(error, Unsupported) or request.response_format or request.tools
    if link.backend.is_own(request.model) and not is_theirs:
        link.breakers.own.remember(error.message)


def _listed(backend: Backend) -> dict[str, list[str]] | LLMAPIError:
    deadline = Deadline(LIST_SECONDS)
    try:
        return {f"{backend.name}/{name}": _serves(backend, name, deadline) for name in backend.list_models(deadline)}
    except LLMAPIError as error:
        return error


def _serves(backend: Backend, model: str | None, deadline: Deadline) -> list[str]:
    try:
        return sorted(backend.abilities(model, deadline))
    except LLMAPIError:
        return sorted(backend.serves)
