"""The backend that always answers, and says that no model did."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from itertools import islice
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
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError):
            words = f"are no JSON Schema, or ask for more than {MAX_ARGUMENTS:,} values and characters"
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
LEAST: dict[str, Any] = {"number": 0, "integer": 0, "boolean": False, "null": None}


def _least(schema: Mapping[str, Any], root: Mapping[str, Any], room: Iterator[int]) -> Any:
    """Return a small value that fits `schema` as tools have it: the first of a choice, only required properties.

    Raises ValueError where it takes more than `room`.
    """
    _take(room, 1)
    if reference := schema.get("$ref"):
        return _least(root["$defs"][reference.removeprefix("#/$defs/")], root, room)
    for name in ("const", "default", "enum"):
        if name in schema:
            value = schema[name][0] if name == "enum" else schema[name]
            _take(room, len(strict_json.dumps(value)))
            return value
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return _least(schema[name][0], root, room)
    kind = schema.get("type", "object")
    kind = kind if isinstance(kind, str) else kind[0]
    if kind == "object":
        _take(room, sum(map(len, schema.get("required", ()))))
        return {name: _least(schema["properties"].get(name, {}), root, room) for name in schema.get("required", ())}
    if kind == "array":
        return [_least(schema.get("items", {}), root, room) for _ in range(schema.get("minItems", 0))]
    if kind == "string":
        _take(room, schema.get("minLength", 0))
        return "stub".ljust(schema.get("minLength", 0))[: schema.get("maxLength")]
    return max(LEAST[kind], schema.get("minimum", 0)) if kind in ("number", "integer") else LEAST[kind]


def _take(room: Iterator[int], count: int) -> None:
    if len(list(islice(room, count))) < count:
        raise ValueError
