"""JSON from strangers, refused where it is ambiguous, and the one way JSON is written."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from .errors import MalformedBody

MAX_DEPTH = 32
MAX_DIGITS = 20
# Commas and opening brackets, in texts too. Pictures make a body long, values make it large: of 8 MiB of empty lists
# came 180 MB.
MAX_MARKS = 400_000
UNWANTED = re.compile("[\x00\ud800-\udfff]")
# In ASCII JSON: what may be half of a surrogate pair; and each escape, a half apart: `\\ud800` is none.
_HALF = re.compile(r"\\ud(?:[89ab]..(?!\\ud[c-f])|[c-f](?<![^\\]\\ud[89ab]..\\ud[c-f]))")
_ESCAPE = re.compile(r"\\(?:ud[89ab]..\\ud[c-f]..|(ud[89a-f]..)|.)")


def dumps(value: object) -> str:
    """Return one line of ASCII. Raises ValueError on NaN and Infinity, which JSON has not (RFC 8259, section 6).

    Half of a surrogate pair becomes U+FFFD: other readers of JSON refuse the line (section 8.2).
    """
    line = _encode(value)
    has_half = r"\ud" in line and _HALF.search(line)
    return _ESCAPE.sub(lambda found: r"\ufffd" if found[1] else found[0], line) if has_half else line


def loads(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`.

    Raises MalformedBody on all that two readers could understand in two ways or that harms one further on: no
    strict UTF-8, a byte order mark, no object, a name twice, NaN or Infinity (1e999 too), integers over 20 digits,
    nesting over 32, more values than a conversation has, NUL characters and lone surrogates.
    """
    opened = body.count(b"{") + body.count(b"[")
    if opened + body.count(b",") > MAX_MARKS:
        raise MalformedBody(f"the body has more than {MAX_MARKS:,} commas and brackets")
    try:
        value = _decode_strictly(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise MalformedBody("the body is not UTF-8 text") from None
    except RecursionError:
        raise MalformedBody(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise MalformedBody(f"the body is not valid JSON: {error.msg} at character {error.pos}") from None
    except ValueError as error:
        raise MalformedBody(f"the body has {error}") from None
    if not isinstance(value, dict):
        raise MalformedBody('the body must be a JSON object, such as {"prompt": "Hello"}')
    if opened > MAX_DEPTH or b"\\u" in body:
        check(value)
    return value


def check(value: object, levels: int = MAX_DEPTH) -> None:
    """Raise MalformedBody where `value`, or what is in it, is what `loads` refuses in a body."""
    if isinstance(value, str):
        if UNWANTED.search(value):
            raise MalformedBody("the body has a NUL character or half of a surrogate pair in a string")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise MalformedBody(f"the body has {value}, which is not JSON")
    elif isinstance(value, dict | list | tuple):
        if levels == 0:
            raise MalformedBody(f"the body is nested deeper than {MAX_DEPTH} levels")
        for item in (*value, *value.values()) if isinstance(value, dict) else value:
            check(item, levels - 1)


def decode(text: str | bytes) -> Any:
    """Return the JSON value in `text`. Raises ValueError on what is none: NaN, and what is nested too deeply, too."""
    try:
        return _decode(text.decode() if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


_encode = json.JSONEncoder(allow_nan=False, separators=(", ", ": ")).encode


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name twice in one object")
    return value


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name}, which is not JSON")


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"an integer of more than {MAX_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError("a number that is too large")
    return value


_decode = json.JSONDecoder(parse_constant=_not_json).decode
_decode_strictly = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_not_json, parse_int=_integer, parse_float=_float
).decode
_decode_writable = json.JSONDecoder(parse_constant=_not_json, parse_float=_float).decode


def as_object(arguments: str) -> dict[str, Any] | None:
    """Return the arguments of a call as wires want them that have objects; None where they are none.

    So are those with a number such as 1e999, which can be read and not be written.
    """
    try:
        value = _decode_writable(arguments or "{}")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def in_an_object(arguments: str) -> dict[str, Any]:
    """Return the arguments as `as_object` does; those that are none, such as cut ones, wrapped as Anthropic advises.

    (platform.claude.com, fine-grained tool streaming, "invalid JSON in tool responses")
    """
    value = as_object(arguments)
    return {"INVALID_JSON": arguments} if value is None else value
