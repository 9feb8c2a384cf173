"""The frozen types that cross every wall: schemas make requests, backends make chunks, views frame them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PARAMETERS = ("max_tokens", "temperature", "top_p", "stop", "seed", "response_format")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """JSON is wanted: any object, or what fits `schema` (a JSON Schema).

    `name` and `strict` are OpenAI's words for its own use; None: not said.
    """

    schema: Mapping[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a client asks for, whichever dialect it spoke. None means: not said, so not sent either."""

    messages: tuple[Message, ...]
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    response_format: ResponseFormat | None = None
    stream: bool = False
    fallback: bool = True

    @property
    def system(self) -> str | None:
        """The system messages as one text, or None."""
        return "\n\n".join(m.content for m in self.messages if m.role == "system") or None

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of PARAMETERS that the caller named, as JSON has them."""
        named = {name: getattr(self, name) for name in PARAMETERS}
        if self.response_format:
            named["response_format"] = self.response_format.schema or {"type": "json_object"}
        return {name: value for name, value in named.items() if value not in (None, ())}

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages without the system's."""
        return tuple(m for m in self.messages if m.role != "system")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the backend counted them; None where it did not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None

    def __post_init__(self) -> None:
        """Raise TypeError on anything else: it comes from outside."""
        for count in (self.input_tokens, self.output_tokens):
            if count is not None and (type(count) is not int or not 0 <= count < 2**53):
                raise TypeError("a count of tokens is a whole number")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer.

    Only the last one of a complete answer has a `finish_reason` (`stop`, `length`, `tool_calls`, `content_filter`);
    a stream that ends without it was cut short. `model` is the name the backend gave, where it gave one.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Usage = Usage()
    model: str | None = None

    def __post_init__(self) -> None:
        """Raise TypeError on anything else: it comes from outside."""
        if not isinstance(self.text, str) or not isinstance(self.model, str | None):
            raise TypeError("an answer's text and model are strings")
