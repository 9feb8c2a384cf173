"""JSON schemas as llama.cpp can make a grammar of them, on the one loop that all requests wait for.

What it makes of some takes minutes or for ever, and all the memory there is; what it makes of other patterns lets the
model write JSON that is none. The parts that do that are left out: the answer is held to the whole schema afterwards.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from ..errors import RequestRefused

# A pattern of 20,000 alternatives kept the loop busy for five minutes.
MAX_CHARS = 10_000
# Of all tools together, which a model is told in words too: the worst that fits took the loop 10 s.
MAX_TOOLS_CHARS = 100_000
# It counts up to the limits of a number with 17 digits. This is the largest that JSON's readers agree on (RFC 8259).
MAX_BOUND = 2**53
DATA = frozenset({"enum", "examples"})
BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
RANGES = (("minLength", "maxLength"), ("minItems", "maxItems"))
# What one character of a pattern may be, in classes and out of them: nothing that ends a string of JSON.
ATOM = re.compile(
    r"\[(?:[a-z]-[a-z]|[A-Z]-[A-Z]|[0-9]-[0-9]|\\[dw.]|[\w .,:;%+*/@#=~]|-(?=\]))+\]|\\[dw.+*?()|^$/\[\]{}-]"
)
# It knows none of these by their names.
CLASSES = {r"\d": "0-9", r"\w": "A-Za-z0-9_", r"\.": "."}
# Of what remains: what is any character but some, is another engine's, or can be read in very many ways.
WILD = re.compile(r'[\x00-\x1f.\\\["]|\(\?(?!:)|[?*+}][?*+]|\{(?!\d*(?:,\d*)?\})|\)\{(?!\d\})|(?:[?*+{][^?*+{]*){17}')


def fitting(schema: Any, param: str = "response_format", most: int = MAX_CHARS) -> Any:
    """Return the schema, or a list of them, as it can be used. Raises RequestRefused, which names `param`."""
    if len(json.dumps(schema)) > most:
        raise refused(f"what is told of {param} has at most {most:,} characters of schemas here", param)
    return _bounded(schema, param)


def _bounded(schema: Any, param: str) -> Any:
    if isinstance(schema, list):
        return [_bounded(part, param) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    for least, most in RANGES:
        if _number(schema.get(least)) > _number(schema.get(most), math.inf):
            raise refused(f"the schema's {least} is over its {most}", param)
    return {name: _part(name, part, param) for name, part in schema.items() if not _is_left_out(name, part)}


def _part(name: str, part: Any, param: str) -> Any:
    if name == "pattern" and isinstance(part, str):
        return _in_its_words(part)
    # a list of that name is data; a property that has the name has a schema
    return part if name in DATA and isinstance(part, list) else _bounded(part, param)


def refused(detail: str | None, param: str | None) -> RequestRefused:
    """Return the error for a request that the engine can't take."""
    return RequestRefused("the engine can't take this request", param=param, detail=detail)


def _is_left_out(name: str, part: object) -> bool:
    if name == "pattern" and isinstance(part, str):
        return len(part) > MAX_CHARS or bool(WILD.search(ATOM.sub("a", part)))
    return name in BOUNDS and abs(_number(part)) > MAX_BOUND


def _in_its_words(pattern: str) -> str:
    def words(found: re.Match[str]) -> str:
        atom = found[0]
        if atom.startswith("["):
            return re.sub(r"\\.", lambda escape: CLASSES[escape[0]], atom)
        return f"[{CLASSES[atom]}]" if atom in (r"\d", r"\w") else atom

    return ATOM.sub(words, pattern)


def _number(value: object, otherwise: float = 0) -> float:
    return value if isinstance(value, int | float) else otherwise
