"""The backend that always answers, and says that no model did."""

from __future__ import annotations

import operator
import re
import secrets
from collections.abc import Iterator, Mapping
from functools import reduce
from itertools import chain, islice, repeat
from typing import Any

from .. import strict_json
from ..errors import RequestRefused
from ..runtime.deadline import Deadline
from ..types import CallPiece, Chunk, GenerationRequest, Tool, Usage
from .base import Backend, cut_at_stop

MAX_QUOTE_CHARS = 80
# Of a call's arguments: a schema of a few lines may ask for more than fits into any memory.
MAX_ARGUMENTS = 10_000


class Stub(Backend):
    """Deterministic; streams word by word; counts words as tokens."""

    name = "stub"
    model = "stub"
    serves = frozenset({"tools", "tool_choice"})

    def stream(self, request: GenerationRequest, deadline: Deadline) -> Iterator[Chunk]:
        if request.tool_choice.is_forced and request.offered:
            return iter([self._call(request.offered[0])])
        words = re.findall(r"\S+\s*", _text(request))
        said = words[: request.max_tokens]
        usage = Usage(sum(len(m.content.split()) for m in request.messages), len(said))
        finish = "length" if len(said) < len(words) else "stop"
        if not request.stream:
            return cut_at_stop(iter([Chunk("".join(said), finish, usage, self.model)]), request.stop)
        last = Chunk("", finish, usage, self.model)
        return cut_at_stop(iter([*(Chunk(word, model=self.model) for word in said), last]), request.stop)

    def _call(self, tool: Tool) -> Chunk:
        try:
            schema = tool.parameters or {}
            arguments = strict_json.dumps(_least(schema, schema, iter(range(MAX_ARGUMENTS))))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
            words = f"are no JSON Schema, have a pattern, or ask for more than {MAX_ARGUMENTS:,} values and characters"
            raise RequestRefused(f"the parameters of the tool {tool.name!r} {words}", param="tools") from None
        call = CallPiece(0, f"call_stub_{secrets.token_hex(8)}", tool.name, arguments)
        return Chunk("", "tool_calls", model=self.model, calls=(call,))

    def check(self, deadline: Deadline) -> None:
        pass

    def list_models(self, deadline: Deadline) -> list[str]:
        return [self.model]


def _text(request: GenerationRequest) -> str:
    prompt = request.turns[-1].content
    quote = " ".join(prompt[:MAX_QUOTE_CHARS].split())
    return f"[stub] This is a stub: no language model answered. The prompt has {len(prompt)} characters: {quote}"


# What fits a schema of that type that asks for no more.
LEAST: dict[str, Any] = {"boolean": False, "null": None}


def _least(schema: Any, root: Mapping[str, Any], room: Iterator[int]) -> Any:
    """Return a small value that fits `schema` as tools have it: the first of a choice, only required properties.

    Raises ValueError where it takes more than `room`, or can't be made here, and KeyError and its like on what is none.
    """
    _take(room, 1)
    if schema is True:
        return {}
    if "$ref" in schema:
        return _least(_referred(schema["$ref"], root), root, room)
    for name in ("const", "default", "enum"):
        if name in schema:
            value = schema[name][0] if name == "enum" else schema[name]
            _take(room, len(strict_json.dumps(value)))
            return value
    for name in ("anyOf", "oneOf", "allOf"):
        if chosen := schema.get(name):
            rest = {key: value for key, value in schema.items() if key != name}
            return _least(_merged([rest, *(chosen if name == "allOf" else chosen[:1])], root), root, room)
    kind = schema.get("type", "object")
    return _of_kind(kind if isinstance(kind, str) else kind[0], schema, root, room)


def _of_kind(kind: str, schema: Mapping[str, Any], root: Mapping[str, Any], room: Iterator[int]) -> Any:
    match kind:
        case "object":
            names, properties = dict.fromkeys(schema.get("required", ())), schema.get("properties", {})
            _take(room, sum(map(len, names)))
            return {name: _least(properties.get(name, {}), root, room) for name in names}
        case "array":
            first, then = schema.get("prefixItems", ()), schema.get("items", {})
            found = (_least(item, root, room) for item in chain(first, repeat(then)))
            return list(islice(found, max(len(first), schema.get("minItems", 0))))
        case "string":
            _take(room, schema.get("minLength", 0))
            if "pattern" in schema:
                raise ValueError
            return "stub".ljust(schema.get("minLength", 0))[: schema.get("maxLength")]
        case "number" | "integer":
            return _number(kind, schema)
    return LEAST[kind]


def _number(kind: str, schema: Mapping[str, Any]) -> float:
    step = schema.get("multipleOf", 1)
    bounds = [schema[name] for name in BOUNDS if name in schema]
    near = [step * (bound // step + more) for bound in bounds for more in (0, 1, -1)]
    between = [sum(bounds) / len(bounds)] if kind == "number" and bounds and step == 1 else []
    fitting = (
        n for n in (0, *near, *between) if all(fits(n, schema[name]) for name, fits in BOUNDS.items() if name in schema)
    )
    value: float | None = next(fitting, None)
    if value is None:
        raise ValueError
    return value


BOUNDS = {
    "minimum": operator.ge,
    "maximum": operator.le,
    "exclusiveMinimum": operator.gt,
    "exclusiveMaximum": operator.lt,
}


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    """Return the part of `root` that is meant by `#/$defs/Name`."""
    return reduce(operator.getitem, reference.removeprefix("#").split("/")[1:], root)


def _merged(schemas: list[Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema that asks for what all ask."""
    merged: dict[str, Any] = {"properties": {}, "required": []}
    for schema in schemas:
        said = _referred(schema["$ref"], root) if "$ref" in schema else schema
        merged |= said | {
            "properties": merged["properties"] | said.get("properties", {}),
            "required": [*merged["required"], *said.get("required", ())],
        }
    return merged


def _take(room: Iterator[int], count: int) -> None:
    if len(list(islice(room, count))) < count:
        raise ValueError
