"""OpenAI's Chat Completions and Completions: docs/providers.md, 8. null means not said; unknown fields are ignored.

Refused is what would change the shape of the answer (tools, more choices, log probabilities, sound). What only tunes
the answer, and not every backend has, reaches those that speak this dialect too, and is ignored by the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from marshmallow import EXCLUDE, Schema, ValidationError, fields, post_load, pre_load, validate

from .. import strict_json
from ..errors import LLMAPIError, ModelNotFound, QuotaExhausted, ValidationFailed
from ..types import Answer, Chunk, Extras, GenerationRequest, Head, Message, ResponseFormat, Text, Usage
from .base import Asked, Dialect
from .fields import NAME, Body, Format, StrictBoolean, StrictFloat, StrictInteger

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_MESSAGES = 10_000
# The configured model: a body must name one. huggingface_hub's InferenceClient puts in `dummy` by itself.
UNNAMED = ("default", "dummy")
COMMON = frozenset(Body().fields)
# What is said to the model and the vendor in words that only this dialect has.
EXTRAS = (
    *("presence_penalty", "frequency_penalty", "logit_bias", "user", "safety_identifier", "prompt_cache_key"),
    *("reasoning_effort", "verbosity"),
)
# A proxy in front gives up on a connection that is silent for a minute (nginx, proxy_read_timeout).
HEARTBEAT_SECONDS = 10.0


class Contents(fields.Field[str]):
    """A string, or a list of parts: texts, and an assistant's refusals."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise ValidationError("Not a text or a list of text parts.")
        return "".join(map(_text, value))


def _text(part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in ("text", "refusal") or not isinstance(part.get(kind), str):
        raise ValidationError('Only parts {"type": "text", "text": "…"} are served.')
    text: str = part[kind]
    return text


class CutFormat(Format):
    """A client of this dialect learns from `finish_reason` that its JSON is cut."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> ResponseFormat | None:
        wanted = super()._deserialize(value, attr, data, **kwargs)
        return wanted and replace(wanted, may_be_cut=True)


class NoToolChoice(fields.Field[str]):
    """What asks for no tool: there are none to call."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if value not in ("none", "auto"):
            raise ValidationError("There are no tools to choose from.")
        return str(value)


class Prompt(fields.String):
    """A text; as LangChain sends it, also in a list of one."""

    DESCRIPTION: ClassVar = {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1}]
    }

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = value[0] if isinstance(value, list) and len(value) == 1 else value
        if not isinstance(text, str):
            raise ValidationError("Only one text is served, alone or in a list.")
        return text


class MessageSchema(Schema):
    """One message; `content` may be null."""

    class Meta:
        unknown = EXCLUDE

    role = fields.String(
        required=True, validate=validate.OneOf(ROLES, error="Only system, developer, user and assistant are served.")
    )
    content = Contents(load_default="", allow_none=True)
    refusal = fields.String(load_default="", allow_none=True)
    name = fields.String(allow_none=True)

    @post_load
    def make_message(self, data: dict[str, Any], **kwargs: Any) -> Message:
        """Return the type for a valid message."""
        words = data["content"] or data["refusal"] or ""
        return Message(ROLES[data["role"]], (Text(words),), data.get("name"))


class StreamOptions(Schema):
    """`stream_options`."""

    class Meta:
        unknown = EXCLUDE

    include_usage = StrictBoolean(allow_none=True)


