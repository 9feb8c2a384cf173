"""OpenAI's Responses: docs/providers.md, 8. null means not said.

Nothing is stored, so what asks for something stored is refused, and so are parts of other kinds. Tools that OpenAI runs
itself, items of other kinds, and unknown fields are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, groupby
from typing import Any, NamedTuple

from marshmallow import ValidationError, fields, post_load, validate

from ..errors import LLMAPIError
from ..types import (
    Answer,
    Chunk,
    GenerationRequest,
    Head,
    Image,
    Message,
    Part,
    Parts,
    Reasoning,
    Refusal,
    Step,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from .base import Asked, event, template
from .fields import (
    EFFORT,
    MAX_MESSAGES,
    FlatFormat,
    Nullable,
    StrictBoolean,
    StrictInteger,
    TextOr,
)
from .openai import ROLES, ChatPart, OpenAIBody, OpenAIDialect
from .tools import MAX_TOOLS, Tooled, ToolSchema, tool_fields

STATELESS = "Nothing is stored here: send the whole conversation as input."
# The kinds of items that are read, each with the fields that it must have.
ITEMS: dict[str, tuple[str, ...]] = {
    "message": ("role", "content"),
    "reasoning": (),
    "function_call": ("call_id", "name"),
    "function_call_output": ("call_id", "output"),
}
ITEM_ROLES = ROLES.keys() - {"tool"}
SERVED_TOOLS = {"function", "namespace"}
TEXTS = ("input_text", "output_text", "reasoning_text", "summary_text")
# What only a model's provider can read of its thoughts, in the one text that clients send back for it.
SEALED = re.compile(r"(\w+):(signature|data):(.+)", re.DOTALL)
PLAIN = {"format": {"type": "text"}}
CUTS = {"length": "max_output_tokens", "content_filter": "content_filter"}


class ItemPart(ChatPart):
    """The same, whose types have other names here."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Text | Image:
        part = _chat_part(value) if isinstance(value, dict) else value
        return super()._deserialize(part, attr, data, **kwargs)


