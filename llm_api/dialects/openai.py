"""OpenAI's Chat Completions and Completions: docs/providers.md, 8. null means not said; unknown fields are ignored.

Refused is what would change the shape of the answer (tools, more choices, log probabilities, sound). What only tunes
the sampling, and not every backend has, is ignored with the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from marshmallow import EXCLUDE, Schema, ValidationError, fields, post_load, pre_load, validate

from .. import strict_json
from ..errors import LLMAPIError
from ..types import Answer, Chunk, GenerationRequest, Head, Message, Usage
from .base import Asked, Dialect
from .fields import NAME, Body, StrictBoolean, StrictInteger

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_MESSAGES = 10_000
# The configured model: a body must name one. huggingface_hub's InferenceClient puts in `dummy` by itself.
UNNAMED = ("default", "dummy")
COMMON = frozenset(Body().fields)
# A proxy in front gives up on a connection that is silent for a minute (nginx, proxy_read_timeout).
HEARTBEAT_SECONDS = 10.0


class Contents(fields.Field[str]):
    """A string, or a list of text parts."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise ValidationError("Not a text or a list of text parts.")
        return "".join(map(_text, value))


def _text(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise ValidationError('Only parts {"type": "text", "text": "…"} are served.')
    text: str = part["text"]
    return text


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

    @post_load
    def make_message(self, data: dict[str, Any], **kwargs: Any) -> Message:
        """Return the type for a valid message."""
        return Message.of(ROLES[data["role"]], data["content"] or "")


class StreamOptions(Schema):
    """`stream_options`."""

    class Meta:
        unknown = EXCLUDE

    include_usage = StrictBoolean(allow_none=True)


class OpenAIBody(Body):
    """What Chat Completions and Completions have in common; `max_prompt_chars` bounds all texts together."""

    class Meta:
        unknown = EXCLUDE

    model = fields.String(required=True, validate=NAME)
    stream_options = fields.Nested(StreamOptions)
    n = StrictInteger(validate=validate.OneOf([1], error="Only one choice is served."))

    def __init__(self, max_prompt_chars: int) -> None:
        super().__init__()
        self._max_prompt_chars = max_prompt_chars
        for field in self.fields.values():
            field.allow_none = not field.required

    @pre_load
    def leave_out_nulls(self, data: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Null means not said."""
        return {name: value for name, value in data.items() if value is not None}

    def asked(self, messages: tuple[Message, ...], param: str, data: dict[str, Any]) -> Asked:
        """Return the types for `messages` and the other valid fields. Raises ValidationError for `param`."""
        chars = sum(len(message.content) for message in messages)
        if not 1 <= chars <= self._max_prompt_chars:
            raise ValidationError(f"Has {chars:,} characters, 1 to {self._max_prompt_chars:,} are allowed.", param)
        known = {name: data[name] for name in COMMON if name in data}
        model = None if data["model"] in UNNAMED else data["model"]
        request = GenerationRequest(messages, model=model, is_prompt=param == "prompt", **known)
        return Asked(request, (data.get("stream_options") or {}).get("include_usage") or False)


class ChatSchema(OpenAIBody):
    """The body of `POST /v1/chat/completions`."""

    messages = fields.List(fields.Nested(MessageSchema), required=True, validate=validate.Length(1, MAX_MESSAGES))
    max_completion_tokens = StrictInteger(validate=validate.Range(1, 2**31 - 1))
    tools = fields.List(fields.Raw(), validate=validate.Length(max=0, error="Tools are not served."))
    functions = fields.List(fields.Raw(), validate=validate.Length(max=0, error="Functions are not served."))
    logprobs = StrictBoolean(validate=validate.OneOf([False], error="Log probabilities are not served."))
    modalities = fields.List(fields.String(validate=validate.OneOf(["text"], error="Only text is served.")))

    @post_load
    def make_asked(self, data: dict[str, Any], **kwargs: Any) -> Asked:
        """Return the types for a valid body."""
        messages = tuple(data["messages"])
        if all(message.role == "system" for message in messages):
            raise ValidationError("Has no message of a user.", "messages")
        if "max_completion_tokens" in data:
            data["max_tokens"] = data["max_completion_tokens"]
        return self.asked(messages, "messages", data)


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

    def content(self, text: str) -> dict[str, Any]:
        """Return what a choice holds of a whole answer."""
        raise NotImplementedError

    def delta(self, text: str) -> dict[str, Any]:
        """Return what a choice holds of a piece; of "", what ends a stream."""
        raise NotImplementedError

    def whole(self, answer: Answer, asked: Asked) -> dict[str, Any]:
        choice = _choice(self.content(answer.text), answer.finish_reason)
        return self._object(answer.head, self.whole_object, [choice]) | {"usage": _usage(answer.usage)}

    def pieces(self, head: Head, chunks: Iterator[Chunk], asked: Asked) -> Iterator[str]:
        empty = self._object(head, self.piece_object, [])
        no_usage = {"usage": None} if asked.shows else {}

        def event(choice: dict[str, Any], finish_reason: str | None = None) -> str:
            return _event(empty | {"choices": [_choice(choice, finish_reason)]} | no_usage)

        try:
            yield from map(event, self.first)
            for chunk in chunks:
                if chunk.text:
                    yield event(self.delta(chunk.text))
                if chunk.finish_reason:
                    yield event(self.delta(""), chunk.finish_reason)
                    if asked.shows:
                        yield _event(empty | {"usage": _usage(chunk.usage)})
                    yield "data: [DONE]\n\n"
                elif not chunk.text:
                    yield ": keep-alive\n\n"
        except LLMAPIError as error:
            yield self.broken(error)

    def broken(self, error: LLMAPIError) -> str:
        return _event({"error": self._public(error)})

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
        self.schema = ChatSchema(max_prompt_chars)

    def content(self, text: str) -> dict[str, Any]:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def delta(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text} if text else {}}


class Completions(OpenAIDialect):
    """Answer a prompt (OpenAI's Completions). The prompt is a user's message to the model, not a text to go on with."""

    rule = "/v1/completions"
    name = "completions"
    operation = "completion"
    id_prefix = "cmpl-"
    whole_object = "text_completion"
    piece_object = "text_completion"

    def __init__(self, max_prompt_chars: int) -> None:
        self.schema = CompletionSchema(max_prompt_chars)

    def content(self, text: str) -> dict[str, Any]:
        return {"text": text}

    def delta(self, text: str) -> dict[str, Any]:
        return {"text": text}


def _choice(content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0} | content | {"logprobs": None, "finish_reason": finish_reason}


def _usage(usage: Usage) -> dict[str, int] | None:
    """The three numbers, or null where the backend did not say both."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    total = usage.input_tokens + usage.output_tokens
    return {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens, "total_tokens": total}


def _event(value: object) -> str:
    return f"data: {strict_json.dumps(value)}\n\n"
