"""The attempts: how often one backend is asked, and how its breaker learns of it. The only retry loop there is."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain

from ..backends import Backend
from ..backends.base import whole_characters
from ..errors import (
    BackendError,
    CircuitOpen,
    ClientGone,
    InternalError,
    InvalidAnswer,
    LLMAPIError,
    ParameterDropped,
    RateLimited,
    RequestError,
    TimedOut,
    Unsupported,
)
from ..log.record import Attempt
from ..runtime.deadline import Deadline
from ..types import NEEDS, Chunk, EmbeddingRequest, Request
from . import metrics
from .breaker import Breaker
from .choice import kept

# What the official SDKs do: docs/providers.md, 1.5.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0
LONGEST_RETRY_AFTER = 120.0
# Retries to requests, over these seconds, and how many there may be in any case.
SHARE, BUDGET_SECONDS, FLOOR = 0.2, 10.0, 3

Note = Callable[[Attempt], object]


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer that has begun. Iterate `chunks` once; `close` stops the backend."""

    backend: str
    model: str
    chunks: Iterator[Chunk]
    close: Callable[[], object]
    fallback_reason: str | None = None


class Retries:
    """How often a backend may be asked again: `most` times a request, and all requests of a process within a share.

    Of a provider in trouble they would make three times what it is asked.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        # not bounded by time while nothing is retried
        self._requests: deque[float] = deque(maxlen=10_000)
        self._retries: deque[float] = deque()

    def count(self) -> None:
        """Count a request."""
        self._requests.append(time.monotonic())

    def take(self) -> bool:
        """Return whether one more retry is within the share, and count it then."""
        now = time.monotonic()
        with self._lock:
            for counted in (self._requests, self._retries):
                while counted and now - counted[0] > BUDGET_SECONDS:
                    counted.popleft()
            within = len(self._retries) < max(FLOOR, SHARE * len(self._requests))
            if within:
                self._retries.append(now)
            return within


def ask(
    backend: Backend, breaker: Breaker, request: Request, deadline: Deadline, note: Note, retries: Retries
) -> Begun:
    """Ask `backend`, again where that is due; `note` is told of each attempt. Raises LLMAPIError."""
    asked = 0
    while True:
        try:
            with _noted(backend.name, note) as attempt:
                return _begin(backend, breaker, request, deadline, attempt)
        except ParameterDropped:
            continue  # it can be dropped only once
        except BackendError as error:
            if not error.retryable or breaker.open_for() or not _next_turn(error, asked, breaker, deadline, retries):
                raise
            asked += 1


def _next_turn(error: BackendError, asked: int, breaker: Breaker, deadline: Deadline, retries: Retries) -> bool:
    """Wait until it is due to ask again; return False where it won't be, or not in time."""
    refused = time.monotonic()
    pause = _pause(error.retry_after, asked)
    due = asked < retries.most
    while pause < deadline.remaining() and (due or _waits(error, asked, breaker, refused, retries)):
        deadline.wait(pause)
        # one that asks when another's answer has ended is no more load than that was
        if breaker.take_place() or retries.take():
            return True
        due, pause = False, _pause(None, 0)
    return False


def _waits(error: BackendError, asked: int, breaker: Breaker, refused: float, retries: Retries) -> bool:
    """Whether waiting for a turn makes sense, and for a busy backend one more than MAX_RETRIES.

    A 503 asks for patience in words; what else fails may go well where others are served, by another node or later.
    """
    if asked >= retries.most and not (error.busy and retries.most):
        return False
    return (error.busy and not isinstance(error, RateLimited)) or breaker.serves_since(refused)


@contextmanager
def _noted(backend: str, note: Note) -> Iterator[Attempt]:
    started = time.monotonic()
    attempt = Attempt(backend)
    try:
        yield attempt
    except Exception as error:
        attempt.fail(_known(error))
        raise
    finally:
        attempt.duration_ms = round((time.monotonic() - started) * 1000, 3)
        note(attempt)


