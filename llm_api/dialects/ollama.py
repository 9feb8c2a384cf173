"""Ollama's API (its docs/api.md; docs/providers.md, 2): it streams unless told otherwise, and "" means not said.

Refused is what would change the meaning: a template, a raw prompt, a suffix, the context of an earlier answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

from marshmallow import ValidationError, fields, post_load, validate

from .. import strict_json
from ..errors import LLMAPIError
from ..strict_json import as_object, in_an_object
from ..types import (
    Answer,
    Chunk,
    EmbeddingRequest,
    Extras,
    GenerationRequest,
    Head,
    Image,
    Message,
    Part,
    Parts,
    Reasoning,
    Refusal,
    ResponseFormat,
    Step,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from .base import Asked, Conversational, Dialect, line, template
from .fields import (
    MAX_DIMENSIONS,
    MAX_IMAGES,
    MAX_MESSAGES,
    UNSAID,
    Format,
    NamedBody,
    Nullable,
    Picture,
    StrictBoolean,
    StrictFloat,
    StrictInteger,
    Strings,
    Texts,
    check_said,
    named_model,
)
from .tools import ONLY_FUNCTIONS, ToolSchema, tool_fields

OLLAMA = "ollama"
NO_LOGPROBS = "Log probabilities are not served."
# Its words for how much is thought, by ours.
EFFORTS = {False: "none", True: "medium", "low": "low", "medium": "medium", "high": "high", "max": "xhigh"}
NANOSECONDS = 1_000_000  # of a millisecond


def model_name(said: str) -> str:
    """Return a model's name without the tag that goes without saying."""
    return said.removesuffix(":latest")


class OllamaFormat(Format):
    """`json`, or a JSON schema."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> ResponseFormat | None:
        return super()._deserialize({"type": "json_object"} if value == "json" else value, attr, data, **kwargs)


class Think(fields.Field[str]):
    """true, false, or how much."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if not isinstance(value, bool | str) or value not in EFFORTS:
            raise ValidationError("Not true, false, low, medium, high or max.")
        return EFFORTS[value]


class Unsaid(Nullable):
    """What is empty means not said."""

    unsaid = UNSAID


class OllamaOptionsSchema(Unsaid):
    """Of the `options` those that others have too."""

    max_tokens = StrictInteger(data_key="num_predict", validate=validate.Range(-(2**31), 2**31 - 1))
    temperature = StrictFloat(validate=validate.Range(0, 2))
    top_p = StrictFloat(validate=validate.Range(0, 1))
    seed = StrictInteger(validate=validate.Range(-(2**63), 2**63 - 1))
    stop = Strings(fields.String(validate=validate.Length(1)))

    @post_load(pass_original=True)
    def split(self, data: dict[str, Any], original: Mapping[str, Any], **kwargs: Any) -> tuple[dict[str, Any], ...]:
        """Return those, and what only Ollama has. -1 tokens mean without end, -2 until the context is full."""
        known = {field.data_key or name for name, field in self.fields.items()}
        others = {name: value for name, value in original.items() if name not in known and value not in UNSAID}
        return {name: value for name, value in data.items() if name != "max_tokens" or value > 0}, others


class OllamaCalledSchema(Unsaid):
    """Which function was called; its arguments are an object."""

    name = fields.String(required=True, validate=validate.Length(1))
    arguments = fields.Dict(keys=fields.String(), load_default=dict)


class OllamaCallSchema(Unsaid):
    """A call in the history; many clients lose its id."""

    id = fields.String(load_default="")
    function = fields.Nested(OllamaCalledSchema, required=True)


class OllamaMessageSchema(Unsaid):
    """One message."""

    role = fields.String(required=True, validate=validate.OneOf(["system", "user", "assistant", "tool"]))
    content = fields.String(load_default="")
    thinking = fields.String()
    images = fields.List(Picture(), load_default=(), validate=validate.Length(max=MAX_IMAGES))
    tool_calls = fields.List(fields.Nested(OllamaCallSchema), load_default=())
    tool_name = fields.String()
    tool_call_id = fields.String()


