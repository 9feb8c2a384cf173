"""OpenAI's Responses: docs/providers.md, 8. null means not said.

Nothing is stored, so what asks for something stored is refused. Tools that OpenAI runs itself, items of other kinds,
and unknown fields are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count, groupby
from typing import Any

from marshmallow import ValidationError, fields, post_load, validate

from .. import strict_json
from ..errors import LLMAPIError
from ..types import (
    Answer,
    CallPiece,
    Chunk,
    GenerationRequest,
    Head,
    Image,
    Message,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from .base import Asked
from .fields import MAX_EFFORT_CHARS, FlatFormat, Nullable, StrictBoolean, StrictInteger
from .openai import KEEP_ALIVE, MAX_MESSAGES, ROLES, Contents, OpenAIBody, OpenAIDialect
from .tools import MAX_TOOLS, Tooled, ToolSchema, tool_fields

STATELESS = "Nothing is stored here: send the whole conversation as input."
# The kinds of items that are read, each with the fields that it must have.
ITEMS: dict[str, tuple[str, ...]] = {
    "message": ("role", "content"),
    "reasoning": (),
    "function_call": ("call_id", "name"),
    "function_call_output": ("call_id", "output"),
}
SERVED_TOOLS = {"function", "namespace"}
TEXTS = ("input_text", "output_text", "reasoning_text", "summary_text")
# What only a model's provider can read of its thoughts, in the one text that clients send back for it.
SEALED = re.compile(r"(\w+):(signature|data):(.+)", re.DOTALL)
CUTS = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ItemContents(Contents):
    """A string, or a list of parts, whose types have other names here."""

    def _part(self, place: int, part: Any) -> Text | Image:
        return super()._part(place, _chat_part(part) if isinstance(part, dict) else part)


def _chat_part(part: dict[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url"), "detail": part.get("detail")}}
    return part | {"type": "text" if kind in TEXTS else "file" if kind == "input_file" else kind}


class ItemSchema(Nullable):
    """One item: what was said, thought or called, or what a call gave."""

    type = fields.String(load_default="message")
    role = fields.String(validate=validate.OneOf(ROLES.keys() - {"tool"}))
    content = ItemContents()
    name = fields.String(validate=validate.Length(1))
    namespace = fields.String()
    call_id = fields.String(validate=validate.Length(1))
    arguments = fields.String(load_default="")
    output = ItemContents()
    summary = ItemContents()
    encrypted_content = fields.String()

    @post_load
    def make_message(self, data: dict[str, Any], **kwargs: Any) -> Message:
        """Return the type for a valid item."""
        for name in ITEMS[data["type"]]:
            if name not in data:
                raise ValidationError("Missing data for required field.", name)
        match data["type"]:
            case "message":
                return _said(data)
            case "reasoning":
                return Message("assistant", (_thought(data),))
            case "function_call":
                name = _flat(data.get("namespace"), data["name"])
                return Message("assistant", (ToolCall(data["call_id"], name, data["arguments"]),))
        return Message("tool", (ToolResult(data["call_id"], data["output"]),))


def _said(data: Mapping[str, Any]) -> Message:
    role, parts = ROLES[data["role"]], data["content"]
    if role != "user" and any(isinstance(part, Image) for part in parts):
        raise ValidationError("Only a user's message has images.", "content")
    return Message(role, parts)


def _thought(data: Mapping[str, Any]) -> Reasoning:
    text = Message("assistant", data.get("content") or data.get("summary") or ()).content
    sealed = SEALED.fullmatch(data.get("encrypted_content") or "")  # OpenAI's own is for OpenAI's own
    return Reasoning(text, made_by=sealed[1], **{sealed[2]: sealed[3]}) if sealed else Reasoning(text)


def _sealed(thought: Reasoning) -> str | None:
    name = "data" if thought.data else "signature"
    said = thought.data or thought.signature
    return f"{thought.made_by}:{name}:{said}" if said else None


ITEM = ItemSchema()


class Input(fields.Field[tuple[Message, ...]]):
    """A text, or a list of items. The answer of a model is several of those, and one message."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[Message, ...]:
        if isinstance(value, str):
            return (Message.of("user", value),)
        if not isinstance(value, list) or not 0 < len(value) <= MAX_MESSAGES:
            raise ValidationError(f"Not a text or a list of 1 to {MAX_MESSAGES:,} items.")
        found = [self._read(place, item) for place, item in enumerate(value) if _kind(item, "message") in ITEMS]
        return tuple(_joined(found))

    def _read(self, place: int, item: Any) -> Message:
        try:
            message: Message = ITEM.load(item)
        except ValidationError as error:
            raise ValidationError({place: error.messages}) from None
        return message


