"""The middle language, frozen: dialects make requests, backends make chunks, an exchange makes heads and answers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

from .strict_json import as_object

# What a request may need beyond text, each with the field that asks for it.
NEEDS = {
    **dict.fromkeys(("json_object", "json_schema"), "response_format"),
    **{"images": "messages", "documents": "messages", "tools": "tools", "tool_choice": "tool_choice"},
}
PARAMETERS = ("max_tokens", "temperature", "top_p", "stop", "seed", "response_format", "reasoning_effort")
# Of the extras, what says who asks: no parameter, since it changes no answer.
IDENTIFIERS = frozenset({"user", "safety_identifier", "prompt_cache_key"})
# A header of Anthropic's clients, which is in the body of the extras until that leaves.
BETAS = "anthropic-beta"


# How the files begin of the kinds that all providers take.
_PICTURES = {
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
}


@dataclass(frozen=True, slots=True)
class Text:
    """Words."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: base64 `data` of `media_type`, or the `url` it can be fetched from.

    `detail` is OpenAI's word for how closely to look, which sets what it costs.
    """

    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    detail: str | None = None

    @staticmethod
    def type_of(file: bytes) -> str | None:
        """Return the media type of a picture's file by its first bytes, None where it is none that models see."""
        return next((kind for kind, begins in _PICTURES.items() if begins.match(file)), None)


@dataclass(frozen=True, slots=True)
class Document:
    """A file that only the provider whose words its client speaks can have: a body as it came brings it there."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made; `arguments` is the JSON text as the model wrote it.

    `extra` is what the provider wants back with it, such as Gemini's signature of the thoughts before it.
    """

    id: str
    name: str
    arguments: str
    extra: Mapping[str, Any] | None = None

    @property
    def as_function(self) -> dict[str, Any]:
        """The call in the words of OpenAI's wire, which others have taken over."""
        said = {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}
        return said | ({"extra_content": self.extra} if self.extra else {})


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the call `call_id` gave."""

    call_id: str
    parts: tuple[Text | Image | Document, ...]
    is_error: bool = False


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What a model thought, or a piece of it; only the provider `made_by` can read `signature` and `data` again.

    A `signature` ends a block of thoughts, `data` is one by itself.
    """

    text: str = ""
    signature: str | None = None
    data: str | None = None
    made_by: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a model says in place of an answer."""

    text: str


Part = Text | Image | Document | ToolCall | ToolResult | Reasoning | Refusal
# What an answer to such a part takes; a backend that lacks it in `serves` is not asked.
PART_NEEDS = {Image: "images", Document: "documents", ToolCall: "tools", ToolResult: "tools"}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is `system`, `user`, `assistant` or `tool`, `name` tells apart who has it."""

    role: str
    parts: tuple[Part, ...]
    name: str | None = None

    @classmethod
    def of(cls, role: str, text: str) -> Message:
        """Return a message of one text."""
        return cls(role, (Text(text),))

    @property
    def content(self) -> str:
        """The texts, joined."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Text):  # as nearly all are; it is asked for often
            return self.parts[0].text
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def chars(self) -> int:
        """How many characters a model reads in it: texts, calls and results."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Text):
            return len(self.parts[0].text)
        return sum(map(_chars, self.parts))


def _chars(part: Part) -> int:
    if isinstance(part, ToolResult):
        return sum(map(_chars, part.parts))
    if isinstance(part, ToolCall):
        return len(part.name) + len(part.arguments)
    return len(part.text) if isinstance(part, Text) else 0