class OllamaBody(Unsaid, NamedBody):
    """What its bodies have in common."""


class Generating(OllamaBody):
    """What is said of an answer in words."""

    stream = StrictBoolean(load_default=True)
    format = OllamaFormat()
    options = fields.Nested(OllamaOptionsSchema)
    think = Think()
    logprobs = StrictBoolean(validate=validate.OneOf([False], error=NO_LOGPROBS))
    top_logprobs = StrictInteger(validate=validate.OneOf([0], error=NO_LOGPROBS))

    def asked(self, messages: tuple[Message, ...], param: str, data: Mapping[str, Any], **more: Any) -> Asked:
        """Return the types for `messages` and the other valid fields. Raises ValidationError for `param`."""
        check_said(messages, param)
        options, others = data.get("options", ({}, {}))
        request = GenerationRequest(
            messages,
            model=named_model(model_name(data["model"])),
            stream=data["stream"],
            response_format=data.get("format"),
            reasoning_effort=data.get("think"),
            extras=Extras(OLLAMA, {"options": others}) if others else None,
            **options,
            **more,
        )
        return Asked(request, foreign=tuple(f"options.{name}" for name in others))


class OllamaToolSchema(ToolSchema):
    """A tool, whose type may go without saying."""

    type = fields.String(load_default="function", validate=validate.Equal("function", error=ONLY_FUNCTIONS))


class OllamaChatSchema(Generating):
    """The body of `POST /api/chat`."""

    # without any it asks for nothing: Speaking.idle
    messages = fields.List(fields.Nested(OllamaMessageSchema), validate=validate.Length(max=MAX_MESSAGES))
    tools = fields.List(fields.Nested(OllamaToolSchema))

    @post_load
    def make_asked(self, data: dict[str, Any], **kwargs: Any) -> Asked:
        """Return the types for a valid body."""
        return self.asked(tuple(_messages(data["messages"])), "messages", data, **tool_fields(data))


class OllamaGenerateSchema(Generating):
    """The body of `POST /api/generate`."""

    prompt = fields.String()
    system = fields.String()
    images = fields.List(Picture(), validate=validate.Length(max=MAX_IMAGES))
    suffix = fields.Raw(validate=validate.OneOf((), error="A suffix is not served."))
    template = fields.Raw(validate=validate.OneOf((), error="Templates are not served: the model has its own."))
    context = fields.Raw(validate=validate.OneOf((), error="A context is not kept here: send messages to /api/chat."))
    raw = StrictBoolean(validate=validate.OneOf([False], error="Raw prompts are not served."))

    @post_load
    def make_asked(self, data: dict[str, Any], **kwargs: Any) -> Asked:
        """Return the types for a valid body."""
        system = [Message.of("system", data["system"])] if "system" in data else []
        messages = (*system, Message("user", (*data.get("images", ()), Text(data["prompt"]))))
        return self.asked(messages, "prompt", data, is_prompt=True)


class OllamaEmbedSchema(OllamaBody):
    """The body of `POST /api/embed`."""

    input = Texts(required=True)
    dimensions = StrictInteger(validate=validate.Range(1, MAX_DIMENSIONS))

    @post_load
    def make_asked(self, data: dict[str, Any], **kwargs: Any) -> Asked:
        """Return the types for a valid body."""
        model = named_model(model_name(data["model"]))
        return Asked(EmbeddingRequest(data["input"], model, data.get("dimensions")))


class OllamaOldEmbedSchema(OllamaEmbedSchema):
    """The body of `POST /api/embeddings`, which has one text."""

    input = Texts(required=True, data_key="prompt")


