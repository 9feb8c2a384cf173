"""OpenAI's bodies to types. As OpenAI does: null means not said, and fields that are not known are ignored.

Refused is what would change the shape of the answer (tools, more choices, log probabilities, sound); what only tunes
the sampling and has no counterpart everywhere is ignored with the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from marshmallow import EXCLUDE, Schema, ValidationError, fields, post_load, pre_load, validate

from ..errors import OpenAIInvalid
from ..types import GenerationRequest, Message
from .fields import NAME, Body, StrictBoolean, StrictInteger

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_MESSAGES = 10_000
# The configured model: a body must name one. huggingface_hub's InferenceClient puts in `dummy` by itself.
UNNAMED = ("default", "dummy")


class Content(fields.Field[str]):
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
    content = Content(load_default="", allow_none=True)

    @post_load
    def make_message(self, data: dict[str, Any], **kwargs: Any) -> Message:
        """Return the type for a valid message."""
        return Message(ROLES[data["role"]], data["content"] or "")


class StreamOptions(Schema):
    """`stream_options`."""

    class Meta:
        unknown = EXCLUDE

    include_usage = StrictBoolean(allow_none=True)


class OpenAIWish(NamedTuple):
    """What a body of OpenAI's asks for."""

    request: GenerationRequest
    include_usage: bool


class OpenAIBody(Body):
    """What Chat Completions and Completions have in common; `max_prompt_chars` bounds all texts together."""

    failure = OpenAIInvalid

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

    def wish(self, messages: tuple[Message, ...], param: str, data: dict[str, Any]) -> OpenAIWish:
        """Return the types for `messages` and the other valid fields. Raises ValidationError for `param`."""
        chars = sum(len(message.content) for message in messages)
        if not 1 <= chars <= self._max_prompt_chars:
            raise ValidationError(f"Has {chars:,} characters, 1 to {self._max_prompt_chars:,} are allowed.", param)
        known = {name: data[name] for name in Body().fields if name in data}
        model = None if data["model"] in UNNAMED else data["model"]
        request = GenerationRequest(messages, model=model, **known)
        return OpenAIWish(request, (data.get("stream_options") or {}).get("include_usage") or False)


class ChatSchema(OpenAIBody):
    """The body of `POST /v1/chat/completions`."""

    messages = fields.List(fields.Nested(MessageSchema), required=True, validate=validate.Length(1, MAX_MESSAGES))
    max_completion_tokens = StrictInteger(validate=validate.Range(1, 2**31 - 1))
    tools = fields.List(fields.Raw(), validate=validate.Length(max=0, error="Tools are not served."))
    functions = fields.List(fields.Raw(), validate=validate.Length(max=0, error="Functions are not served."))
    logprobs = StrictBoolean(validate=validate.OneOf([False], error="Log probabilities are not served."))
    modalities = fields.List(fields.String(validate=validate.OneOf(["text"], error="Only text is served.")))

    @post_load
    def make_wish(self, data: dict[str, Any], **kwargs: Any) -> OpenAIWish:
        """Return the types for a valid body."""
        messages = tuple(data["messages"])
        if all(message.role == "system" for message in messages):
            raise ValidationError("Has no message of a user.", "messages")
        if "max_completion_tokens" in data:
            data["max_tokens"] = data["max_completion_tokens"]
        return self.wish(messages, "messages", data)


class CompletionSchema(OpenAIBody):
    """The body of `POST /v1/completions`."""

    prompt = Prompt(required=True, metadata=Prompt.DESCRIPTION)
    best_of = StrictInteger(validate=validate.OneOf([1], error="Only one choice is served."))
    echo = StrictBoolean(validate=validate.OneOf([False], error="Echo is not served."))
    suffix = fields.String(validate=validate.Length(max=0, error="A suffix is not served."))
    logprobs = StrictInteger(validate=validate.OneOf((), error="Log probabilities are not served."))

    @post_load
    def make_wish(self, data: dict[str, Any], **kwargs: Any) -> OpenAIWish:
        """Return the types for a valid body."""
        return self.wish((Message("user", data["prompt"]),), "prompt", data)
