"""OpenAI's Chat Completions and Completions: docs/providers.md, 8. null means not said; unknown fields are ignored.

Refused is what would change the shape of the answer (more choices, log probabilities, sound, custom tools). What only
tunes the answer, and not every backend has, reaches those that speak this dialect too, and is ignored by the others.
"""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeGuard

from marshmallow import ValidationError, fields, post_load, validate

from ..errors import LLMAPIError, ModelNotFound, QuotaExhausted
from ..types import (
    IDENTIFIERS,
    Answer,
    CallPiece,
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
    Text,
    ToolResult,
    Usage,
)
from .base import Asked, Conversational, estimate, event, template
from .fields import (
    MAX_DIMENSIONS,
    MAX_MESSAGES,
    NOT_SERVED,
    Body,
    NamedBody,
    Nullable,
    StrictBoolean,
    StrictFloat,
    StrictInteger,
    Strings,
    TextOr,
    Texts,
    VendorBody,
    check_said,
    image_part,
    named_model,
)
from .tools import CallSchema, Tooled, tool_fields

ROLES = {"system": "system", "developer": "system", **{role: role for role in ("user", "assistant", "tool")}}
FIELDS = (*Body().fields, "tools", "tool_choice")
# What is said to the model and the vendor in words that only this dialect has.
EXTRAS = (
    *("presence_penalty", "frequency_penalty", "logit_bias", "user", "safety_identifier", "prompt_cache_key"),
    "verbosity",
)
NO_FUNCTIONS = "Functions are not served: send them as tools."
NO_SOUND = NOT_SERVED["input_audio"]
ONE_TEXT = "Only one text is served, alone or in a list."


class ChatPart(fields.Field[Text | Image]):
    """A text, a picture, or an assistant's refusal."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Text | Image:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind == "image_url":
            return image_part(value)
        if kind not in ("text", "refusal") or not isinstance(value.get(kind), str):
            only = 'Only parts such as {"type": "text", "text": "…"} are served.'
            raise ValidationError(NOT_SERVED.get(str(kind), only))
        return Text(value[kind])


class ThoughtSchema(Nullable):
    """A block of Claude's thoughts as an answer has it, which comes back unchanged."""

    type = fields.String(required=True, validate=validate.OneOf(["thinking", "redacted_thinking"]))
    thinking = fields.String(load_default="")
    signature = fields.String(load_default=None)
    data = fields.String(load_default=None)

    @post_load
    def make_thought(self, data: dict[str, Any], **kwargs: Any) -> Reasoning:
        """Return the type for a valid block."""
        return Reasoning(data["thinking"], data["signature"], data["data"], "claude")


class MessageSchema(Nullable):
    """One message; `content` may be null."""

    role = fields.String(
        required=True,
        validate=validate.OneOf(ROLES, error="Only system, developer, user, assistant and tool are served."),
    )
    content = TextOr(ChatPart())
    refusal = fields.String()
    audio = fields.Raw(validate=validate.OneOf((), error=NO_SOUND))
    function_call = fields.Raw(validate=validate.OneOf((), error=NO_FUNCTIONS))
    name = fields.String()
    tool_call_id = fields.String()
    tool_calls = fields.List(fields.Nested(CallSchema))
    reasoning_content = fields.String()
    thinking_blocks = fields.List(fields.Nested(ThoughtSchema))

    @post_load
    def make_message(self, data: dict[str, Any], **kwargs: Any) -> Message:
        """Return the type for a valid message."""
        role = ROLES[data["role"]]
        parts, refusal = data.get("content", ()), data.get("refusal", "")
        if refusal or not parts:
            parts = (*parts, Text(f"\n{refusal}" if Message(role, parts).content else refusal))
        if role == "tool":
            return Message(role, (_result(data, parts),))
        if role == "assistant":
            parts = (*_thoughts(data), *parts, *data.get("tool_calls", ()))
        return Message(role, parts, data.get("name"))


def _result(data: Mapping[str, Any], parts: tuple[Text | Image, ...]) -> ToolResult:
    if not data.get("tool_call_id"):
        raise ValidationError("A tool's message needs the id of the call that it answers.", "tool_call_id")
    return ToolResult(data["tool_call_id"], parts)