def _messages(said: Iterable[Mapping[str, Any]]) -> Iterator[Message]:
    """Yield the conversation. A result is that of the call whose id it has, else of its tool's, else of the next."""
    number, unanswered = 0, list[ToolCall]()
    for one in said:
        parts: tuple[Text | Image, ...] = (*one["images"], Text(one["content"]))
        if one["role"] == "tool":
            yield Message("tool", (ToolResult(_answered(one, unanswered), parts),))
            continue
        calls = [_call(call, place) for place, call in enumerate(one["tool_calls"], number)]
        number, unanswered = number + len(calls), list(calls) or unanswered
        thought = [Reasoning(one["thinking"])] if one["role"] == "assistant" and "thinking" in one else []
        yield Message(one["role"], (*thought, *parts, *calls))


def _call(said: Mapping[str, Any], number: int) -> ToolCall:
    function = said["function"]
    return ToolCall(said["id"] or f"call_{number}", function["name"], strict_json.dumps(function["arguments"]))


def _answered(result: Mapping[str, Any], unanswered: list[ToolCall]) -> str:
    by_id = [call for call in unanswered if call.id == result.get("tool_call_id")]
    by_name = [call for call in unanswered if call.name == result.get("tool_name")]
    for call in (*by_id, *by_name, *unanswered):
        unanswered.remove(call)
        return call.id
    return result.get("tool_call_id") or result.get("tool_name") or "call"


class OllamaDialect(Dialect):
    """What its routes have in common: one line of an error, in place of an answer or at the end of one."""

    front = "ollama"
    media_type = "application/x-ndjson"
    wrong_field = 400
    below = "/api/"
    any_type = True

    def error(self, error: LLMAPIError, request_id: str) -> dict[str, Any]:
        return {"error": error.public()["message"]}

    def broken(self, error: LLMAPIError) -> str:
        return line(self.error(error, ""))