def _begin(backend: Backend, breaker: Breaker, request: Request, deadline: Deadline, attempt: Attempt) -> Begun:
    needs = request.needs - backend.serves
    if needs and (missing := needs - backend.abilities(request.model, deadline)):
        raise _unserved(backend, sorted(missing))
    if seconds := breaker.admit():
        raise CircuitOpen(
            f"{backend.name} keeps failing and is left alone for now; at last: {breaker.cause}", retry_after=seconds
        )
    attempt.left_out = () if isinstance(request, EmbeddingRequest) else backend.left_out(request)
    source = _to_its_end(backend, request, breaker, deadline, attempt)
    ready = _ready(source, request)
    if request.response_format:
        from .structured import checked  # not above: jsonschema takes a tenth of the package's import time

        ready = checked(ready, request.response_format, deadline)
    model = next((chunk.model for chunk in ready if chunk.model), request.model or backend.model)
    return Begun(backend.name, model, chain(ready, source), source.close)


def _ready(source: Iterator[Chunk], request: Request) -> list[Chunk]:
    """Return what has to be there before any of it leaves: all of JSON, which is checked; a call that has to come."""
    if not request.stream or request.response_format:
        return list(source)
    ready = [next(source)]
    while request.tool_choice.is_forced and not (ready[-1].calls or ready[-1].finish_reason):
        ready.append(next(source))
    return ready


def _unserved(backend: Backend, missing: list[str]) -> Unsupported:
    served = ", ".join(sorted(need for need in backend.serves if NEEDS[need] == NEEDS[missing[0]]))
    words = f"{backend.name} does not serve {', '.join(missing)}{f', only {served}' if served else ''}"
    return Unsupported(words, param=NEEDS[missing[0]])


def _known(error: Exception) -> LLMAPIError:
    return error if isinstance(error, LLMAPIError) else InternalError()


def _to_its_end(
    backend: Backend, request: Request, breaker: Breaker, deadline: Deadline, attempt: Attempt
) -> Generator[Chunk, None, None]:
    """Pass an answer on, and tell the breaker how it went. Raises InvalidAnswer where it stops before its end.

    Where it breaks off, the attempt has been noted already, and is changed.
    """
    begun = False
    ticket = breaker.sent()
    tell: Callable[[int], None] = breaker.abandoned
    try:
        for chunk in _chunks(backend, request, deadline):
            begun = True
            if (chunk.calls or chunk.finish_reason == "tool_calls") and not request.offered:
                raise InvalidAnswer("the model called a tool where none was offered")
            if chunk.finish_reason:
                tell = breaker.served
                yield chunk
                return
            yield chunk
        deadline.check()
        raise InvalidAnswer("the answer ended before it was complete")
    except ClientGone:
        raise
    except Exception as error:
        attempt.fail(_known(error))
        if isinstance(error, BackendError | RequestError):
            tell = partial(breaker.failed, cause=error.message) if _trips(error, begun) else breaker.answered
        raise
    finally:
        tell(ticket)
        if backend.is_own(request.model):  # the names that clients choose are no labels
            metrics.breaker(backend.name, breaker.is_open)


def _chunks(backend: Backend, request: Request, deadline: Deadline) -> Iterator[Chunk]:
    if isinstance(request, EmbeddingRequest):
        return iter([backend.vectors(request, deadline)])
    chunks = whole_characters(backend.stream(request, deadline))
    return kept(chunks, request) if request.offered else chunks


def _trips(error: LLMAPIError, begun: bool) -> bool:
    # a stream that is late after its beginning may have had a slow reader
    slow_reader = begun and isinstance(error, TimedOut)
    return isinstance(error, BackendError) and error.trips and not error.busy and not slow_reader


def _pause(retry_after: float | None, retries: int) -> float:
    """Return the seconds before the next try; infinity where the server asks for more than the SDKs grant."""
    if retry_after is None or retry_after <= 0:
        return min(FIRST_PAUSE * 2.0**retries, LONGEST_PAUSE) * random.uniform(0.75, 1)
    return retry_after if retry_after <= LONGEST_RETRY_AFTER else math.inf