def _thoughts(data: Mapping[str, Any]) -> list[Reasoning]:
    """Return the blocks, which say who made them, else the thoughts as a text."""
    text = data.get("reasoning_content")
    return data.get("thinking_blocks") or ([Reasoning(text)] if text else [])


StreamOptions = Nullable.from_dict({"include_usage": StrictBoolean()}, name="StreamOptions")


class OpenAIBody(VendorBody):
    """What the bodies of OpenAI's routes have in common."""

    top_p = StrictFloat(validate=validate.Range(0, 1))
    presence_penalty = StrictFloat()
    frequency_penalty = StrictFloat()
    logit_bias = fields.Dict(keys=fields.String(), values=StrictFloat())
    user = fields.String()
    safety_identifier = fields.String()
    prompt_cache_key = fields.String()
    stream_options = fields.Nested(StreamOptions)
    n = StrictInteger(validate=validate.OneOf([1], error="Only one choice is served."))

    def asked(self, messages: tuple[Message, ...], param: str, data: dict[str, Any], is_prompt: bool = False) -> Asked:
        """Return the types for `messages` and the other valid fields. Raises ValidationError for `param`."""
        check_said(messages, param)
        known = {name: data[name] for name in FIELDS if name in data}
        said = {name: data[name] for name in EXTRAS if name in data}
        extras = Extras("openai", said) if said else None
        model = named_model(data["model"])
        request = GenerationRequest(messages, model=model, extras=extras, is_prompt=is_prompt, **known)
        foreign = tuple(name for name in said if name not in IDENTIFIERS)
        return Asked(request, data.get("stream_options", {}).get("include_usage", False), foreign=foreign)


class ChatSchema(OpenAIBody, Tooled):
    """The body of `POST /v1/chat/completions`."""

    messages = fields.List(fields.Nested(MessageSchema), required=True, validate=validate.Length(1, MAX_MESSAGES))
    max_completion_tokens = StrictInteger(validate=validate.Range(1, 2**31 - 1))
    verbosity = fields.String()
    functions = fields.List(fields.Raw(), validate=validate.Length(max=0, error=NO_FUNCTIONS))
    function_call = fields.Raw(validate=validate.OneOf(["none", "auto"], error=NO_FUNCTIONS))
    logprobs = StrictBoolean(validate=validate.OneOf([False], error="Log probabilities are not served."))
    modalities = fields.List(fields.String(validate=validate.OneOf(["text"], error="Only text is served.")))

    @post_load
    def make_asked(self, data: dict[str, Any], **kwargs: Any) -> Asked:
        """Return the types for a valid body."""
        if "max_completion_tokens" in data:
            data["max_tokens"] = data["max_completion_tokens"]
        return self.asked(tuple(data["messages"]), "messages", data | tool_fields(data))


class CompletionSchema(OpenAIBody):
    """The body of `POST /v1/completions`."""

    # LangChain sends it in a list of one
    prompt = Strings(fields.String(), required=True, validate=validate.Length(1, 1, error=ONE_TEXT))
    best_of = StrictInteger(validate=validate.OneOf([1], error="Only one choice is served."))
    echo = StrictBoolean(validate=validate.OneOf([False], error="Echo is not served."))
    suffix = fields.String(validate=validate.Length(max=0, error="A suffix is not served."))
    logprobs = StrictInteger(validate=validate.OneOf((), error="Log probabilities are not served."))

    @post_load
    def make_asked(self, data: dict[str, Any], **kwargs: Any) -> Asked:
        """Return the types for a valid body."""
        return self.asked((Message.of("user", *data["prompt"]),), "prompt", data, is_prompt=True)


class EmbeddingsSchema(NamedBody):
    """The body of `POST /v1/embeddings`."""

    input = Texts(required=True)
    dimensions = StrictInteger(validate=validate.Range(1, MAX_DIMENSIONS))
    encoding_format = fields.String(validate=validate.OneOf(["float", "base64"]))

    @post_load
    def make_asked(self, data: dict[str, Any], **kwargs: Any) -> Asked:
        """Return the types for a valid body; what is shown on demand is base64."""
        request = EmbeddingRequest(data["input"], named_model(data["model"]), data.get("dimensions"))
        return Asked(request, data.get("encoding_format") == "base64")