class Speaking(OllamaDialect, Conversational):
    """An answer in words, whole or in lines."""

    heartbeat, keep_alive = None, ""  # a line is a piece of the answer

    def said(self, text: str, **beside: Any) -> dict[str, Any]:
        """Return what a line holds of an answer; `beside` are `thinking` and `tool_calls`."""
        raise NotImplementedError

    def idle(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Without a conversation it is asked to load a model, or with `keep_alive` 0 to let it go: that is not ours."""
        name = body.get("model")
        if body.get(self.conversation) not in UNSAID or not isinstance(name, str) or not name:
            return None
        reason = "unload" if body.get("keep_alive") in (0, "0") else "load"
        return {"model": name, "created_at": _time()} | self.said("") | {"done": True, "done_reason": reason}

    def whole(self, answer: Answer, asked: Asked) -> dict[str, Any]:
        called = enumerate(answer.tool_calls)
        calls = [told for place, call in called for told in _call_out(call, place, answer.finish_reason)]
        beside = {"thinking": answer.reasoning, "tool_calls": calls}
        said = self.said(answer.text + answer.refusal, **{name: value for name, value in beside.items() if value})
        return _opening(answer.head) | said | _end(answer.finish_reason, answer.usage, answer.duration_ms)

    def frames(self, head: Head, chunks: Iterator[Chunk], asked: Asked) -> Iterator[str]:
        parts, began = Parts(), 0.0
        opened = {"model": head.full_model}
        write = template(lambda now, text: line(opened | {"created_at": now} | self.said(text) | {"done": False}), 2)
        for chunk in chunks:
            began = began or head.elapsed_ms()
            if chunk.is_text:
                yield write(_time(), chunk.text)
                continue
            opening = _opening(head)
            for step in parts.grow(chunk):
                for said in self._shown(step, parts.whole, chunk.finish_reason):
                    yield line(opening | said | {"done": False})
            if chunk.finish_reason:
                end = _end(chunk.finish_reason, chunk.usage, head.elapsed_ms(), began)
                yield line(opening | self.said("") | end)
            elif chunk.is_empty:
                yield ""

    def _shown(self, step: Step, whole: list[Part], finish_reason: str | None) -> Iterator[dict[str, Any]]:
        """Yield what lines show of a step: words and thoughts as they come, a call when it is whole."""
        name, _, part = step
        if isinstance(part, ToolCall):
            place = sum(isinstance(each, ToolCall) for each in whole) - 1
            calls = _call_out(part, place, finish_reason) if name == "ended" else ()
            yield from (self.said("", tool_calls=[call]) for call in calls)
        elif name == "grew" and isinstance(part, Text | Refusal):
            yield self.said(part.text)
        elif name == "grew" and isinstance(part, Reasoning) and part.text:
            yield self.said("", thinking=part.text)


class OllamaChat(Speaking):
    """Answer a conversation (Ollama's API).

    In lines of JSON, unless `stream` is false. `model` is a name that /api/tags lists, or the configured backend has.
    """

    rule = "/api/chat"
    name = "ollama_chat"
    operation = "chat"
    conversation = "messages"
    schema_of = OllamaChatSchema

    def said(self, text: str, **beside: Any) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text} | beside}


class OllamaGenerate(Speaking):
    """Answer a prompt (Ollama's API).

    In lines of JSON, unless `stream` is false. `model` is a name that /api/tags lists, or the configured backend has.
    """

    rule = "/api/generate"
    name = "ollama_generate"
    operation = "generate"
    schema_of = OllamaGenerateSchema

    def said(self, text: str, **beside: Any) -> dict[str, Any]:
        return {"response": text} | beside


class OllamaEmbed(OllamaDialect):
    """Turn texts into vectors (Ollama's API).

    The model that `model` names makes them, or the configured one for embeddings; another one never does.
    """

    rule = "/api/embed"
    name = "ollama_embed"
    operation = "embedding"
    conversation = "input"
    schema_of: ClassVar = OllamaEmbedSchema

    def whole(self, answer: Answer, asked: Asked) -> dict[str, Any]:
        said = {"model": answer.head.full_model, "embeddings": list(map(list, answer.vectors))}
        times = {"total_duration": int(answer.duration_ms * NANOSECONDS), "load_duration": 0}
        tokens = answer.usage.input_tokens
        return said | times | ({} if tokens is None else {"prompt_eval_count": tokens})


class OllamaEmbeddings(OllamaEmbed):
    """Turn a text into a vector (Ollama's older API).

    As /api/embed does for several.
    """

    rule = "/api/embeddings"
    name = "ollama_embeddings"
    conversation = "prompt"
    schema_of = OllamaOldEmbedSchema

    def whole(self, answer: Answer, asked: Asked) -> dict[str, Any]:
        return {"embedding": list(answer.vectors[0])}


def _call_out(call: ToolCall, place: int, finish_reason: str | None) -> Iterator[dict[str, Any]]:
    """Yield a call with an object for arguments; one that the token limit has cut has none, and is left out."""
    if finish_reason != "length" or as_object(call.arguments) is not None:
        function = {"index": place, "name": call.name, "arguments": in_an_object(call.arguments)}
        yield {"id": call.id, "function": function}


def _opening(head: Head) -> dict[str, Any]:
    return {"model": head.full_model, "created_at": _time()}


def _time() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _end(finish_reason: str, usage: Usage, total_ms: float, began_ms: float = 0.0) -> dict[str, Any]:
    """Return what ends an answer; the times before and after its first piece are the nearest to those of a model."""
    reason = "stop" if finish_reason == "tool_calls" else finish_reason
    times = {"total_duration": total_ms, "load_duration": 0, "prompt_eval_duration": began_ms}
    times["eval_duration"] = total_ms - began_ms
    counts = {"prompt_eval_count": usage.input_tokens, "eval_count": usage.output_tokens}
    counted = {name: count for name, count in counts.items() if count is not None}
    return {"done": True, "done_reason": reason} | {n: int(t * NANOSECONDS) for n, t in times.items()} | counted
