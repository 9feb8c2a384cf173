"""Anthropic's Messages: docs/providers.md, 4. Clients are newer than any list of its fields, blocks and tools.

What only Claude takes reaches it as it came, and is left out for others, who can't have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

from marshmallow import EXCLUDE, ValidationError, fields, post_load, validate

from .. import strict_json
from ..errors import LLMAPIError
from ..strict_json import in_an_object
from ..types import (
    BETAS,
    Answer,
    Chunk,
    Document,
    Extras,
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
    ToolChoice,
    ToolResult,
    Usage,
)
from .base import Asked, Conversational, estimate, event, template
from .fields import (
    EFFORT,
    MAX_MESSAGES,
    NAME,
    FlatFormat,
    Nullable,
    StrictBoolean,
    TextOr,
    VendorBody,
    check_said,
    named_model,
    picture,
    picture_at,
)
from .openai import thought_block
from .tools import MAX_TOOLS, Chosen, tool_fields

CLAUDE = "claude"
# The parts that each role may have.
ROLES = {"user": (Text, Image, Document, ToolResult), "assistant": (Text, Reasoning, ToolCall), "system": (Text,)}
BLOCKS = {
    *("text", "image", "document", "search_result", "thinking", "redacted_thinking", "tool_use", "tool_result"),
}
# Claude Code's first words to its maker; they change with each request, and no cache of a prompt outlives that.
BILLING = "x-anthropic-billing-header"
SCALARS = ("max_tokens", "temperature", "top_p", "stream", "fallback")
# Of the fields that have no place in a request, those that change the answer: the log has them.
EXTRAS = ("thinking", "top_k")
# For models that are told an effort, the least budget of thoughts that each stands for, as LiteLLM has it.
BUDGETS = {"high": 10_000, "medium": 5_000, "low": 0}
# By these words Claude Code knows that it has to shorten a conversation.
TOO_LONG = "prompt is too long"
STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
ERRORS = {
    **{401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large"},
    **{429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error"},
}


class Block(fields.Field[Part | None]):
    """A block; None for one that only Claude takes."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Part | None:
        return None if _left_out(value) else _part(value)


class Inner(fields.Field[Part]):
    """A block inside another; one that only Claude takes is a part of that, so others can't do without."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Part:
        return Document() if _left_out(value) else _part(value)


class TextBlock(Block):
    """A block of text."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Part | None:
        part = super()._deserialize(value, attr, data, **kwargs)
        if not isinstance(part, Text | None):
            raise ValidationError("The system has texts only.")
        return part


def _left_out(block: Any) -> str | None:
    """Return the name of a block that only Claude takes, and that others can do without."""
    kind = block.get("type") if isinstance(block, dict) else None
    return kind if isinstance(kind, str) and kind not in BLOCKS else None


def _part(block: Any) -> Part:
    match block:
        case {"type": "text", "text": str(text)}:
            return Text(text)
        case {"type": "image", "source": {"type": "base64", "media_type": str(kind), "data": str(data)}}:
            return picture(data, kind)
        case {"type": "image", "source": {"type": "url", "url": str(url)}}:
            return picture_at(url)
        case {"type": "document", "source": {"type": "text", "data": str(text)}}:
            return _titled(block, text)
        case {"type": "search_result", "content": said} | {
            "type": "document",
            "source": {"type": "content", "content": said},
        }:
            found = CONTENT.deserialize(said)
            texts = [part.text for part in found if isinstance(part, Text)]
            return Document() if len(texts) < len(found) else _titled(block, "".join(texts))
        case {"type": "document", "source": {}} | {"type": "image", "source": {"type": "file"}}:
            return Document()
        case {"type": "thinking", "thinking": str(text), "signature": str(signature)} if signature:
            return Reasoning(text, signature, made_by=CLAUDE)
        case {"type": "thinking", "thinking": str(text)}:
            return Reasoning(text)
        case {"type": "redacted_thinking", "data": str(data)}:
            return Reasoning(data=data, made_by=CLAUDE)
        case {"type": "tool_use", "id": str(call_id), "name": str(name), "input": dict(value)} if call_id and name:
            extra = block.get("extra_content")
            return ToolCall(call_id, name, strict_json.dumps(value), extra if isinstance(extra, dict) else None)
        case {"type": "tool_result", "tool_use_id": str(call_id)} if call_id:
            content = block.get("content")
            said = () if content in (None, "") else CONTENT.deserialize(content)
            shown = tuple(part for part in said if isinstance(part, Text | Image | Document))
            if len(shown) < len(said):
                raise ValidationError("A result has texts and images only.")
            return ToolResult(call_id, shown, block.get("is_error") is True)
    raise ValidationError('Not a block such as {"type": "text", "text": "…"}, or one with a wrong field.')


