"""What a backend is. It translates a GenerationRequest to a foreign format, and what comes back to Chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

from ..runtime.deadline import Deadline
from ..settings import Settings
from ..types import Chunk, GenerationRequest


class Backend(ABC):
    """One source of text. Made once an app from its settings; used by many threads at once.

    Making one opens nothing and loads nothing, since gunicorn may fork afterwards.
    """

    name: ClassVar[str]
    # Which of types.NEEDS a request may have; one with others is refused.
    serves: frozenset[str] = frozenset({"json_object", "json_schema"})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def model(self) -> str:
        """The model that answers where a request names none."""

    def begin(self) -> None:  # noqa: B027  (most have nothing to begin)
        """Begin, in this process, what the first request would wait for. Returns at once; raises a BackendError."""

    def numbers(self, deadline: Deadline) -> dict[str, float]:
        """Return what /metrics is to show of it besides, by names as Prometheus wants them. Raises as `check` does."""
        return {}

    @abstractmethod
    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        """Yield the answer. Only the last chunk has a `finish_reason`, and it has the usage where that is known.

        A request with `stream` false may be answered in one chunk. Closing the iterator stops the generation.
        Raises a BackendError where this backend can't serve and another might, RequestRefused where the request
        itself is wrong, ClientGone or TimedOut when `deadline` says so.
        """

    def left_out(self, request: GenerationRequest) -> tuple[str, ...]:
        """Return the parameters of `request` that the model is not sent; the log names them."""
        return ()

    @abstractmethod
    def check(self, deadline: Deadline) -> None:
        """Raise a BackendError if this backend can't serve now. Generates nothing, costs no tokens."""

    @abstractmethod
    def list_models(self, deadline: Deadline) -> list[str]:
        """Return the names a request's `model` may have. Raises as `check` does."""

    def has_model(self, deadline: Deadline) -> bool:
        """Whether its own `model` is one of these. Raises as `check` does."""
        listed = self.list_models(deadline)
        return self.model in listed or f"{self.model}:latest" in listed  # Ollama's tag, over OpenAI's wire

    def caveat(self, deadline: Deadline) -> str | None:
        """Return what an operator should know of a server that can serve, or None. Raises as `check` does."""
        return None


def cut_at_stop(chunks: Iterator[Chunk], stop: tuple[str, ...]) -> Iterator[Chunk]:
    """End the answer before the first of the `stop` texts, for models that take none themselves.

    The last characters are held back, since a stop text may arrive in pieces.
    """
    if not stop:
        yield from chunks
        return
    held = ""
    keep = max(map(len, stop)) - 1
    for chunk in chunks:
        held += chunk.text
        if (end := _first(held, stop)) >= 0:
            yield replace(chunk, text=held[:end], finish_reason="stop")
            return
        ready = held if chunk.finish_reason else held[: max(0, len(held) - keep)]
        held = held[len(ready) :]
        if ready or chunk.refusal or chunk.finish_reason:
            yield replace(chunk, text=ready)


def _first(text: str, stop: tuple[str, ...]) -> int:
    return min((at for word in stop if (at := text.find(word)) >= 0), default=-1)
