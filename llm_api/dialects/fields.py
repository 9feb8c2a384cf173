"""The fields that bodies have in common. Strict: a value of another type is refused, never guessed at."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, ClassVar, NamedTuple

from marshmallow import EXCLUDE, Schema, ValidationError, fields, pre_load, validate
from marshmallow.exceptions import SCHEMA

from ..errors import ValidationFailed
from ..rules import picture_address
from ..types import Document, Image, Message, ResponseFormat, Text, ToolResult

# The configured model: a body must name one. huggingface_hub's InferenceClient puts in `dummy` by itself.
UNNAMED = ("default", "dummy")
# What says nothing, whatever it is the value of.
UNSAID: tuple[Any, ...] = (None, "", [], {})
# A field that is not known may have any name.
MAX_NAME_CHARS = 100
MAX_SHOWN = 20
MAX_STOPS = 4
EFFORT = fields.String(validate=validate.Length(1, 20))
# OpenAI's, which most clients keep to.
MAX_TEXTS = 2_048
MAX_DIMENSIONS = 65_536
NAME = (validate.Length(1, 200), validate.Regexp(r"[^\x00-\x1f\x7f]+\Z"))
MAX_MESSAGES = 10_000
# Anthropic's limit for most of its models.
MAX_IMAGES = 100

# Parts that a client may have from OpenAI's documentation, and no backend takes.
NOT_SERVED = {"input_audio": "Sound is not served.", "file": "Files are not served."}
# RFC 2397; browsers' own have nothing between the type and `;base64`.
DATA_URL = re.compile(r"data:([^,;]*)(?:;[^,;]*)*;base64,", re.IGNORECASE)
# What is not registered, and often said.
MEDIA_TYPES = {"image/jpg": "image/jpeg"}
NEITHER = 'Not a picture: "url" is an https:// address, or data:image/png;base64,… and the like.'


class Limits(NamedTuple):
    """How many characters the texts of a body may have together, and how many bytes each picture's file."""

    prompt_chars: int
    image_bytes: int


# Those of the body that is being read: marshmallow hands nothing down to the fields of nested schemas.
LIMITS: ContextVar[Limits] = ContextVar("limits")


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


class TextOr(fields.List[Any]):
    """A text, or a list; what is None in it is left out."""

    def alone(self, text: str) -> Any:
        """Return what stands for a text."""
        return Text(text)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, str):
            return (self.alone(value),)
        if not isinstance(value, list):
            raise ValidationError("Not a text or a list.")
        return tuple(part for part in super()._deserialize(value, attr, data, **kwargs) if part is not None)


class Strings(TextOr):
    """A text, or a list of them."""

    def alone(self, text: str) -> str:
        return text


class Texts(fields.Field[tuple[str, ...]]):
    """A text, or a list of up to 2,048, each as long as a body's may be; an empty one has no vector."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not 1 <= len(texts) <= MAX_TEXTS:
            raise ValidationError(f"Not a text or a list of 1 to {MAX_TEXTS:,} texts.")
        if isinstance(texts[0], int | list):
            raise ValidationError(
                "Tokens are not served, since each model has its own: send texts"
                " (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))."
            )
        most = LIMITS.get().prompt_chars
        for place, text in enumerate(texts):
            if not isinstance(text, str) or not 1 <= len(text) <= most:
                words = f"Not a text of 1 to {most:,} characters (MAX_PROMPT_CHARS)."
                raise ValidationError({place: [words]})
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


class FlatFormat(Format):
    """{"type": "json_schema", "schema": {…}}, and what Format takes."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> ResponseFormat | None:
        if isinstance(value, dict) and value.get("type") == "json_schema":
            value = {"type": "json_schema", "json_schema": value}
        return super()._deserialize(value, attr, data, **kwargs)


def _named_schema(value: Any) -> ResponseFormat:
    if not isinstance(value, dict) or not isinstance(value.get("schema"), dict):
        raise ValidationError("json_schema needs an object with a schema.")
    name, strict, description = value.get("name"), value.get("strict"), value.get("description")
    if not isinstance(name, str | None) or not isinstance(strict, bool | None):
        raise ValidationError("json_schema has a name that is a text, and a strict that is true or false.")
    if not isinstance(description, str | None):
        raise ValidationError("json_schema has a description that is a text.")
    return ResponseFormat(_schema(value["schema"]), name, strict, description=description)


def _schema(value: dict[str, Any]) -> dict[str, Any]:
    from ..exchange.structured import check_schema

    try:
        check_schema(value)
    except ValueError as error:
        raise ValidationError(f"The schema {error}.") from None
    return value


