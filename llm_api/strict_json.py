"""JSON from strangers, refused where it is ambiguous, and the one way JSON is written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NoReturn

from .errors import MalformedBody

MAX_DEPTH = 32
MAX_DIGITS = 20


def dumps(value: object) -> str:
    """Return one line of ASCII. Raises ValueError on NaN and Infinity, which JSON has not (RFC 8259, section 6)."""
    return _encode(value)


def loads(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`.

    Raises MalformedBody on all that two readers could understand in two ways or that harms one further on: no
    strict UTF-8, a byte order mark, no object, a name twice, NaN or Infinity (1e999 too), integers over 20 digits,
    nesting over 32, NUL characters and lone surrogates.
    """
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except UnicodeDecodeError:
        raise MalformedBody("the body is not UTF-8 text") from None
    except RecursionError:
        raise MalformedBody(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        raise MalformedBody(f"the body is not valid JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(value, dict):
        raise MalformedBody('the body must be a JSON object, such as {"prompt": "Hello"}')
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _check_depth(value, MAX_DEPTH)
    if b"\\u" in body:
        for text in _strings(value):
            _check_text(text)
    return value


_encode = json.JSONEncoder(allow_nan=False, separators=(", ", ": ")).encode


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise MalformedBody("the body has a name twice in one object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedBody(f"the body has {name}, which is not JSON")


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise MalformedBody(f"the body has an integer of more than {MAX_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise MalformedBody("the body has a number that is too large")
    return value


def _check_depth(value: object, levels: int) -> None:
    if not isinstance(value, dict | list):
        return
    if levels == 0:
        raise MalformedBody(f"the body is nested deeper than {MAX_DEPTH} levels")
    for item in value.values() if isinstance(value, dict) else value:
        _check_depth(item, levels - 1)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _check_text(text: str) -> None:
    if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise MalformedBody("the body has a NUL character or half of a surrogate pair in a string")