def _kind(value: Any, default: str = "") -> str:
    """Return the `type` of an item or a tool. Raises ValidationError for what is stored elsewhere."""
    said = value.get("type") if isinstance(value, dict) else None
    kind = default if said is None else said
    if kind == "item_reference":
        raise ValidationError(STATELESS)
    if not isinstance(kind, str):
        raise ValidationError("Its type is not a text.")
    return kind


def _joined(messages: list[Message]) -> Iterator[Message]:
    for role, turns in groupby(messages, key=lambda message: message.role):
        if role == "assistant":
            yield Message(role, tuple(part for message in turns for part in message.parts))
        else:
            yield from turns


class Offered(fields.Field[list[Tool]]):
    """Functions, alone and in namespaces; other kinds are left out."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Tool]:
        try:
            found = [{**tool, "name": _flat(space, tool["name"])} for space, tool in _functions(value)]
            if not isinstance(value, list) or not all(isinstance(tool["type"], str) for tool in value):
                raise TypeError("tools are a list, and their types are texts")
        except (KeyError, TypeError, AttributeError):
            raise ValidationError("Not a list of tools, each with its type and name.") from None
        tools: list[Tool] = ToolSchema(many=True).load([{"type": "function", "function": each} for each in found])
        return tools


def _functions(tools: Iterable[Any]) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield each function with its namespace, None: it has none."""
    for tool in tools:
        if tool["type"] == "function":
            yield None, tool
        elif tool["type"] == "namespace":
            yield from ((tool["name"], inner) for _, inner in _functions(tool["tools"]))


def _flat(namespace: str | None, name: str) -> str:
    """Return the one name by which backends call it."""
    return f"{namespace}__{name}" if namespace else name


TextSchema = Nullable.from_dict(
    {"format": FlatFormat(allow_none=True), "verbosity": fields.String(allow_none=True)}, name="TextSchema"
)
EFFORT = fields.String(allow_none=True, validate=validate.Length(1, MAX_EFFORT_CHARS))
ReasoningSchema = Nullable.from_dict(
    {"effort": EFFORT, "summary": fields.String(allow_none=True)}, name="ReasoningSchema"
)