class OpenAIDialect(Conversational):
    """What OpenAI's routes have in common: how errors are framed."""

    front = "openai"

    def status(self, error: LLMAPIError) -> int:
        return 429 if isinstance(error, QuotaExhausted) else super().status(error)

    def broken(self, error: LLMAPIError) -> str:
        return event({"error": self._public(error)})

    def _public(self, error: LLMAPIError) -> dict[str, str | None]:
        said = super()._public(error)
        if isinstance(error, QuotaExhausted):
            return said | {"type": "insufficient_quota", "code": "insufficient_quota"}
        return said | {"type": "invalid_request_error"} if isinstance(error, ModelNotFound) else said


class Choices(OpenAIDialect):
    """What both routes of choices frame alike; `piece_object` names an event, `id_prefix` begins an id."""

    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    piece_object: ClassVar[str]
    first: ClassVar[tuple[dict[str, Any], ...]] = ()

    def content(self, answer: Answer) -> dict[str, Any]:
        """Return what a choice holds of a whole answer."""
        raise NotImplementedError

    def delta(self, chunk: Chunk, thoughts: Parts) -> dict[str, Any]:
        """Return what a choice holds of a piece; of an empty one, what ends a stream. `thoughts` are those before."""
        raise NotImplementedError

    def whole(self, answer: Answer, asked: Asked) -> dict[str, Any]:
        choice = _choice(self.content(answer), answer.finish_reason)
        return self._object(answer.head, self.whole_object, [choice]) | _usage(answer.usage)

    def frames(self, head: Head, chunks: Iterator[Chunk], asked: Asked) -> Iterator[str]:
        empty = self._object(head, self.piece_object, [])
        no_usage = {"usage": None} if asked.shows else {}

        def frame(choice: dict[str, Any], finish_reason: str | None = None) -> str:
            return event(empty | {"choices": [_choice(choice, finish_reason)]} | no_usage)

        thoughts = Parts()
        write = template(lambda text: frame(self.delta(Chunk(text), thoughts)))
        yield from map(frame, self.first)
        for chunk in chunks:
            if chunk.is_text:
                yield write(chunk.text)
                continue
            if not chunk.is_empty:
                yield frame(self.delta(chunk, thoughts))
            if chunk.finish_reason:
                yield frame(self.delta(Chunk(), thoughts), chunk.finish_reason)
                if asked.shows and (counted := _usage(chunk.usage)):
                    yield event(empty | counted)
                yield "data: [DONE]\n\n"
            elif chunk.is_empty:
                yield ""

    def _object(self, head: Head, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id_prefix + head.request_id,
            "object": kind,
            "created": int(head.created),
            "model": head.full_model,
            "choices": choices,
        }


class ChatCompletions(Choices):
    """Answer a conversation (OpenAI's Chat Completions).

    `model` is a name of the configured backend, or `backend/model` as /v1/models lists it. With `stream`, server-sent
    events.
    """

    rule = "/v1/chat/completions"
    name = "chat_completions"
    operation = "chat"
    conversation = "messages"
    id_prefix = "chatcmpl-"
    whole_object = "chat.completion"
    piece_object = "chat.completion.chunk"
    first = ({"delta": {"role": "assistant", "content": ""}},)
    schema_of = ChatSchema

    def content(self, answer: Answer) -> dict[str, Any]:
        return {"message": message_of(answer)}

    def delta(self, chunk: Chunk, thoughts: Parts) -> dict[str, Any]:
        said: dict[str, Any] = {"content": chunk.text, "refusal": chunk.refusal}
        said = {name: words for name, words in said.items() if words}
        if chunk.reasoning:
            said |= _thought("".join(piece.text for piece in chunk.reasoning), _ended(chunk.reasoning, thoughts))
        if chunk.calls:
            said["tool_calls"] = [_call_delta(piece) for piece in chunk.calls]
        return {"delta": said}


