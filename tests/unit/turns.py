"""A backend that does what a test tells it, and the routes that generate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from llm_api import Settings
from llm_api.backends.base import Backend
from llm_api.runtime.deadline import Deadline
from llm_api.types import Chunk, GenerationRequest, Usage

Piece = Chunk | Exception | Callable[[], object]
ANSWER = [Chunk("Hi "), Chunk("there"), Chunk("", "stop", Usage(3, 2))]

# Each route that generates, with a body for it and its operation in log and metrics.
MESSAGES = [{"role": "user", "content": "x"}]
GENERATE: dict[str, tuple[dict[str, Any], str]] = {
    "/generate": ({"prompt": "x"}, "generate"),
    "/v1/chat/completions": ({"model": "default", "messages": MESSAGES}, "chat"),
    "/v1/completions": ({"model": "default", "prompt": "x"}, "completion"),
}


class Clock:
    """Stands in for the module `time` in a module of llm_api; only tests move it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleep = time.sleep

    def monotonic(self) -> float:
        return self.now


class Fake(Backend):
    """Takes one of its `turns` a request: chunks to yield, errors to raise, things to call. Then it answers."""

    def __init__(
        self, name: str, *turns: Piece | list[Piece], model: str = "m", models: tuple[str, ...] = ("m",)
    ) -> None:
        super().__init__(Settings())
        self.name = name  # type: ignore[misc]
        self.turns = list(turns)
        self.models = models
        self.trouble: Exception | None = None
        self.asked: list[GenerationRequest] = []
        self._model = model

    @property
    def model(self) -> str:
        return self._model

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        self.asked.append(request)
        turn = self.turns.pop(0) if self.turns else ANSWER
        for piece in turn if isinstance(turn, list) else [turn, *ANSWER]:
            if isinstance(piece, Exception):
                raise piece.with_traceback(None)
            if isinstance(piece, Chunk):
                yield piece
            else:
                piece()

    def check(self, deadline: Deadline) -> None:
        if self.trouble:
            raise self.trouble

    def list_models(self, deadline: Deadline) -> list[str]:
        return list(self.models)