class Stored(fields.Field[None]):
    """What asks for something that is stored."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> None:
        raise ValidationError(STATELESS)


class ResponsesSchema(OpenAIBody, Tooled):
    """The body of `POST /v1/responses`."""

    input = Input(required=True)
    instructions = fields.String()
    tools = Offered(validate=validate.Length(max=MAX_TOOLS))  # type: ignore[assignment]  # flat, unlike Tooled's
    max_output_tokens = StrictInteger(validate=validate.Range(1, 2**31 - 1))
    text = fields.Nested(TextSchema)
    reasoning = fields.Nested(ReasoningSchema)
    metadata = fields.Dict(keys=fields.String(), values=fields.String())
    top_logprobs = StrictInteger(validate=validate.OneOf([0], error="Log probabilities are not served."))
    background = StrictBoolean(validate=validate.OneOf([False], error=STATELESS))
    previous_response_id = Stored()
    conversation = Stored()
    prompt = Stored()

    @post_load
    def make_asked(self, data: dict[str, Any], **kwargs: Any) -> Asked:
        """Return the types for a valid body."""
        text, reasoning = data.pop("text", None) or {}, data.pop("reasoning", None) or {}
        said = {
            "max_tokens": data.get("max_output_tokens"),
            "response_format": text.get("format"),
            "verbosity": text.get("verbosity"),
            "reasoning_effort": reasoning.get("effort"),
        }
        data |= {name: value for name, value in said.items() if value is not None} | tool_fields(data)
        system = (Message.of("system", data["instructions"]),) if data.get("instructions") else ()
        is_prompt = [message.role for message in data["input"]] == ["user"]
        return self.asked((*system, *data["input"]), "input", data, is_prompt)


@dataclass(frozen=True, eq=False)
class Kind:
    """How an item is framed: its `fixed` fields, the events of its text, and the text's name in them.

    Where the text is in a `part`, a list named `holder` has that, and `part_event` begins the names of its events.
    `beside` is what each event of the text has too.
    """

    prefix: str
    fixed: dict[str, Any]
    event: str
    said: str
    holder: str = ""
    part_event: str = ""
    part: dict[str, Any] = field(default_factory=dict)
    beside: dict[str, Any] = field(default_factory=dict)


SPOKEN = {"type": "message", "role": "assistant"}
WORDS = Kind(
    *("msg", SPOKEN, "output_text", "text", "content", "content_part"),
    {"type": "output_text", "annotations": [], "logprobs": []},
    {"logprobs": []},
)
REFUSAL = Kind("msg", SPOKEN, "refusal", "refusal", "content", "content_part", {"type": "refusal"})
THOUGHT = Kind(
    *("rs", {"type": "reasoning"}, "reasoning_summary_text", "text", "summary", "reasoning_summary_part"),
    {"type": "summary_text"},
)
CALL = Kind("fc", {"type": "function_call"}, "function_call_arguments", "arguments")
Event = tuple[str, dict[str, Any]]


class _Item:
    """An item of an answer, as it grows; each step yields its events."""

    def __init__(self, kind: Kind, place: int, request_id: str, more: dict[str, Any]) -> None:
        self._kind = kind
        self._id = f"{kind.prefix}_{request_id}_{place}"
        self._place = {"output_index": place}
        self._at: dict[str, Any] = {"item_id": self._id, **self._place}
        self._at |= {f"{kind.holder}_index": 0} if kind.holder else {}
        self._texts: list[str] = []
        self.fields = kind.fixed | more

    def shown(self, status: str) -> dict[str, Any]:
        said = {"id": self._id, "status": status} | self.fields
        if not self._kind.holder:
            return said | self._text()
        return said | {self._kind.holder: [self._part()] if self._texts else []}

    def begin(self) -> Iterator[Event]:
        yield "response.output_item.added", self._place | {"item": self.shown("in_progress")}

    def more(self, text: str) -> Iterator[Event]:
        if self._kind.holder and not self._texts:
            yield f"response.{self._kind.part_event}.added", self._at | {"part": self._part()}
        self._texts.append(text)
        yield f"response.{self._kind.event}.delta", self._at | {"delta": text} | self._kind.beside

    def end(self, status: str) -> Iterator[Event]:
        if self._texts or not self._kind.holder:
            yield f"response.{self._kind.event}.done", self._at | self._text() | self._kind.beside
        if self._texts and self._kind.holder:
            yield f"response.{self._kind.part_event}.done", self._at | {"part": self._part()}
        yield "response.output_item.done", self._place | {"item": self.shown(status)}

    def _text(self) -> dict[str, str]:
        return {self._kind.said: "".join(self._texts)}

    def _part(self) -> dict[str, Any]:
        return self._kind.part | self._text()


class _Output:
    """The items of an answer. Words and thoughts end where something else begins; calls may grow side by side."""

    def __init__(self, head: Head, asked: Asked) -> None:
        self._head = head
        self._asked = asked
        self._items: list[_Item] = []
        self._open: dict[object, _Item] = {}
        named = [(space, tool["name"]) for space, tool in _functions(asked.body.get("tools") or ()) if space]
        self._spaces = {_flat(space, name): {"name": name, "namespace": space} for space, name in named}

    def state(self, name: str, status: str, usage: Usage = Usage(), **more: Any) -> Event:  # noqa: B008  (frozen)
        """Return the event of a state, which has all that there is of the answer."""
        said = {
            "id": f"resp_{self._head.request_id}",
            "created_at": int(self._head.created),
            "model": f"{self._head.backend}/{self._head.model}",
            "status": status,
            "output": [item.shown(self._status(item, status)) for item in self._items],
            "usage": _usage(usage),
        }
        return f"response.{name}", {"response": _repeated(self._asked, self._named) | said | more}

    def events(self, chunk: Chunk) -> Iterator[Event]:
        """Yield what a piece of the answer makes happen."""
        for thought in chunk.reasoning:
            yield from self._think(thought)
        if chunk.text:
            yield from self._grow(WORDS, chunk.text)
        if chunk.refusal:
            yield from self._grow(REFUSAL, chunk.refusal)
        for piece in chunk.calls:
            yield from self._grow(CALL, piece.arguments, piece)
        if chunk.finish_reason:
            yield from self._end(CUTS.get(chunk.finish_reason), chunk.usage)

    def _end(self, cut: str | None, usage: Usage) -> Iterator[Event]:
        status = "incomplete" if cut else "completed"
        for item in self._open.values():
            yield from item.end(self._status(item, status))
        yield self.state(status, status, usage, incomplete_details={"reason": cut} if cut else None)

    def _status(self, item: _Item, status: str) -> str:
        """Return an item's status in an answer of that `status`: the last one is cut where the answer is."""
        is_last = item is self._items[-1]
        return "completed" if not is_last else "incomplete" if status == "failed" else status

    def _think(self, thought: Reasoning) -> Iterator[Event]:
        if thought.data:
            yield from self._close()
        yield from self._grow(THOUGHT, thought.text)
        if sealed := _sealed(thought):
            self._open[THOUGHT].fields["encrypted_content"] = sealed
            yield from self._close()

    def _grow(self, kind: Kind, text: str, piece: CallPiece | None = None) -> Iterator[Event]:
        key = piece.index if piece else kind
        yield from self._close(key)
        if key not in self._open:
            called = {"call_id": piece.id} | self._named(piece.name) if piece else {}
            self._open[key] = _Item(kind, len(self._items), self._head.request_id, called)
            self._items.append(self._open[key])
            yield from self._open[key].begin()
        if text:
            yield from self._open[key].more(text)

    def _close(self, but: object = None) -> Iterator[Event]:
        """End what is open and no call, but for that of the key `but`."""
        for other in [key for key in self._open if isinstance(key, Kind) and key is not but]:
            yield from self._open.pop(other).end("completed")

    def _named(self, name: str) -> dict[str, Any]:
        """Return the name of a tool as the client has it."""
        return self._spaces.get(name, {"name": name})