def _chat_part(part: dict[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url"), "detail": part.get("detail")}}
    return part | {"type": "text" if kind in TEXTS else "file" if kind == "input_file" else kind}


class ItemSchema(Nullable):
    """One item: what was said, thought or called, or what a call gave."""

    type = fields.String(load_default="message")
    role = fields.String(validate=validate.OneOf(ITEM_ROLES))
    content = TextOr(ItemPart())
    name = fields.String(validate=validate.Length(1))
    namespace = fields.String()
    call_id = fields.String(validate=validate.Length(1))
    arguments = fields.String(load_default="")
    extra_content = fields.Dict(keys=fields.String())
    output = TextOr(ItemPart())
    summary = TextOr(ItemPart())
    encrypted_content = fields.String()

    @post_load
    def make_message(self, data: dict[str, Any], **kwargs: Any) -> Message | None:
        """Return the type for a valid item, None for a message without parts."""
        for name in ITEMS[data["type"]]:
            if name not in data:
                raise ValidationError("Missing data for required field.", name)
        match data["type"]:
            case "message":
                return Message(ROLES[data["role"]], data["content"]) if data["content"] else None
            case "reasoning":
                return Message("assistant", (_thought(data),))
            case "function_call":
                name = _flat(data.get("namespace"), data["name"])
                call = ToolCall(data["call_id"], name, data["arguments"], data.get("extra_content"))
                return Message("assistant", (call,))
        return Message("tool", (ToolResult(data["call_id"], data["output"]),))


def _thought(data: Mapping[str, Any]) -> Reasoning:
    text = Message("assistant", data.get("content") or data.get("summary") or ()).content
    sealed = SEALED.fullmatch(data.get("encrypted_content") or "")  # OpenAI's own is for OpenAI's own
    return Reasoning(text, made_by=sealed[1], **{sealed[2]: sealed[3]}) if sealed else Reasoning(text)


def _sealed(thought: Reasoning) -> str | None:
    name = "data" if thought.data else "signature"
    said = thought.data or thought.signature
    return f"{thought.made_by}:{name}:{said}" if said else None


ITEM = ItemSchema()


class Item(fields.Field[Message | None]):
    """An item; None for one of another kind."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Message | None:
        message: Message | None = ITEM.load(value) if _kind(value, "message") in ITEMS else None
        return message


class Input(TextOr):
    """A text, or a list of items. The answer of a model is several of those, and one message."""

    def alone(self, text: str) -> Message:
        return Message.of("user", text)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return tuple(_joined(super()._deserialize(value, attr, data, **kwargs)))


def _kind(value: Any, default: str = "") -> str:
    """Return the `type` of an item or a tool. Raises ValidationError for what is stored elsewhere."""
    said = value.get("type") if isinstance(value, dict) else None
    kind = default if said is None else said
    if kind == "item_reference":
        raise ValidationError(STATELESS)
    if not isinstance(kind, str):
        raise ValidationError("Its type is not a text.")
    return kind


def _joined(messages: Iterable[Message]) -> Iterator[Message]:
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
            if not isinstance(value, list) or not all(isinstance(tool["type"], str) for _, tool in _tools(value)):
                raise TypeError("tools are a list, and their types are texts")
        except (KeyError, TypeError, AttributeError):
            raise ValidationError("Not a list of tools, each with its type and name.") from None
        tools: list[Tool] = ToolSchema(many=True).load([{"type": "function", "function": each} for each in found])
        return tools


def _tools(tools: Iterable[Any], namespace: str | None = None) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield each tool with its namespace, None: it has none."""
    for tool in tools:
        if tool["type"] == "namespace":
            yield from _tools(tool["tools"], tool["name"])
        else:
            yield namespace, tool


def _functions(tools: Iterable[Any]) -> Iterator[tuple[str | None, dict[str, Any]]]:
    return ((space, tool) for space, tool in _tools(tools) if tool["type"] == "function")


def _flat(namespace: str | None, name: str) -> str:
    """Return the one name by which backends call it."""
    return f"{namespace}__{name}" if namespace else name


TextSchema = Nullable.from_dict({"format": FlatFormat(), "verbosity": fields.String()}, name="TextSchema")
ReasoningSchema = Nullable.from_dict({"effort": EFFORT, "summary": fields.String()}, name="ReasoningSchema")


STORED = validate.OneOf((), error=STATELESS)


class ResponsesSchema(OpenAIBody, Tooled):
    """The body of `POST /v1/responses`."""

    input = Input(Item(), required=True, validate=validate.Length(max=MAX_MESSAGES))
    instructions = fields.String()
    tools = Offered(validate=validate.Length(max=MAX_TOOLS))  # type: ignore[assignment]  # flat, unlike Tooled's
    max_output_tokens = StrictInteger(validate=validate.Range(1, 2**31 - 1))
    text = fields.Nested(TextSchema)
    reasoning = fields.Nested(ReasoningSchema)
    metadata = fields.Dict(keys=fields.String(), values=fields.String())
    top_logprobs = StrictInteger(validate=validate.OneOf([0], error="Log probabilities are not served."))
    background = StrictBoolean(validate=validate.OneOf([False], error=STATELESS))
    previous_response_id = fields.Raw(validate=STORED)
    conversation = fields.Raw(validate=STORED)
    prompt = fields.Raw(validate=STORED)

    @post_load(pass_original=True)
    def make_asked(self, data: dict[str, Any], original: Mapping[str, Any], **kwargs: Any) -> Asked:
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
        return self.asked((*system, *data["input"]), "input", data, isinstance(original["input"], str))


NOTHING: dict[str, Any] = {}


class Kind(NamedTuple):
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
    part: dict[str, Any] = NOTHING
    beside: dict[str, Any] = NOTHING


SPOKEN = {"type": "message", "role": "assistant"}
KINDS: dict[type[Part], Kind] = {
    Text: Kind(
        *("msg", SPOKEN, "output_text", "text", "content", "content_part"),
        {"type": "output_text", "annotations": [], "logprobs": []},
        {"logprobs": []},
    ),
    Refusal: Kind("msg", SPOKEN, "refusal", "refusal", "content", "content_part", {"type": "refusal"}),
    Reasoning: Kind(
        *("rs", {"type": "reasoning"}, "reasoning_summary_text", "text", "summary", "reasoning_summary_part"),
        {"type": "summary_text"},
    ),
    ToolCall: Kind("fc", {"type": "function_call"}, "function_call_arguments", "arguments"),
}
Event = tuple[str, dict[str, Any]]


class _Output:
    """How the items of one answer are written, and the whole answer."""

    def __init__(self, head: Head, asked: Asked) -> None:
        self._head = head
        self._asked = asked
        self._number = count()
        self._growing: dict[int, Callable[[int, str], str]] = {}
        named = [(space, tool["name"]) for space, tool in _functions(asked.body.get("tools") or ()) if space]
        self._spaces = {_flat(space, name): {"name": name, "namespace": space} for space, name in named}

    def state(self, name: str, parts: Sequence[Part] = (), status: str = "in_progress", **more: Any) -> Event:
        """Return the event of a state, which has all that there is of the answer; unless it is whole, the last is cut.

        `more` are other fields of the answer.
        """
        statuses = ["completed"] * (len(parts) - 1) + ["completed" if status == "completed" else "incomplete"]
        said = {
            "id": f"resp_{self._head.request_id}",
            "created_at": int(self._head.created),
            "model": self._head.full_model,
            "status": status,
            "output": [self._item(part, place, statuses[place]) for place, part in enumerate(parts)],
            "usage": None,
        }
        return f"response.{name}", {"response": _repeated(self._asked, self._named) | said | more}

    def end(self, finish_reason: str, parts: Sequence[Part], usage: Usage) -> Event:
        """Return the event that ends a whole answer."""
        cut = CUTS.get(finish_reason)
        status = "incomplete" if cut else "completed"
        details = {"reason": cut} if cut else None
        return self.state(status, parts, status, usage=_usage(usage), incomplete_details=details)

    def frame(self, name: str, said: Mapping[str, Any]) -> str:
        """Return an event as it is sent, with its number."""
        return _frame(name, next(self._number), said)

    def frames(self, step: Step, status: str) -> Iterator[str]:
        """Yield what is sent of a step; an item that ends has the `status`."""
        if step.name == "grew" and step.place in self._growing:
            if text := _text(step.part):
                yield self._growing[step.place](next(self._number), text)
        else:
            yield from (self.frame(*each) for each in self._events(step, status))

    def _events(self, step: Step, status: str) -> Iterator[Event]:
        name, place, part = step
        kind, text, here = KINDS[type(part)], _text(part), {"output_index": place}
        at: dict[str, Any] = here | {"item_id": self._id(kind, place)}
        at |= {f"{kind.holder}_index": 0} if kind.holder else {}
        if name == "began":
            yield "response.output_item.added", here | {"item": self._item(part, place, "in_progress")}
        elif name == "grew" and text:
            if kind.holder:
                yield f"response.{kind.part_event}.added", at | {"part": kind.part | {kind.said: ""}}
            delta = f"response.{kind.event}.delta"
            self._growing[place] = template(lambda *it: _frame(delta, it[0], at | {"delta": it[1]} | kind.beside), 2)
            yield delta, at | {"delta": text} | kind.beside
        elif name == "ended":
            if text or not kind.holder:
                yield f"response.{kind.event}.done", at | {kind.said: text} | kind.beside
            if text and kind.holder:
                yield f"response.{kind.part_event}.done", at | {"part": kind.part | {kind.said: text}}
            yield "response.output_item.done", here | {"item": self._item(part, place, status)}

    def _item(self, part: Part, place: int, status: str) -> dict[str, Any]:
        kind, text = KINDS[type(part)], _text(part)
        said: dict[str, Any] = {"id": self._id(kind, place), "status": status} | kind.fixed
        if isinstance(part, ToolCall):
            extra = {"extra_content": part.extra} if part.extra else {}
            return said | {"call_id": part.id, "arguments": text} | self._named(part.name) | extra
        sealed = _sealed(part) if isinstance(part, Reasoning) else None
        said[kind.holder] = [kind.part | {kind.said: text}] if text else []
        return said | ({"encrypted_content": sealed} if sealed else {})

    def _id(self, kind: Kind, place: int) -> str:
        return f"{kind.prefix}_{self._head.request_id}_{place}"

    def _named(self, name: str) -> dict[str, Any]:
        """Return the name of a tool as the client has it."""
        return self._spaces.get(name, {"name": name})


def _text(part: Any) -> str:
    text: str = part.arguments if isinstance(part, ToolCall) else part.text
    return text


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
        "text": PLAIN | {name: said for name, said in (body.get("text") or {}).items() if said is not None},
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
        """As OpenAIDialect's; the kinds of tools and items that are left out are named too."""
        asked = super().read(body)
        items = [] if isinstance(body["input"], str) else body["input"]
        kinds = {_kind(item, "message") for item in items} - ITEMS.keys()
        kinds |= {_kind(tool) for _, tool in _tools(body.get("tools") or ())} - SERVED_TOOLS
        return replace(asked, ignored=(*asked.ignored, *sorted(kinds)), body=body)

    def whole(self, answer: Answer, asked: Asked) -> dict[str, Any]:
        _, said = _Output(answer.head, asked).end(answer.finish_reason, answer.parts, answer.usage)
        response: dict[str, Any] = said["response"]
        return response

    def pieces(self, head: Head, chunks: Iterator[Chunk], asked: Asked) -> Iterator[str]:
        output, parts = _Output(head, asked), Parts()
        try:
            yield from (output.frame(*output.state(name)) for name in ("created", "in_progress"))
            for chunk in chunks:
                for step in parts.grow(chunk):
                    is_cut = parts.is_over and chunk.finish_reason in CUTS
                    yield from output.frames(step, "incomplete" if is_cut else "completed")
                if chunk.finish_reason:
                    yield output.frame(*output.end(chunk.finish_reason, parts.whole, chunk.usage))
                elif chunk.is_empty:
                    yield ""
        except LLMAPIError as error:
            failure = {"code": "server_error", "message": error.public()["message"]}
            yield output.frame(*output.state("failed", parts.so_far, "failed", error=failure))
            yield output.frame("error", self._error(error))
            raise

    def broken(self, error: LLMAPIError) -> str:
        return _frame("error", 0, self._error(error))

    def _error(self, error: LLMAPIError) -> dict[str, Any]:
        """Return it once flat, as OpenAI documents it, and once as OpenAI sends it, which its client raises."""
        said = self._public(error)
        return {name: said[name] for name in ("code", "message", "param")} | {"error": said}


def _frame(name: str, number: int, said: Mapping[str, Any]) -> str:
    return event({"type": name, "sequence_number": number, **said}, name)
