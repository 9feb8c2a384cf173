"""The fields that bodies have in common. Strict: a value of another type is refused, never guessed at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from ..errors import ValidationFailed
from ..types import ResponseFormat

# A field that is not known may have any name.
MAX_NAME_CHARS = 100
MAX_SHOWN = 20
MAX_STOPS = 4
MAX_EFFORT_CHARS = 20
NAME = (validate.Length(1, 200), validate.Regexp(r"[^\x00-\x1f\x7f]+\Z"))


class StrictInteger(fields.Integer):
    """A JSON integer: 40 and 40.0 (JSON Schema counts both), not "40", 40.5 or true."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise ValidationError("Not a whole number.")
        return int(value)


class StrictFloat(fields.Float):
    """A JSON number, not "0.5" or true."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValidationError("Not a number.")
        return value


class StrictBoolean(fields.Boolean):
    """true or false, not 1 or "true"."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("Not true or false.")
        return value


class Stop(fields.Field[tuple[str, ...]]):
    """A string, or a list of up to four."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        texts = [value] if isinstance(value, str) else value
        few = isinstance(texts, list | tuple) and len(texts) <= MAX_STOPS
        if not few or not all(isinstance(text, str) and text for text in texts):
            raise ValidationError("Not a text or a list of up to 4 texts, none of them empty.")
        return tuple(texts)


class Format(fields.Field[ResponseFormat | None]):
    """{"type": "json_object"}, {"type": "json_schema", "json_schema": {"schema": {…}}}, or a JSON schema itself."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> ResponseFormat | None:
        if not isinstance(value, dict) or not value:
            raise ValidationError('Not {"type": "json_object"} or a JSON schema.')
        match value.get("type"):
            case "text":
                return None
            case "json_object":  # TGI's has the schema in `value`, and huggingface_hub makes that of a json_schema
                return ResponseFormat(_schema(value["value"]) if isinstance(value.get("value"), dict) else None)
            case "json_schema":
                return _named_schema(value.get("json_schema"))
        return ResponseFormat(_schema(value))


def _named_schema(value: Any) -> ResponseFormat:
    if not isinstance(value, dict) or not isinstance(value.get("schema"), dict):
        raise ValidationError("json_schema needs an object with a schema.")
    name, strict = value.get("name"), value.get("strict")
    if not isinstance(name, str | None) or not isinstance(strict, bool | None):
        raise ValidationError("json_schema has a name that is a text, and a strict that is true or false.")
    return ResponseFormat(_schema(value["schema"]), name, strict)


def _schema(value: dict[str, Any]) -> dict[str, Any]:
    from ..exchange.structured import check_schema

    try:
        check_schema(value)
    except ValueError as error:
        raise ValidationError(f"The schema {error}.") from None
    return value


class Body(Schema):
    """What is said in every dialect in the same words."""

    max_tokens = StrictInteger(validate=validate.Range(1, 2**31 - 1))
    temperature = StrictFloat(validate=validate.Range(0, 2))
    top_p = StrictFloat(validate=validate.Range(0, 1, min_inclusive=False))
    stop = Stop()
    seed = StrictInteger(validate=validate.Range(-(2**63), 2**63 - 1))
    stream = StrictBoolean()
    fallback = StrictBoolean()
    response_format = Format()
    reasoning_effort = fields.String(validate=validate.Length(1, MAX_EFFORT_CHARS))

    def read(self, body: Mapping[str, Any], wrong_field: int) -> Any:
        """Return what `body` asks for. Raises ValidationFailed with the wrong fields, of the status `wrong_field`."""
        try:
            return self.load(body)
        except ValidationError as error:
            raise _failed(error.messages_dict, wrong_field) from None


def _failed(wrong: Mapping[str, Any], status: int) -> ValidationFailed:
    shown = {name[:MAX_NAME_CHARS]: wrong[name] for name in sorted(wrong)[:MAX_SHOWN]}
    name, messages = next(iter(shown.items()))
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return ValidationFailed(f"{_words(name, messages)}{more}", param=name, fields=shown, status=status)


def _words(where: str, messages: Any) -> str:
    """`messages[0].content: Not a text.`: where it is nested, marshmallow gives a dict of dicts of lists."""
    if not isinstance(messages, dict):
        return f"{where}: {' '.join(map(str, messages))}"
    inner, deeper = next(iter(messages.items()))
    return _words(f"{where}[{inner}]" if isinstance(inner, int) else f"{where}.{inner}", deeper)
