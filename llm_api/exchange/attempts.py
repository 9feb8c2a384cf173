"""The attempts: how often one backend is asked, how its breaker learns of it, and what an answer must keep to.

The only retry loop there is.
"""

from __future__ import annotations

import math
import random
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

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
from ..log.record import Attempt, End
from ..runtime.deadline import Deadline
from ..types import NEEDS, CallPiece, Chunk, EmbeddingRequest, GenerationRequest, Request
from . import metrics
from .breaker import Breaker, Retries

# What the official SDKs do: docs/providers.md, 1.5.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 8.0
LONGEST_RETRY_AFTER = 120.0
# Times what a server asks for: it may name the same moment to a whole fleet, when its window is over.
LATER = 1.0, 1.25


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer that has begun. Iterate `chunks` once; `close` stops the backend."""

    backend: str
    model: str
    chunks: Iterator[Chunk]
    close: Callable[[], object]
    fallback_reason: str | None = None
    speaks: str | None = None


class Attempts:
    """The attempts of one request: `made` has them in order."""

    def __init__(self) -> None:
        self.made: list[Attempt] = []

    @contextmanager
    def attempt(self, backend: Backend, request: Request) -> Iterator[Attempt]:
        """Note one, which lasts as long as the block, and why it failed where it did."""
        started = time.monotonic()
        attempt = Attempt(backend.name)
        try:
            yield attempt
        except Exception as error:
            attempt.fail(_known(error))
            raise
        finally:
            attempt.duration_ms = round((time.monotonic() - started) * 1000, 3)
            self.made.append(attempt)

    def over(self, end: End, line: Mapping[str, Any] | None) -> None:
        """Take note of the request's end; `line` is that of the log, where it was written."""


def ask(
    backend: Backend, breaker: Breaker, request: Request, deadline: Deadline, attempts: Attempts, retries: Retries
) -> Begun:
    """Ask `backend`, again where that is due. Raises LLMAPIError."""
    asked = 0
    while True:
        try:
            with attempts.attempt(backend, request) as attempt:
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
        try:
            deadline.wait(pause)
        except TimedOut:
            return False  # it was busy to the end, which is why it did not serve
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


def _begin(backend: Backend, breaker: Breaker, request: Request, deadline: Deadline, attempt: Attempt) -> Begun:
    if not request.needs <= backend.serves:
        can = backend.abilities(request.model, deadline)
        if missing := sorted(request.needs - can):
            raise _unserved(backend.name, missing, can)
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
    return Begun(backend.name, model, chain(ready, source), source.close, speaks=backend.speaks)


def _ready(source: Iterator[Chunk], request: Request) -> list[Chunk]:
    """Return what has to be there before any of it leaves: all of JSON, which is checked; a call that has to come."""
    if not request.stream or request.response_format:
        return list(source)
    ready = [next(source)]
    while not _has_begun(ready[-1], request):
        ready.append(next(source))
    return ready


def _has_begun(chunk: Chunk, request: Request) -> bool:
    said = chunk.calls if request.tool_choice.is_forced else not chunk.is_empty
    return bool(said or chunk.finish_reason)


def _unserved(backend: str, missing: list[str], can: frozenset[str]) -> Unsupported:
    served = ", ".join(sorted(need for need in can if NEEDS[need] == NEEDS[missing[0]]))
    words = f"{backend} does not serve {', '.join(missing)}{f', only {served}' if served else ''}"
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
    return _kept(chunks, request) if request.offered else chunks


def _trips(error: LLMAPIError, begun: bool) -> bool:
    # a stream that is late after its beginning may have had a slow reader
    slow_reader = begun and isinstance(error, TimedOut)
    return isinstance(error, BackendError) and error.trips and not error.busy and not slow_reader


def _pause(retry_after: float | None, retries: int) -> float:
    """Return the seconds before the next try; infinity where the server asks for more than the SDKs grant."""
    if retry_after is None or retry_after <= 0:
        return min(FIRST_PAUSE * 2.0**retries, LONGEST_PAUSE) * random.uniform(0.75, 1)
    return retry_after * random.uniform(*LATER) if retry_after <= LONGEST_RETRY_AFTER else math.inf


def _kept(chunks: Iterator[Chunk], request: GenerationRequest) -> Generator[Chunk, None, None]:
    """Pass on an answer to a request that offers tools. Raises InvalidAnswer where it does not keep to the choice."""
    calls = _Calls(request)
    has_words = False
    for chunk in chunks:
        has_words = has_words or bool(chunk.text.strip() or chunk.refusal)
        taken = calls.taken(chunk.calls) if chunk.calls else ()
        finish = chunk.finish_reason and calls.ended(chunk.finish_reason, has_words, bool(chunk.refusal))
        yield replace(chunk, calls=taken, finish_reason=finish) if chunk.calls or finish else chunk


class _Calls:
    def __init__(self, request: GenerationRequest) -> None:
        self._choice = request.tool_choice
        self._ids: dict[int, str] = {}

    def taken(self, pieces: tuple[CallPiece, ...]) -> tuple[CallPiece, ...]:
        """Return the pieces with their ids, without those of a second call where one is wanted."""
        return tuple(self._with_id(piece) for piece in pieces if not piece.index or self._choice.parallel is not False)

    def _with_id(self, piece: CallPiece) -> CallPiece:
        if piece.index in self._ids:
            return piece
        if not piece.name or self._choice.name not in (None, piece.name):
            raise InvalidAnswer("the model called another tool than the one it had to", detail=piece.name or None)
        is_new = piece.id and piece.id not in self._ids.values()
        self._ids[piece.index] = piece.id if is_new else f"call_{secrets.token_hex(12)}"
        return replace(piece, id=self._ids[piece.index])

    def ended(self, reason: str, has_words: bool, is_refusal: bool) -> str:
        """Return the reason for which the answer ends, by whether it has calls."""
        if self._ids:
            return "tool_calls" if reason == "stop" else reason
        if reason == "tool_calls":
            raise InvalidAnswer("the model's answer says that it called a tool, and has no call")
        if self._choice.is_forced and (reason == "stop" or (reason == "length" and has_words)) and not is_refusal:
            raise InvalidAnswer("the model did not call the tool that it had to")
        return reason
