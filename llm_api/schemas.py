"""Bodies to types. Strict: a value of another type is refused, never guessed at; unknown fields are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

from .errors import ValidationFailed
from .types import GenerationRequest, Message, ResponseFormat

# A field that is not known may have any name.
MAX_NAME_CHARS = 100
MAX_SHOWN = 20


class StrictInteger(fields.Field[int]):
    """A JSON integer: 40 and 40.0 (JSON Schema counts both), not "40", 40.5 or true."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise ValidationError("Not a whole number.")
        return int(value)


class StrictFloat(fields.Field[float]):
    """A JSON number, not "0.5" or true."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValidationError("Not a number.")
        return value


class StrictBoolean(fields.Field[bool]):
    """true or false, not 1 or "true"."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("Not true or false.")
        return value


class Stop(fields.Field[tuple[str, ...]]):
    """A string, or a list of up to four."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or len(texts) > 4 or not all(isinstance(t, str) and t for t in texts):
            raise ValidationError("Not a text or a list of up to 4 texts, none of them empty.")
        return tuple(texts)


class Format(fields.Field[ResponseFormat]):
    """{"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": {…}}}, or a JSON schema itself."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> ResponseFormat:
        if not isinstance(value, dict) or not value:
            raise ValidationError('Not {"type": "json_object"} or a JSON schema.')
        if value.get("type") == "json_object":
            return ResponseFormat()
        if value.get("type") != "json_schema":
            return ResponseFormat(value)
        inner = value.get("json_schema")
        if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict):
            raise ValidationError("json_schema needs an object with a schema.")
        return ResponseFormat(inner["schema"])


class Wish(NamedTuple):
    """What `POST /generate` asks for."""

    request: GenerationRequest
    details: bool


class GenerateSchema(Schema):
    """The body of `POST /generate`; `max_prompt_chars` bounds the prompt and the system message."""

    class Meta:
        unknown = RAISE

    prompt = fields.String(required=True)
    system = fields.String()
    model = fields.String(validate=[validate.Length(1, 200), validate.Regexp(r"[^\x00-\x1f\x7f]+\Z")])
    max_tokens = StrictInteger(validate=validate.Range(1, 2**31 - 1))
    temperature = StrictFloat(validate=validate.Range(0, 2))
    top_p = StrictFloat(validate=validate.Range(0, 1, min_inclusive=False))
    stop = Stop()
    seed = StrictInteger(validate=validate.Range(-(2**63), 2**63 - 1))
    stream = StrictBoolean()
    fallback = StrictBoolean()
    details = StrictBoolean()
    response_format = Format()

    def __init__(self, max_prompt_chars: int) -> None:
        super().__init__()
        # not appended to: marshmallow's copies of a field share its list
        self.fields["prompt"].validators = [validate.Length(1, max_prompt_chars)]
        self.fields["system"].validators = [validate.Length(0, max_prompt_chars)]

    def read(self, body: Mapping[str, Any]) -> Wish:
        """Return what `body` asks for. Raises ValidationFailed with the wrong fields."""
        try:
            wish: Wish = self.load(body)
        except ValidationError as error:
            raise _failed(error.messages_dict) from None
        return wish

    @post_load
    def make_wish(self, data: dict[str, Any], **kwargs: Any) -> Wish:
        """Return the types for a valid body."""
        system = [Message("system", data.pop("system"))] if data.get("system") else []
        data.pop("system", None)
        messages = (*system, Message("user", data.pop("prompt")))
        return Wish(details=data.pop("details", False), request=GenerationRequest(messages, **data))


def _failed(wrong: Mapping[str, Any]) -> ValidationFailed:
    shown = {name[:MAX_NAME_CHARS]: wrong[name] for name in sorted(wrong)[:MAX_SHOWN]}
    name, messages = next(iter(shown.items()))
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return ValidationFailed(f"{name}: {' '.join(map(str, messages))}{more}", param=name, fields=shown)