def message_of(answer: Answer) -> dict[str, Any]:
    """Return an answer as the assistant's message that it is."""
    content = None if (answer.refusal or answer.tool_calls) and not answer.text else answer.text
    said: dict[str, Any] = {"role": "assistant", "content": content, "refusal": answer.refusal or None}
    if len(answer.parts) != 1 or not answer.text:
        said |= _thought(answer.reasoning, [thought_block(part) for part in answer.parts if _is_ended(part)])
        said |= {"tool_calls": [call.as_function for call in answer.tool_calls]} if answer.tool_calls else {}
    return said


def _thought(text: str, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the thoughts, and what its provider wants back unchanged: clients send back what they don't know."""
    said = {"reasoning_content": text, "thinking_blocks": blocks}
    return {name: value for name, value in said.items() if value}


def _ended(pieces: tuple[Reasoning, ...], thoughts: Parts) -> list[dict[str, Any]]:
    """Return the blocks that end with these pieces, each whole: a signature is one of all its text.

    OpenAI's client joins the pieces of a list by `index`, and fails where that is missing.
    """
    steps = [step for step in thoughts.grow(Chunk(reasoning=pieces)) if step.name == "ended"]
    return [{"index": step.place, **thought_block(step.part)} for step in steps if _is_ended(step.part)]


def _is_ended(part: Part) -> TypeGuard[Reasoning]:
    return isinstance(part, Reasoning) and bool(part.signature or part.data)


def thought_block(thought: Reasoning) -> dict[str, Any]:
    """Return a thought as Anthropic's block."""
    if thought.data:
        return {"type": "redacted_thinking", "data": thought.data}
    return {"type": "thinking", "thinking": thought.text, "signature": thought.signature or ""}


def _call_delta(piece: CallPiece) -> dict[str, Any]:
    if not piece.name:
        said = {"index": piece.index, "function": {"arguments": piece.arguments}}
        return said | ({"extra_content": piece.extra} if piece.extra else {})
    return {"index": piece.index} | piece.as_call.as_function


class Completions(Choices):
    """Answer a prompt (OpenAI's Completions). The prompt is a user's message to the model, not a text to go on with."""

    rule = "/v1/completions"
    name = "completions"
    operation = "completion"
    id_prefix = "cmpl-"
    whole_object = "text_completion"
    piece_object = "text_completion"

    schema_of = CompletionSchema

    def content(self, answer: Answer) -> dict[str, Any]:
        return {"text": answer.text + answer.refusal}

    def delta(self, chunk: Chunk, thoughts: Parts) -> dict[str, Any]:
        return {"text": chunk.text + chunk.refusal}


class Embeddings(OpenAIDialect):
    """Turn texts into vectors (OpenAI's Embeddings).

    The model that `model` names makes them, or the configured one for embeddings; another one never does.
    """

    rule = "/v1/embeddings"
    name = "embeddings"
    operation = "embedding"
    conversation = "input"

    schema_of = EmbeddingsSchema

    def whole(self, answer: Answer, asked: Asked) -> dict[str, Any]:
        write = _base64 if asked.shows else list
        data = [
            {"object": "embedding", "index": place, "embedding": write(vector)}
            for place, vector in enumerate(answer.vectors)
        ]
        sent = answer.usage.input_tokens
        tokens = estimate(asked.request) if sent is None else sent  # clients want a number
        counted = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": answer.head.full_model, "usage": counted}


def _base64(vector: Sequence[float]) -> str:
    """Return the numbers as OpenAI does: of 32 bits, little-endian."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()


def _choice(content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0} | content | {"logprobs": None, "finish_reason": finish_reason}


def _usage(usage: Usage) -> dict[str, dict[str, Any]]:
    """The three numbers as `usage`; nothing where the backend did not say both: clients stumble over a null."""
    sent, made = usage.input_tokens, usage.output_tokens
    if sent is None or made is None:
        return {}
    said: dict[str, Any] = {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made}
    if usage.cached_tokens is not None:
        said["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens is not None:
        said["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return {"usage": said}