def _titled(block: Mapping[str, Any], text: str) -> Text:
    words = (*map(block.get, ("title", "source", "context")), text)
    return Text("\n".join(said for said in words if said and isinstance(said, str)))


CONTENT = TextOr(Inner())


class TurnSchema(Nullable):
    """One message; `role` may be `system` too."""

    role = fields.String(required=True, validate=validate.OneOf(ROLES, error="Only user, assistant and system speak."))
    content = TextOr(Block(), required=True)

    @post_load
    def make_messages(self, data: dict[str, Any], **kwargs: Any) -> list[Message]:
        """Return the types for a valid message: the results of calls are tools' messages, before what a user says."""
        role, parts = data["role"], data["content"]
        if not all(isinstance(part, ROLES[role]) for part in parts):
            raise ValidationError("This role has no such block.", "content")
        results = [Message("tool", (part,)) for part in parts if isinstance(part, ToolResult)]
        said = tuple(part for part in parts if not isinstance(part, ToolResult))
        return [*results, Message(role, said)] if said else results


class ClientToolSchema(Nullable):
    """A tool that the client runs; one with another `type` is Claude's own."""

    type = fields.String()
    name = fields.String(validate=NAME)
    description = fields.String()
    input_schema = fields.Dict(keys=fields.String())
    strict = StrictBoolean()

    @post_load
    def make_tool(self, data: dict[str, Any], **kwargs: Any) -> Tool | None:
        """Return the type for a valid tool, None for one of Claude's."""
        if data.get("type") not in (None, "custom"):
            return None
        if missing := {"name", "input_schema"} - data.keys():
            raise ValidationError("Missing data for required field.", min(missing))
        return Tool(data["name"], data.get("description"), data["input_schema"], data.get("strict"))


