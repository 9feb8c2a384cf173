"""A backend and a clock that do what a test tells them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

from llm_api import Settings
from llm_api.backends.base import Backend
from llm_api.errors import (
    BackendError,
    BadCredentials,
    CircuitOpen,
    InvalidAnswer,
    ModelNotFound,
    NotConfigured,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    ServerError,
    TimedOut,
    Unreachable,
)
from llm_api.runtime.deadline import Deadline
from llm_api.types import Chunk, EmbeddingRequest, Embeddings, GenerationRequest, Message, Usage

END = Chunk("", "stop", Usage(3, 2), "model-it-named")
ANSWER = (Chunk("Hi "), Chunk("there"), END)
# What a backend raises, with the status, the code and the Retry-After that a client must see.
FAILURES: list[tuple[BackendError, int, str, str | None]] = [
    (Unreachable("m"), 503, "unreachable", "1"),
    (TimedOut("m"), 504, "timeout", None),
    (RateLimited("m", retry_after=7.4), 429, "rate_limited", "7"),
    (QuotaExhausted("m"), 503, "rate_limited", "1"),
    (Overloaded("m", retry_after=0.2), 503, "overloaded", "1"),
    (BadCredentials("m"), 502, "bad_credentials", None),
    (ModelNotFound("m", param="model"), 404, "model_not_found", None),
    (ServerError("m"), 502, "server_error", None),
    (InvalidAnswer("m"), 502, "invalid_answer", None),
    (CircuitOpen("m", retry_after=8), 503, "circuit_open", "8"),
    (NotConfigured("m"), 503, "not_configured", "1"),
]
PATIENCE = 10  # seconds; only a broken program lets a wait take them

Piece = Chunk | BaseException | Callable[[Deadline], object]
Turn = Piece | Sequence[Piece]


def message(role: str, text: str) -> Message:
    """Return one turn of a conversation."""
    return Message.of(role, text)


class Clock:
    """Stands in for the module `time` in a module of llm_api; only tests move it."""

    sleep = staticmethod(time.sleep)

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    monotonic = time


class Fake(Backend):
    """Yields the chunks, raises the errors and calls the callables that it is given, and notes what it was asked.

    Each request takes the next of `turns`, and `pieces` when none is left; a callable alone goes before `pieces`, which
    are a short answer by default. A check does what `trouble` says: it raises an error, or waits for an event. It is
    stopped as a backend behind a socket is: then `over` is set. With `vector` set it makes that of a text; None: none.
    """

    def __init__(
        self,
        name: str,
        *pieces: Piece,
        turns: Sequence[Turn] = (),
        model: str | None = None,
        models: Any = None,
        trouble: Exception | threading.Event | None = None,
    ) -> None:
        super().__init__(Settings())
        self.name = name  # type: ignore[misc]
        self.pieces = pieces or (Chunk(name), Chunk("", "stop", Usage(3, 2)))
        self.turns = list(turns)
        self.trouble = trouble
        self.asked: list[GenerationRequest] = []
        self.checks: list[float] = []
        self.entered = threading.Event()
        self.over = threading.Event()
        self.closed = 0
        self.embedded: list[EmbeddingRequest] = []
        self.vector: Callable[[str], list[Any] | None] | None = None
        self._model = model or f"{name}-model"
        self._models = [self._model] if models is None else models

    @property
    def model(self) -> str:
        return self._model

    @property
    def embed_model(self) -> str | None:
        return f"{self.name}-embed" if self.vector else None

    def embed(self, request: EmbeddingRequest, deadline: Deadline) -> Embeddings:
        self.embedded.append(request)
        if not self.vector:
            return super().embed(request, deadline)
        found = tuple(made for made in map(self.vector, request.texts) if made is not None)
        return Embeddings(usage=Usage(len(request.texts)), model=request.model, vectors=found)

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        self.asked.append(request)
        try:
            with deadline.stopping(self.over.set):
                yield from self._answer(deadline)
        finally:
            self.closed += 1

    def _answer(self, deadline: Deadline) -> Iterator[Chunk]:
        for piece in self._next():
            if isinstance(piece, Chunk):
                yield piece
            elif isinstance(piece, BaseException):
                raise piece.with_traceback(None)
            else:
                yield from _silence(piece, deadline)
                deadline.check()

    def _next(self) -> Sequence[Piece]:
        turn = self.turns.pop(0) if self.turns else self.pieces
        return turn if isinstance(turn, Sequence) else (turn, *self.pieces)

    def check(self, deadline: Deadline) -> None:
        self.checks.append(deadline.remaining())
        self.entered.set()
        if isinstance(self.trouble, threading.Event):
            assert self.trouble.wait(2 * PATIENCE), "the test never let it go"
        elif self.trouble:
            raise self.trouble

    def list_models(self, deadline: Deadline) -> list[str]:
        if isinstance(self._models, Exception):
            raise self._models.with_traceback(None)
        return list(self._models() if callable(self._models) else self._models)


def _silence(piece: Callable[[Deadline], object], deadline: Deadline) -> Iterator[Chunk]:
    """Yield empty chunks while `piece` takes longer than the deadline's silence, as a backend behind a socket does."""
    with futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(piece, deadline)
        while deadline.silence and not futures.wait([waiting], deadline.silence).done:
            yield Chunk()
        waiting.result()
