"""What a backend is. It translates a GenerationRequest to a foreign format, and what comes back to Chunks."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import ClassVar

from ..errors import InvalidAnswer, RequestRefused, Unsupported
from ..runtime.deadline import Deadline
from ..settings import Settings
from ..types import Chunk, EmbeddingRequest, Embeddings, GenerationRequest, Usage, Vectors

HALF = re.compile("[\ud800-\udfff]")
# What a call tells a provider of the trace that it is part of.
TRACE_HEADERS: ContextVar[Mapping[str, str]] = ContextVar("llm_api.trace_headers", default={})  # noqa: B039  (read only)
# Of so many texts a server's answer, written out in digits, is still no larger than an answer may be.
BATCH = 128


class Backend(ABC):
    """One source of text. Made once an app from its settings; used by many threads at once.

    Making one opens nothing and loads nothing, since gunicorn may fork afterwards.
    """

    name: ClassVar[str]
    # The vendor whose own fields it takes (types.Extras).
    speaks: ClassVar[str | None] = None
    # Which of types.NEEDS all its models serve; `abilities` says what else one does.
    serves: frozenset[str] = frozenset({"json_object", "json_schema"})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._sizes: dict[tuple[str | None, int | None], int] = {}

    @property
    @abstractmethod
    def model(self) -> str:
        """The model that answers where a request names none."""

    @property
    def embed_model(self) -> str | None:
        """The model that makes vectors where a request names none; None: it makes none."""
        return None

    @property
    def context(self) -> int | None:
        """How many tokens a request and its answer may have, where that is known."""
        return None

    def begin(self) -> None:  # noqa: B027  (most have nothing to begin)
        """Begin, in this process, what the first request would wait for. Returns at once; raises a BackendError."""

    @property
    def is_begun(self) -> bool:
        """Whether what answers runs, so that `check` has asked it. Raises a BackendError."""
        return True

    def numbers(self, deadline: Deadline) -> dict[str, float]:
        """Return what /metrics is to show of it besides, by names as Prometheus wants them. Raises as `check` does."""
        return {}

    @abstractmethod
    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        """Yield the answer. Only the last chunk has a `finish_reason`, and it has the usage where that is known.

        A request with `stream` false may be answered in one chunk. Closing the iterator stops the generation. What
        waits yields an empty chunk after each `deadline.silence` seconds, so that the client's connection is kept.
        Raises a BackendError where this backend can't serve and another might, RequestRefused where the request
        itself is wrong, ClientGone or TimedOut when `deadline` says so.
        """

    def count(self, request: GenerationRequest, deadline: Deadline) -> int | None:
        """Return how many tokens the model reads of `request`; None where it can't tell. Raises as `check` does."""
        return None

    def embed(self, request: EmbeddingRequest, deadline: Deadline) -> Embeddings:
        """Return the vectors of at most BATCH texts, in their order. Raises as `stream` does."""
        raise Unsupported(f"{self.name} makes no embeddings", param="model")

    def vectors(self, request: EmbeddingRequest, deadline: Deadline) -> Embeddings:
        """Return what `embed` gives of all texts: for each a vector, and of a model always of the same size.

        Raises as `embed` does, and RequestRefused where the model has not the `dimensions` that are wanted.
        """
        texts, found = request.texts, []
        for start in range(0, len(texts), BATCH):
            some = replace(request, texts=texts[start : start + BATCH])
            found.append(self.embed(some, deadline))
            self._check_vectors(some, found[-1].vectors)
        tokens = [part.usage.input_tokens for part in found]
        counted = Usage(sum(count for count in tokens if count is not None)) if None not in tokens else Usage()
        return replace(found[-1], usage=counted, vectors=tuple(vector for part in found for vector in part.vectors))

    def _check_vectors(self, request: EmbeddingRequest, vectors: Vectors) -> None:
        if len(vectors) != len(request.texts):
            raise InvalidAnswer(f"{self.name} gave {len(vectors)} vectors for {len(request.texts)} texts")
        for vector in vectors:
            if not _is_vector(vector):
                raise InvalidAnswer(f"{self.name} gave a vector that is none")
            size = len(vector)
            if request.dimensions and size != request.dimensions:
                words = f"this model's vectors have {size} dimensions, not {request.dimensions}"
                raise RequestRefused(words, code="unsupported_parameter", param="dimensions")
            if size != (known := self._sizes.setdefault((request.model, request.dimensions), size)):
                raise InvalidAnswer(f"{self.name} gave a vector of {size} dimensions, and one of {known} before")

    def abilities(self, model: str | None, deadline: Deadline) -> frozenset[str]:
        """Return which of types.NEEDS `model`, or where that is None its own, serves. Raises as `check` does.

        Asked for each request that has needs, so one that has to ask a server remembers its answer.
        """
        return self.serves

    def left_out(self, request: GenerationRequest) -> tuple[str, ...]:
        """Return the parameters of `request` that the model is not sent; the log names them."""
        return ()

    @abstractmethod
    def check(self, deadline: Deadline) -> None:
        """Raise a BackendError if this backend can't serve now. Generates nothing, costs no tokens."""

    @abstractmethod
    def list_models(self, deadline: Deadline) -> list[str]:
        """Return the names a request's `model` may have. Raises as `check` does."""

    def means(self, model: str, listed: str) -> bool:
        """Whether `model` is a name of the one that is `listed` so."""
        return model.removesuffix(":latest") == listed.removesuffix(":latest")  # Ollama's tag, over OpenAI's wire too

    def is_own(self, model: str | None) -> bool:
        """Whether a request that names `model` is for the backend's own, by whichever name."""
        return model is None or (self.means(model, self.model) and self.means(self.model, model))

    def has_model(self, deadline: Deadline) -> bool:
        """Whether its own `model` is one of these. Raises as `check` does."""
        return any(self.means(self.model, listed) for listed in self.list_models(deadline))

    def caveat(self, deadline: Deadline) -> str | None:
        """Return what an operator should know of a server that can serve, or None. Raises as `check` does."""
        return None