class Choice(fields.Field[ToolChoice]):
    """{"type": "auto"}, `any`, `none`, or `tool` with a `name`; with `disable_parallel_tool_use`, one call at most."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> ToolChoice:
        parallel = False if isinstance(value, dict) and value.get("disable_parallel_tool_use") is True else None
        match value:
            case {"type": "auto" | "none" as mode}:
                return ToolChoice(mode, None, parallel)
            case {"type": "any"}:
                return ToolChoice("required", None, parallel)
            case {"type": "tool", "name": str(name)}:
                return ToolChoice("named", name, parallel)
        raise ValidationError("Not of the type auto, any, none, or tool with a name.")


OutputSchema = Nullable.from_dict({"effort": EFFORT, "format": FlatFormat()}, name="OutputSchema")


class MessagesSchema(VendorBody):
    """The body of `POST /v1/messages`, and of its counting."""

    class Meta:
        unknown = EXCLUDE
        exclude = ("stop", "seed", "response_format", "reasoning_effort")

    messages = fields.List(fields.Nested(TurnSchema), required=True, validate=validate.Length(1, MAX_MESSAGES))
    system = TextOr(TextBlock())
    stop_sequences = fields.List(fields.String(validate=validate.Length(1)))
    tools = fields.List(fields.Nested(ClientToolSchema), validate=validate.Length(max=MAX_TOOLS))
    tool_choice = Choice()
    thinking = fields.Dict(keys=fields.String())
    output_config = fields.Nested(OutputSchema)
    output_format = FlatFormat()
    betas = fields.String(data_key=BETAS, validate=validate.Regexp(r"[\x20-\x7e]*\Z"))

    @post_load(pass_original=True)
    def make_asked(self, data: dict[str, Any], original: Mapping[str, Any], **kwargs: Any) -> Asked:
        """Return the types for a valid body."""
        messages = tuple(_conversation(data))
        check_said(messages, "messages")
        output, choice = data.get("output_config") or {}, data.get("tool_choice") or ToolChoice()
        tools = [tool for tool in data.get("tools", ()) if tool]
        offered = {"tools": tools, "tool_choice": Chosen(choice), "parallel_tool_calls": choice.parallel}
        came = {name: value for name, value in original.items() if name != "fallback"}
        request = GenerationRequest(
            messages,
            model=named_model(data["model"]),
            stop=tuple(data.get("stop_sequences", ())),
            response_format=output.get("format") or data.get("output_format"),
            reasoning_effort=_effort(data.get("thinking", {}), output.get("effort")),
            extras=Extras(CLAUDE, {name: came[name] for name in EXTRAS if name in came}, came),
            **tool_fields(offered),
            **{name: data[name] for name in SCALARS if name in data},
        )
        return Asked(request)


def _conversation(data: Mapping[str, Any]) -> Iterator[Message]:
    """Yield the messages; what the system says between the turns goes before them, where every model reads it."""
    messages = [message for said in data["messages"] for message in said]
    told = [
        part.text for part in data.get("system", ()) if isinstance(part, Text) and not part.text.startswith(BILLING)
    ]
    told += [message.content for message in messages if message.role == "system"]
    if said := "\n\n".join(filter(None, told)):
        yield Message.of("system", said)
    yield from (message for message in messages if message.role != "system")


def _effort(thinking: Mapping[str, Any], effort: str | None) -> str | None:
    budget = thinking.get("budget_tokens")
    if thinking.get("type") == "disabled":
        return "none"
    if effort or not isinstance(budget, int):
        return effort
    return next((name for name, least in BUDGETS.items() if budget >= least), None)


def _foreign(body: Mapping[str, Any]) -> Iterator[str]:
    """Yield what of a valid body only Claude takes, beside the fields: betas, the types of tools and blocks."""
    yield from body.keys() & {BETAS}
    yield from (tool["type"] for tool in body.get("tools") or () if tool.get("type") not in (None, "custom"))
    for said in (body.get("system"), *(message["content"] for message in body["messages"])):
        yield from filter(None, map(_left_out, said if isinstance(said, list) else ()))


class Messages(Conversational):
    """Answer a conversation (Anthropic's Messages).

    `model` is a name of the configured backend, or `backend/model` as /v1/models lists it. With `stream`, server-sent
    events.
    """

    front = "anthropic"
    rule = "/v1/messages"
    name = "messages"
    operation = "message"
    conversation = "messages"
    headers: ClassVar = {"HTTP_ANTHROPIC_BETA": BETAS}
    keep_alive = event({"type": "ping"}, "ping")
    request_id = "request-id"
    sign = "HTTP_ANTHROPIC_VERSION"
    schema_of = MessagesSchema

    def read(self, body: Mapping[str, Any]) -> Asked:
        """As Conversational's; what other models can't have reaches Claude."""
        asked = super().read(body)
        return replace(asked, ignored=(), foreign=tuple(dict.fromkeys((*asked.ignored, *_foreign(body)))))

    def whole(self, answer: Answer, asked: Asked) -> dict[str, Any]:
        said = {"content": list(map(_block, answer.parts))}
        return _message(answer.head) | said | _end(answer.finish_reason, answer.parts) | _usage(answer.usage, asked)

    def frames(self, head: Head, chunks: Iterator[Chunk], asked: Asked) -> Iterator[str]:
        usage = Usage(output_tokens=0)
        yield _event("message_start", message=_message(head) | {"content": []} | NO_END | _usage(usage, asked))
        parts = Parts()
        for chunk in chunks:
            for step in parts.grow(chunk):
                yield from _frames(step)
            if chunk.finish_reason:
                yield _event(
                    "message_delta", delta=_end(chunk.finish_reason, parts.whole), **_usage(chunk.usage, asked)
                )
                yield _event("message_stop")
            elif chunk.is_empty:
                yield ""

    def error(self, error: LLMAPIError, request_id: str) -> dict[str, Any]:
        return {"type": "error"} | super().error(error, request_id)

    def broken(self, error: LLMAPIError) -> str:
        return _event("error", error=self._public(error))

    def _public(self, error: LLMAPIError) -> dict[str, str | None]:
        status = self.status(error)
        kind = ERRORS.get(status, "api_error" if status >= 500 else "invalid_request_error")
        said = super()._public(error) | {"type": kind}
        if error.code == "context_length_exceeded" and TOO_LONG not in (words := said["message"] or ""):
            said["message"] = f"{TOO_LONG}: {words}"
        return said


def _frames(step: Step) -> Iterator[str]:
    name, place, part = step
    if name == "began":
        yield _event("content_block_start", index=place, content_block=_block(part))
    elif name == "ended":
        yield _event("content_block_stop", index=place)
    elif isinstance(part, Text):
        yield _writer(place)(part.text)
    else:
        yield from (_event("content_block_delta", index=place, delta=delta) for delta in _deltas(part))


@lru_cache(64)
def _writer(place: int) -> Callable[[str], str]:
    """Return what writes a piece of text."""

    def write(text: str) -> str:
        return _event("content_block_delta", index=place, delta={"type": "text_delta", "text": text})

    return template(write)


def _deltas(piece: Part) -> Iterator[dict[str, str]]:
    match piece:
        case ToolCall(arguments=arguments):
            said = {"input_json_delta": ("partial_json", arguments)}
        case Reasoning(text, signature):
            said = {"thinking_delta": ("thinking", text), "signature_delta": ("signature", signature or "")}
        case Text(text) | Refusal(text):
            said = {"text_delta": ("text", text)}
    yield from ({"type": kind, name: value} for kind, (name, value) in said.items() if value)


def _block(part: Part) -> dict[str, Any]:
    if isinstance(part, Reasoning):
        return thought_block(part)
    if isinstance(part, ToolCall):
        said = {"type": "tool_use", "id": part.id, "name": part.name, "input": in_an_object(part.arguments)}
        return said | ({"extra_content": part.extra} if part.extra else {})  # clients send back what they don't know
    assert isinstance(part, Text | Refusal), "an answer has nothing else"
    return {"type": "text", "text": part.text}


def _message(head: Head) -> dict[str, Any]:
    return {"id": f"msg_{head.request_id}", "type": "message", "role": "assistant", "model": head.full_model}


NO_END = {"stop_reason": None, "stop_sequence": None}


def _end(reason: str, parts: Iterable[Part]) -> dict[str, Any]:
    is_refusal = any(isinstance(part, Refusal) for part in parts)
    return NO_END | {"stop_reason": "refusal" if is_refusal else STOPS[reason]}


def _usage(usage: Usage, asked: Asked) -> dict[str, Any]:
    """Return the counts. An input that nobody has counted is estimated: a client that reads 0 never shortens it."""
    cached, sent = usage.cached_tokens or 0, usage.input_tokens
    fresh = estimate(asked.request) if sent is None else max(sent - cached, 0)
    said = {"input_tokens": fresh, "output_tokens": usage.output_tokens or 0}
    return {"usage": said | {"cache_creation_input_tokens": 0, "cache_read_input_tokens": cached}}


def _event(kind: str, **said: Any) -> str:
    return event({"type": kind} | said, kind)