@dataclass(frozen=True, slots=True)
class Tool:
    """What the model may call; `parameters` is the JSON Schema of its arguments, None: it has none."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model has to call a tool: `mode` is `auto`, `none`, `required`, or `named` for the tool `name`.

    `parallel` false: one call at most.
    """

    mode: str = "auto"
    name: str | None = None
    parallel: bool | None = None

    @property
    def is_forced(self) -> bool:
        """Whether an answer without a call is none."""
        return self.mode in ("required", "named")


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """JSON is wanted: any object, or what fits `schema` (a JSON Schema).

    `name`, `strict` and `description` are OpenAI's words for its own use; None: not said. `may_be_cut`: what the token
    limit has cut is an answer too, since the client is told.
    """

    schema: Mapping[str, Any] | None = None
    name: str | None = None
    strict: bool | None = None
    may_be_cut: bool = False
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Extras:
    """Fields that mean something in one dialect only; `dialect` is the vendor's whose it is.

    `body` is the whole request as it came, for a backend that can send it on so. The log has the `fields` alone.
    """

    dialect: str
    fields: Mapping[str, Any]
    body: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a client asks for, whichever dialect it spoke. None: not set by the client, so not sent either.

    `is_prompt`: it came as one text, with at most a system message before it, so the log has it as that.
    """

    messages: tuple[Message, ...]
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    response_format: ResponseFormat | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    reasoning_effort: str | None = None
    stream: bool = False
    fallback: bool = True
    extras: Extras | None = None
    is_prompt: bool = field(default=False, compare=False)

    @property
    def needs(self) -> frozenset[str]:
        """What a backend must serve to answer, of NEEDS. `tools`: to choose among them, `tool_choice`: to have to."""
        parts = [part for message in self.messages for part in message.parts]
        kinds = {type(part) for part in (*parts, *(p for r in parts if isinstance(r, ToolResult) for p in r.parts))}
        needs = {PART_NEEDS[kind] for kind in kinds if kind in PART_NEEDS}
        if self.response_format:
            needs.add("json_object" if self.response_format.schema is None else "json_schema")
        if self.offered:
            needs.add("tool_choice" if self.tool_choice.is_forced else "tools")
        return frozenset(needs)

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that the answer may call."""
        if self.tool_choice.mode == "named":
            return tuple(tool for tool in self.tools if tool.name == self.tool_choice.name)
        return () if self.tool_choice.mode == "none" else self.tools

    @property
    def system(self) -> str | None:
        """The system messages as one text, or None; a model needs a turn, so they are one where there is no other."""
        said = [m.content for m in self.messages if m.role == "system"]
        return "\n\n".join(said) or None if len(said) < len(self.messages) else None

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of PARAMETERS that the caller named, as JSON has them, and the extras."""
        named = {name: getattr(self, name) for name in PARAMETERS}
        if self.extras:
            named |= {name: self.extras.fields[name] for name in self.extras.fields.keys() - IDENTIFIERS}
        if self.response_format:
            named["response_format"] = self.response_format.schema or {"type": "json_object"}
        return {name: value for name, value in named.items() if value not in (None, ())}

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages without the system's; where there are no others, those as a user's."""
        turns = tuple([m for m in self.messages if m.role != "system"])
        return turns or tuple(replace(m, role="user") for m in self.messages)

    @property
    def vendor(self) -> str | None:
        """Whose words the extras are; None where there are none."""
        return self.extras.dialect if self.extras else None

    def extras_for(self, dialect: str) -> Mapping[str, Any]:
        """Return the fields that only `dialect` has, for a backend that speaks it."""
        return self.extras.fields if self.extras and self.extras.dialect == dialect else {}

    def as_it_came(self, dialect: str) -> Mapping[str, Any] | None:
        """Return the body for a backend that speaks `dialect` itself, None where it came in another."""
        return self.extras.body if self.extras and self.extras.dialect == dialect else None


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts of which vectors are wanted, of so many `dimensions`; None: as many as the model's own have.

    It needs nothing else, and no other backend may answer: vectors of two models can't be compared.
    """

    texts: tuple[str, ...]
    model: str | None = None
    dimensions: int | None = None
    stream: ClassVar[bool] = False
    fallback: ClassVar[bool] = False
    messages: ClassVar[tuple[Message, ...]] = ()
    needs: ClassVar[frozenset[str]] = frozenset()
    response_format: ClassVar[None] = None
    tools: ClassVar[tuple[Tool, ...]] = ()
    offered: ClassVar[tuple[Tool, ...]] = ()
    tool_choice: ClassVar[ToolChoice] = ToolChoice()
    vendor: ClassVar[None] = None


Request = GenerationRequest | EmbeddingRequest
Vectors = tuple[Sequence[float], ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the backend counted them; None where it did not say.

    The input has those that were `cached_tokens`, the output the `reasoning_tokens`.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None

    @classmethod
    def of(cls, *counts: object) -> Usage:
        """Return the counts as far as they are counts: what a provider counts wrong is no reason to lose an answer."""
        return cls(*map(_count, counts))

    def __post_init__(self) -> None:
        """Raise TypeError on anything else: it comes from outside."""
        for count in (self.input_tokens, self.output_tokens, self.cached_tokens, self.reasoning_tokens):
            if count is not None and _count(count) is None:
                raise TypeError("a count of tokens is a whole number")


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**53 else None


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of the call `index` of an answer, which count from 0. The first has `id` and `name`.

    The `arguments` of all pieces together are JSON, as the model wrote it; `extra` is a ToolCall's.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    extra: Mapping[str, Any] | None = None

    @property
    def as_call(self) -> ToolCall:
        """The piece as a part of the answer."""
        return ToolCall(self.id, self.name, self.arguments, self.extra)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer: what was thought, then the text, then calls.

    `refusal` is a piece of what the model says in place of an answer.

    Only the last one of a complete answer has a `finish_reason` (`stop`, `length`, `tool_calls`, `content_filter`);
    a stream that ends without it was cut short. `model` is the name the backend gave, where it gave one.
    """

    text: str = ""
    finish_reason: str | None = None
    usage: Usage = Usage()
    model: str | None = None
    refusal: str = ""
    calls: tuple[CallPiece, ...] = ()
    reasoning: tuple[Reasoning, ...] = ()

    def __post_init__(self) -> None:
        """Raise TypeError on anything else: it comes from outside."""
        texts = isinstance(self.text, str) and isinstance(self.refusal, str)
        if not texts or not isinstance(self.model, str | None):
            raise TypeError("an answer's text, refusal and model are strings")
        if self.calls or self.reasoning:
            said = [text for call in self.calls for text in (call.id, call.name, call.arguments)]
            said += [text for it in self.reasoning for text in (it.text, it.signature or "", it.data or "")]
            if not all(isinstance(text, str) for text in said):
                raise TypeError("what an answer calls and thinks is strings")

    @property
    def is_text(self) -> bool:
        """Whether it is words and nothing else, as nearly all are."""
        return bool(self.text) and not (self.refusal or self.calls or self.reasoning or self.finish_reason)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said."""
        return not (self.text or self.refusal or self.calls or self.reasoning)

    def pieces(self) -> Iterator[tuple[object, Part]]:
        """Yield the pieces with what tells apart the parts that they belong to."""
        yield from ((Reasoning, piece) for piece in self.reasoning)
        if self.text:
            yield Text, Text(self.text)
        if self.refusal:
            yield Refusal, Refusal(self.refusal)
        yield from ((piece.index, piece.as_call) for piece in self.calls)


@dataclass(frozen=True, slots=True)
class Embeddings(Chunk):
    """The answer to an EmbeddingRequest: a vector for each text."""

    finish_reason: str | None = "stop"
    vectors: Vectors = ()


class Step(NamedTuple):
    """What happens to the part at `place` of an answer: it `began`, empty, `grew` by a piece, or `ended` whole."""

    name: str
    place: int
    part: Part


class Parts:
    """The parts of an answer as they grow, one after the other.

    `whole` are those that have ended; once it `is_over`, the last one does. What comes while a call's arguments are not
    all there waits for the end.
    """

    def __init__(self) -> None:
        self.whole: list[Part] = []
        self.is_over = False
        self._open: object = None
        self._pieces: list[Any] = []
        self._waiting: list[tuple[object, Part]] = []
        self._called = set[object]()

    def grow(self, chunk: Chunk) -> Iterator[Step]:
        """Yield what a piece of the answer makes happen; the last one ends all."""
        for kind, piece in chunk.pieces():
            if kind in self._called:
                continue  # what comes after its whole arguments is none of them
            if kind == self._open or not (self._waiting or self._is_cut()):
                yield from self._add(kind, piece)
            else:
                self._waiting.append((kind, piece))
        if chunk.finish_reason:
            # calls one by one, after what else there is
            for kind, piece in sorted(self._waiting, key=lambda it: it[0] if isinstance(it[0], int) else -1):
                yield from self._add(kind, piece)
            self.is_over = True
            yield from self._end()

    @property
    def so_far(self) -> list[Part]:
        """Those that have ended, and what there is of the open one."""
        return [*self.whole, *([_joined(self._pieces)] if self._pieces else [])]

    def _is_cut(self) -> bool:
        called = "".join(piece.arguments for piece in self._pieces) if isinstance(self._open, int) else "{}"
        return not called or as_object(called) is None

    def _add(self, kind: object, piece: Part) -> Iterator[Step]:
        is_block = isinstance(piece, Reasoning) and piece.data is not None
        if kind != self._open or is_block:
            yield from self._end()
            self._open = kind
            yield Step("began", len(self.whole), _empty(piece))
        self._pieces.append(piece)
        yield Step("grew", len(self.whole), piece)
        if is_block or (isinstance(piece, Reasoning) and piece.signature is not None):
            yield from self._end()

    def _end(self) -> Iterator[Step]:
        if self._pieces:
            self.whole.append(_joined(self._pieces))
            self._called |= {self._open} if isinstance(self._open, int) else set()
            self._open, self._pieces = None, []
            yield Step("ended", len(self.whole) - 1, self.whole[-1])


def _empty(piece: Part) -> Part:
    match piece:
        case ToolCall():
            return replace(piece, arguments="")
        case Reasoning():
            return Reasoning(data=piece.data)
        case Refusal():
            return Refusal("")
    return Text("")


def _joined(pieces: list[Any]) -> Part:
    first, last = pieces[0], pieces[-1]
    if isinstance(first, ToolCall):
        extra = next((piece.extra for piece in pieces if piece.extra), None)
        return replace(first, arguments="".join(piece.arguments for piece in pieces), extra=extra)
    part: Part = replace(last, text="".join(piece.text for piece in pieces))
    return part


def fold(chunks: Sequence[Chunk]) -> tuple[Part, ...]:
    """Return the parts of a whole answer."""
    if not any(chunk.reasoning or chunk.refusal or chunk.calls for chunk in chunks):  # as of nearly all
        text = "".join(chunk.text for chunk in chunks)
        return (Text(text),) if text else ()
    parts = Parts()
    for chunk in chunks:
        for _ in parts.grow(chunk):
            pass
    return tuple(parts.whole)


@dataclass(frozen=True, slots=True)
class Head:
    """Which backend answers which request, known when the answer begins.

    The request came at `created`, in Unix seconds; `started` is the same moment on the monotonic clock. `speaks` is the
    vendor whose own fields the backend takes.
    """

    request_id: str
    created: float
    started: float
    backend: str
    model: str
    fallback_reason: str | None = None
    speaks: str | None = None

    @property
    def full_model(self) -> str:
        """The model by the name that /v1/models lists."""
        return f"{self.backend}/{self.model}"

    def elapsed_ms(self) -> float:
        """Return the milliseconds since the request came."""
        return round((time.monotonic() - self.started) * 1000, 3)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer and its backend; as a string, its words. `duration_ms` counts from the request's arrival.

    `vectors` are those of an EmbeddingRequest's texts.
    """

    head: Head
    parts: tuple[Part, ...]
    finish_reason: str
    usage: Usage
    duration_ms: float
    vectors: Vectors = ()

    @classmethod
    def of(cls, chunks: Sequence[Chunk], head: Head) -> Answer:
        """Fold all the chunks of an answer."""
        last = chunks[-1]
        assert last.finish_reason, "the last chunk of a whole answer has its reason"
        vectors = last.vectors if isinstance(last, Embeddings) else ()
        return cls(head, fold(chunks), last.finish_reason, last.usage, head.elapsed_ms(), vectors)

    @property
    def text(self) -> str:
        """The texts, joined."""
        return Message("assistant", self.parts).content

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(part for part in self.parts if isinstance(part, ToolCall))

    @property
    def reasoning(self) -> str:
        """What the model thought, as far as it shows it."""
        return "".join(part.text for part in self.parts if isinstance(part, Reasoning))

    @property
    def refusal(self) -> str:
        """What the model said in place of an answer."""
        return "".join(part.text for part in self.parts if isinstance(part, Refusal))

    @property
    def request_id(self) -> str:
        return self.head.request_id

    @property
    def backend(self) -> str:
        return self.head.backend

    @property
    def model(self) -> str:
        return self.head.model

    @property
    def fallback(self) -> bool:
        """Whether another backend than the configured one answered; `fallback_reason` says why."""
        return self.head.fallback_reason is not None

    @property
    def fallback_reason(self) -> str | None:
        return self.head.fallback_reason

    def __str__(self) -> str:
        return self.text or self.refusal