class Stops:
    """The `stop` texts of one answer, for models that take none themselves.

    The last characters are held back, since a stop text may arrive in pieces.
    """

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = re.compile("|".join(map(re.escape, stop)) or "(?!)")
        self._keep = max(map(len, stop), default=1) - 1
        self._held = ""

    def cut(self, text: str, is_last: bool) -> tuple[str, bool]:
        """Return what of the answer may go out, and whether a stop text has ended it."""
        held = self._held + text
        if found := self._stop.search(held):
            return held[: found.start()], True
        ready = held if is_last else held[: max(0, len(held) - self._keep)]
        self._held = held[len(ready) :]
        return ready, False


def _is_vector(value: Sequence[float]) -> bool:
    try:
        return bool(len(value)) and all(map(math.isfinite, value))
    except (TypeError, OverflowError):  # it comes from outside
        return False


def cut_at_stop(chunks: Iterator[Chunk], stop: tuple[str, ...]) -> Iterator[Chunk]:
    """End the answer before the first of the `stop` texts."""
    if not stop:
        yield from chunks
        return
    stops = Stops(stop)
    for chunk in chunks:
        ready, is_over = stops.cut(chunk.text, bool(chunk.finish_reason or chunk.calls))
        if is_over:
            yield replace(chunk, text=ready, finish_reason="stop", calls=())
            return
        cut = replace(chunk, text=ready)
        if chunk.is_empty or chunk.finish_reason or not cut.is_empty:
            yield cut


def whole_characters(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks with texts that can be encoded: JSON may hold half a character (RFC 8259, section 8.2).

    Halves that an upstream has cut apart are joined; U+FFFD is for one that stays alone.
    """
    held = defaultdict[object, str](str)
    is_held = False
    for chunk in chunks:
        has_half = HALF.search(chunk.text) if chunk.is_text else any(map(HALF.search, _texts(chunk)))
        if has_half or is_held:
            chunk = _whole(chunk, held)
            is_held = any(held.values())
        yield chunk


def _texts(chunk: Chunk) -> tuple[str, ...]:
    calls, thoughts = [call.arguments for call in chunk.calls], [thought.text for thought in chunk.reasoning]
    return (chunk.text, chunk.refusal, *calls, *thoughts)


def _whole(chunk: Chunk, held: dict[object, str]) -> Chunk:
    def join(name: object, piece: str) -> str:
        text = held[name] + piece
        held[name] = text[-1:] if "\ud800" <= text[-1:] < "\udc00" and not chunk.finish_reason else ""
        return text.removesuffix(held[name]).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    return replace(
        chunk,
        text=join("text", chunk.text),
        refusal=join("refusal", chunk.refusal),
        calls=tuple(replace(call, arguments=join(call.index, call.arguments)) for call in chunk.calls),
        reasoning=tuple(replace(thought, text=join("reasoning", thought.text)) for thought in chunk.reasoning),
    )