def _repeated(asked: Asked, named: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Return what an answer repeats of its request, as far as it is served, and what stands for the unsaid."""
    request, body = asked.request, asked.body
    assert isinstance(request, GenerationRequest), "only words are asked for here"
    choice = request.tool_choice
    return {
        "object": "response",
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata") or {},
        "max_output_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "text": body.get("text") or {"format": {"type": "text"}},
        "reasoning": body.get("reasoning") or {"effort": None, "summary": None},
        "tools": [tool for tool in body.get("tools") or () if _kind(tool) in SERVED_TOOLS],
        "tool_choice": {"type": "function"} | named(choice.name) if choice.name else choice.mode,
        "parallel_tool_calls": choice.parallel is not False,
        "store": False,
    }


def _usage(usage: Usage) -> dict[str, Any] | None:
    sent, made = usage.input_tokens, usage.output_tokens
    if sent is None or made is None:
        return None
    return {
        "input_tokens": sent,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens or 0, "cache_write_tokens": 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": sent + made,
    }


class Responses(OpenAIDialect):
    """Answer a conversation (OpenAI's Responses).

    `model` is a name of the configured backend, or `backend/model` as /v1/models lists it. Nothing is stored: `input`
    has the whole conversation. With `stream`, server-sent events.
    """

    rule = "/v1/responses"
    name = "responses"
    operation = "response"
    conversation = "input"
    schema_of = ResponsesSchema

    def read(self, body: Mapping[str, Any]) -> Asked:
        """As OpenAIDialect's; the kinds of tools and items that are left out are named, and the fields."""
        asked = super().read(body)
        unknown = {name for name in body.keys() - self.schema.fields.keys() if body[name] is not None}
        if not isinstance(body["input"], str):
            unknown |= {_kind(item, "message") for item in body["input"]} - ITEMS.keys()
        unknown |= {_kind(tool) for tool in body.get("tools") or ()} - SERVED_TOOLS
        return replace(asked, ignored=tuple(sorted(unknown)), body=body)

    def whole(self, answer: Answer, asked: Asked) -> dict[str, Any]:
        output = _Output(answer.head, asked)
        *_, (_, last) = [event for chunk in _chunks(answer) for event in output.events(chunk)]
        response: dict[str, Any] = last["response"]
        return response

    def pieces(self, head: Head, chunks: Iterator[Chunk], asked: Asked) -> Iterator[str]:
        number = count()
        for name, said in self._events(_Output(head, asked), chunks):
            yield _frame(name, next(number), said) if name else KEEP_ALIVE

    def broken(self, error: LLMAPIError) -> str:
        return _frame("error", 0, self._error(error))

    def _events(self, output: _Output, chunks: Iterator[Chunk]) -> Iterator[Event]:
        """Yield the events of a stream; one without a name where there is only silence."""
        try:
            for name in ("created", "in_progress"):
                yield output.state(name, "in_progress")
            for chunk in chunks:
                yield from output.events(chunk)
                if chunk.is_empty and not chunk.finish_reason:
                    yield "", {}
        except LLMAPIError as error:
            failure = {"code": "server_error", "message": error.public()["message"]}
            yield output.state("failed", "failed", error=failure)
            yield "error", self._error(error)
            raise

    def _error(self, error: LLMAPIError) -> dict[str, Any]:
        """Return it once flat, as OpenAI documents it, and once as OpenAI sends it, which its client raises."""
        said = self._public(error)
        return {name: said[name] for name in ("code", "message", "param")} | {"error": said}


def _chunks(answer: Answer) -> Iterator[Chunk]:
    """Yield an answer's parts as if they came just now."""
    calls = count()
    for part in answer.parts:
        match part:
            case Text(text):
                yield Chunk(text)
            case Reasoning():
                yield Chunk(reasoning=(part,))
            case ToolCall(call_id, name, arguments):
                yield Chunk(calls=(CallPiece(next(calls), call_id, name, arguments),))
    yield Chunk("", answer.finish_reason, answer.usage, refusal=answer.refusal)


def _frame(name: str, number: int, said: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {strict_json.dumps({'type': name, 'sequence_number': number, **said})}\n\n"