def check_said(messages: Sequence[Message], param: str) -> None:
    """Raise ValidationError for `param` where a conversation has no words, or pictures that no provider takes."""
    shown = {Image, Document, ToolResult}
    if not any(message.chars or not shown.isdisjoint(map(type, message.parts)) for message in messages):
        raise ValidationError("Has no text.", param)
    if any(isinstance(part, Image) for message in messages if message.role != "user" for part in message.parts):
        raise ValidationError("Only a user's message has images.", param)
    parts = [part for message in messages for part in message.parts]
    parts += [inner for part in parts if isinstance(part, ToolResult) for inner in part.parts]
    if sum(isinstance(part, Image) for part in parts) > MAX_IMAGES:
        raise ValidationError(f"Has more than {MAX_IMAGES} pictures.", param)


class Picture(fields.Field[Image]):
    """A picture's file in base64."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Image:
        if not isinstance(value, str):
            raise ValidationError("Not a text in base64.")
        return picture(value)


def image_part(part: dict[str, Any]) -> Image:
    """Return what {"type": "image_url", "image_url": {"url": "…"}} shows. Raises ValidationError."""
    said = part.get("image_url")
    image = said if isinstance(said, dict) else {"url": said}  # Mistral's clients send the address alone
    url, detail = image.get("url"), image.get("detail")
    if not isinstance(url, str) or not isinstance(detail, str | None):
        raise ValidationError('A picture is {"type": "image_url", "image_url": {"url": "…"}}.')
    if said := DATA_URL.match(url):
        return picture(url[said.end() :], said[1].strip().lower(), detail)
    return picture_at(url, detail)


def picture_at(url: str, detail: str | None = None) -> Image:
    """Return the picture at `url`. Raises ValidationError where it is no address to fetch one from."""
    try:
        picture_address(url)
    except ValueError:
        raise ValidationError(NEITHER) from None
    return Image(url=url, detail=detail)


def picture(text: str, media_type: str | None = None, detail: str | None = None) -> Image:
    """Return the picture whose file is base64 in `text`. Raises ValidationError where it is not of `media_type`.

    Line breaks, as `base64` makes them, and a missing end are put right: providers are stricter than clients.
    """
    data = text.replace("\n", "").replace("\r", "").rstrip("=")
    data += "=" * (-len(data) % 4)
    max_bytes = LIMITS.get().image_bytes
    if len(data) * 3 // 4 - data[-2:].count("=") > max_bytes:
        raise ValidationError(f"The picture has more than {max_bytes:,} bytes (MAX_IMAGE_BYTES).")
    try:
        found = Image.type_of(base64.b64decode(data, validate=True))
    except ValueError:
        raise ValidationError("The picture is not base64 (RFC 4648, section 4).") from None
    if not found:
        raise ValidationError("The file is no picture, or of another kind than JPEG, PNG, GIF and WebP.")
    if media_type not in (None, found) and MEDIA_TYPES.get(media_type or "") != found:
        raise ValidationError(f"The picture is {found}, not {media_type or 'without a type'} as its address says.")
    return Image(found, data, detail=detail)


class Readable(Schema):
    """The schema of a body, which the type is made of by its `post_load`."""

    def read(self, body: Mapping[str, Any], wrong_field: int, limits: Limits) -> Any:
        """Return what `body` asks for. Raises ValidationFailed with the wrong fields, of the status `wrong_field`."""
        LIMITS.set(limits)
        try:
            return self.load(body)
        except ValidationError as error:
            raise _failed(error.messages_dict, wrong_field) from None


class Nullable(Schema):
    """An object in which null means not said, as answers have it that are sent back; unknown fields are ignored.

    So do all values that are `unsaid`.
    """

    class Meta:
        unknown = EXCLUDE

    unsaid: ClassVar[tuple[Any, ...]] = (None,)

    @pre_load
    def leave_out_unsaid(self, data: Any, **kwargs: Any) -> Any:
        """Leave them out before any field is read."""
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value not in self.unsaid}

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """Let the description say so."""
        field_obj.allow_none = not field_obj.required


class NamedBody(Nullable, Readable):
    """A vendor's: it has a model."""

    model = fields.String(required=True, validate=NAME)


class Body(Readable):
    """What is said in every dialect in the same words."""

    max_tokens = StrictInteger(validate=validate.Range(1, 2**31 - 1))
    temperature = StrictFloat(validate=validate.Range(0, 2))
    top_p = StrictFloat(validate=validate.Range(0, 1, min_inclusive=False))
    stop = Stop()
    seed = StrictInteger(validate=validate.Range(-(2**63), 2**63 - 1))
    stream = StrictBoolean()
    fallback = StrictBoolean()
    response_format = Format()
    reasoning_effort = EFFORT


class VendorBody(NamedBody, Body):
    """What the vendors' bodies that ask for words have in common."""


def named_model(said: str) -> str | None:
    """Return the model that a body names; None: the configured one."""
    return None if said in UNNAMED else said


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
    if inner == SCHEMA:  # marshmallow's for what is no object
        return _words(where, deeper)
    return _words(f"{where}[{inner}]" if isinstance(inner, int) else f"{where}.{inner}", deeper)
