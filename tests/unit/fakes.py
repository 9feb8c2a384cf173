"""A backend made by hand, and server-sent events read as a client does: what the tests of /v1 share."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

from werkzeug.test import TestResponse

from llm_api import Settings
from llm_api.backends.base import Backend
from llm_api.runtime.deadline import Deadline
from llm_api.types import Chunk, GenerationRequest, Usage

END = Chunk("", "stop", Usage(3, 2), "model-it-named")
ANSWER = (Chunk("Hi "), Chunk("there"), END)
PATIENCE = 10  # seconds; only a broken program lets a wait take them

# Waits in mid-answer; the event is set when the request is over.
Pause = Callable[[threading.Event], object]
Turn = Chunk | BaseException | Pause


class Fake(Backend):
    """Answers each request with the same turns, and is stopped as a backend behind a socket is."""

    def __init__(self, name: str, *turns: Turn, model: str = "model-configured", models: Any = ()) -> None:
        super().__init__(Settings())
        self.name = name  # type: ignore[misc]
        self.turns = turns
        self.asked: list[GenerationRequest] = []
        self.closed = 0
        self.over = threading.Event()
        self._model = model
        self._models = models

    @property
    def model(self) -> str:
        return self._model

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        self.asked.append(request)
        try:
            with deadline.stopping(self.over.set):
                for turn in self.turns:
                    if isinstance(turn, BaseException):
                        raise turn.with_traceback(None)
                    if isinstance(turn, Chunk):
                        yield turn
                    else:
                        turn(self.over)
                        deadline.check()
        finally:
            self.closed += 1

    def check(self, deadline: Deadline) -> None:
        pass

    def list_models(self, deadline: Deadline) -> list[str]:
        if isinstance(self._models, Exception):
            raise self._models.with_traceback(None)
        return list(self._models() if callable(self._models) else self._models)


def read_events(data: bytes) -> list[Any]:
    """Return what the `data:` lines of a whole stream hold; fail on what makes a client stumble (providers.md 8.1)."""
    *frames, rest = data.split(b"\n\n")
    assert rest == b"", "a stream ends with a blank line"
    found = []
    for frame in frames:
        assert b"\n" not in frame, "one line an event"
        if frame.startswith(b":"):
            continue
        name, _, value = frame.partition(b": ")
        assert (name, bool(value)) == (b"data", True)
        found.append("[DONE]" if value == b"[DONE]" else json.loads(value))
    return found


def error_of(reply: TestResponse) -> dict[str, Any]:
    """Return the error of an answer in the one envelope that all errors have."""
    body = reply.get_json()
    assert body.keys() - {"fields"} == {"error", "request_id"}
    assert body["request_id"] == reply.headers["X-Request-ID"]
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "code", "param"}
    return error