class OpenAIBody(Body):
    """What Chat Completions and Completions have in common."""

    class Meta:
        unknown = EXCLUDE

    model = fields.String(required=True, validate=NAME)
    top_p = StrictFloat(validate=validate.Range(0, 1))
    response_format = CutFormat()
    presence_penalty = StrictFloat()
    frequency_penalty = StrictFloat()
    logit_bias = fields.Dict(keys=fields.String(), values=StrictFloat())
    user = fields.String()
    safety_identifier = fields.String()
    prompt_cache_key = fields.String()
    stream_options = fields.Nested(StreamOptions)
    n = StrictInteger(validate=validate.OneOf([1], error="Only one choice is served."))

    def __init__(self) -> None:
        super().__init__()
        for field in self.fields.values():
            field.allow_none = not field.required

    @pre_load
    def leave_out_nulls(self, data: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Null means not said."""
        return {name: value for name, value in data.items() if value is not None}

    def asked(self, messages: tuple[Message, ...], param: str, data: dict[str, Any]) -> Asked:
        """Return the types for `messages` and the other valid fields. Raises ValidationError for `param`."""
        if not any(message.content for message in messages):
            raise ValidationError("Has no text.", param)
        known = {name: data[name] for name in COMMON if name in data}
        model = None if data["model"] in UNNAMED else data["model"]
        said = {name: data[name] for name in EXTRAS if name in data}
        extras = Extras("openai", said) if said else None
        request = GenerationRequest(messages, model=model, extras=extras, is_prompt=param == "prompt", **known)
        return Asked(request, (data.get("stream_options") or {}).get("include_usage") or False)


class ChatSchema(OpenAIBody):
    """The body of `POST /v1/chat/completions`."""

    messages = fields.List(fields.Nested(MessageSchema), required=True, validate=validate.Length(1, MAX_MESSAGES))
    max_completion_tokens = StrictInteger(validate=validate.Range(1, 2**31 - 1))
    reasoning_effort = fields.String()
    verbosity = fields.String()
    tools = fields.List(fields.Raw(), validate=validate.Length(max=0, error="Tools are not served."))
    tool_choice = NoToolChoice()
    functions = fields.List(fields.Raw(), validate=validate.Length(max=0, error="Functions are not served."))
    function_call = NoToolChoice()
    logprobs = StrictBoolean(validate=validate.OneOf([False], error="Log probabilities are not served."))
    modalities = fields.List(fields.String(validate=validate.OneOf(["text"], error="Only text is served.")))

    @post_load
    def make_asked(self, data: dict[str, Any], **kwargs: Any) -> Asked:
        """Return the types for a valid body."""
        if "max_completion_tokens" in data:
            data["max_tokens"] = data["max_completion_tokens"]
        return self.asked(tuple(data["messages"]), "messages", data)


class CompletionSchema(OpenAIBody):
    """The body of `POST /v1/completions`."""

    prompt = Prompt(required=True, metadata=Prompt.DESCRIPTION)
    best_of = StrictInteger(validate=validate.OneOf([1], error="Only one choice is served."))
    echo = StrictBoolean(validate=validate.OneOf([False], error="Echo is not served."))
    suffix = fields.String(validate=validate.Length(max=0, error="A suffix is not served."))
    logprobs = StrictInteger(validate=validate.OneOf((), error="Log probabilities are not served."))

    @post_load
    def make_asked(self, data: dict[str, Any], **kwargs: Any) -> Asked:
        """Return the types for a valid body."""
        return self.asked((Message.of("user", data["prompt"]),), "prompt", data)


class OpenAIDialect(Dialect):
    """What both routes frame alike; `piece_object` names an event, `id_prefix` begins an id."""

    media_type = "text/event-stream"
    wrong_field = 400
    heartbeat = HEARTBEAT_SECONDS
    id_prefix: ClassVar[str]
    whole_object: ClassVar[str]
    piece_object: ClassVar[str]
    first: ClassVar[tuple[dict[str, Any], ...]] = ()

    def __init__(self, max_prompt_chars: int) -> None:
        self._max_prompt_chars = max_prompt_chars

    def content(self, answer: Answer) -> dict[str, Any]:
        """Return what a choice holds of a whole answer."""
        raise NotImplementedError

    def delta(self, chunk: Chunk) -> dict[str, Any]:
        """Return what a choice holds of a piece; of an empty one, what ends a stream."""
        raise NotImplementedError

    def read(self, body: Mapping[str, Any]) -> Asked:
        """As Dialect's; the texts of a conversation are bounded together. Agents shorten it where the code says so."""
        asked = super().read(body)
        chars = sum(len(message.content) for message in asked.request.messages)
        if chars > self._max_prompt_chars:
            words = f"Has {chars:,} characters, 1 to {self._max_prompt_chars:,} are allowed (MAX_PROMPT_CHARS)."
            raise ValidationFailed(
                f"{self.conversation}: {words}",
                code="context_length_exceeded",
                param=self.conversation,
                fields={self.conversation: [words]},
                status=self.wrong_field,
            )
        return asked

    def status(self, error: LLMAPIError) -> int:
        return 429 if isinstance(error, QuotaExhausted) else super().status(error)

    def whole(self, answer: Answer, asked: Asked) -> dict[str, Any]:
        choice = _choice(self.content(answer), answer.finish_reason)
        return self._object(answer.head, self.whole_object, [choice]) | _usage(answer.usage)

    def pieces(self, head: Head, chunks: Iterator[Chunk], asked: Asked) -> Iterator[str]:
        empty = self._object(head, self.piece_object, [])
        no_usage = {"usage": None} if asked.shows else {}

        def event(choice: dict[str, Any], finish_reason: str | None = None) -> str:
            return _event(empty | {"choices": [_choice(choice, finish_reason)]} | no_usage)

        try:
            yield from map(event, self.first)
            for chunk in chunks:
                if chunk.text or chunk.refusal:
                    yield event(self.delta(chunk))
                if chunk.finish_reason:
                    yield event(self.delta(Chunk()), chunk.finish_reason)
                    if asked.shows and (counted := _usage(chunk.usage)):
                        yield _event(empty | counted)
                    yield "data: [DONE]\n\n"
                elif not chunk.text and not chunk.refusal:
                    yield ": keep-alive\n\n"
        except LLMAPIError as error:
            yield self.broken(error)
            raise

    def broken(self, error: LLMAPIError) -> str:
        return _event({"error": self._public(error)})

    def _public(self, error: LLMAPIError) -> dict[str, str | None]:
        said = super()._public(error)
        if isinstance(error, QuotaExhausted):
            return said | {"type": "insufficient_quota", "code": "insufficient_quota"}
        return said | {"type": "invalid_request_error"} if isinstance(error, ModelNotFound) else said

    def _object(self, head: Head, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id_prefix + head.request_id,
            "object": kind,
            "created": int(head.created),
            "model": f"{head.backend}/{head.model}",
            "choices": choices,
        }


class ChatCompletions(OpenAIDialect):
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

    def __init__(self, max_prompt_chars: int) -> None:
        super().__init__(max_prompt_chars)
        self.schema = ChatSchema()

    def content(self, answer: Answer) -> dict[str, Any]:
        content = None if answer.refusal and not answer.text else answer.text
        return {"message": {"role": "assistant", "content": content, "refusal": answer.refusal or None}}

    def delta(self, chunk: Chunk) -> dict[str, Any]:
        said = {"content": chunk.text, "refusal": chunk.refusal}
        return {"delta": {name: words for name, words in said.items() if words}}


class Completions(OpenAIDialect):
    """Answer a prompt (OpenAI's Completions). The prompt is a user's message to the model, not a text to go on with."""

    rule = "/v1/completions"
    name = "completions"
    operation = "completion"
    id_prefix = "cmpl-"
    whole_object = "text_completion"
    piece_object = "text_completion"

    def __init__(self, max_prompt_chars: int) -> None:
        super().__init__(max_prompt_chars)
        self.schema = CompletionSchema()

    def content(self, answer: Answer) -> dict[str, Any]:
        return {"text": answer.text + answer.refusal}

    def delta(self, chunk: Chunk) -> dict[str, Any]:
        return {"text": chunk.text + chunk.refusal}


def _choice(content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0} | content | {"logprobs": None, "finish_reason": finish_reason}


def _usage(usage: Usage) -> dict[str, dict[str, int]]:
    """The three numbers as `usage`; nothing where the backend did not say both: clients stumble over a null."""
    sent, made = usage.input_tokens, usage.output_tokens
    if sent is None or made is None:
        return {}
    return {"usage": {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made}}


def _event(value: object) -> str:
    return f"data: {strict_json.dumps(value)}\n\n"
