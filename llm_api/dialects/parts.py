"""What messages are made of besides text, as clients write it."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

from marshmallow import ValidationError, fields

from ..rules import picture_address
from ..settings import Settings
from ..types import Image, Message, ToolResult

# Anthropic's limit for most of its models.
MAX_IMAGES = 100

# Parts that a client may have from OpenAI's documentation, and no backend takes.
NOT_SERVED = {"input_audio": "Sound is not served.", "file": "Files are not served."}
# RFC 2397; browsers' own have nothing between the type and `;base64`.
DATA_URL = re.compile(r"data:([^,;]*)(?:;[^,;]*)*;base64,", re.IGNORECASE)
# What is not registered, and often said.
MEDIA_TYPES = {"image/jpg": "image/jpeg"}
NEITHER = 'Not a picture: "url" is an https:// address, or data:image/png;base64,… and the like.'


def check_number(messages: Sequence[Message]) -> None:
    """Raise ValidationError where there are more pictures than the providers take."""
    parts = [part for message in messages for part in message.parts]
    parts += [inner for part in parts if isinstance(part, ToolResult) for inner in part.parts]
    if sum(isinstance(part, Image) for part in parts) > MAX_IMAGES:
        raise ValidationError(f"Has more than {MAX_IMAGES} pictures.")


class Picture(fields.Field[Image]):
    """A picture's file in base64, of `max_bytes` at most."""

    max_bytes: int = Settings.default("max_image_bytes")

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Image:
        if not isinstance(value, str):
            raise ValidationError("Not a text in base64.")
        return picture(value, self.max_bytes)


def image_part(part: dict[str, Any], max_bytes: int) -> Image:
    """Return what {"type": "image_url", "image_url": {"url": "…"}} shows. Raises ValidationError."""
    image = part.get("image_url")
    url, detail = (image.get("url"), image.get("detail")) if isinstance(image, dict) else (None, None)
    if not isinstance(url, str) or not isinstance(detail, str | None):
        raise ValidationError('A picture is {"type": "image_url", "image_url": {"url": "…"}}.')
    if said := DATA_URL.match(url):
        return picture(url[said.end() :], max_bytes, said[1].strip().lower(), detail)
    try:
        picture_address(url)
    except ValueError:
        raise ValidationError(NEITHER) from None
    return Image(url=url, detail=detail)


def picture(text: str, max_bytes: int, media_type: str | None = None, detail: str | None = None) -> Image:
    """Return the picture whose file is base64 in `text`. Raises ValidationError where it is not of `media_type`.

    Line breaks, as `base64` makes them, and a missing end are put right: providers are stricter than clients.
    """
    data = text.translate({10: None, 13: None}).rstrip("=")
    data += "=" * (-len(data) % 4)
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
