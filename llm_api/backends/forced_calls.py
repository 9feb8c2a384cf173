"""Forcing a call of a server that knows no choice: by a JSON Schema that only a call fits. It may come as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..types import CallPiece, Chunk, Tool

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}
CALL = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"(?:\s*,\s*"arguments"\s*:\s*(.*))?', re.DOTALL)


def call_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """Return the JSON Schema of a call of one of `tools`."""
    # what refers to itself stands a second time where its references find it; older engines find nothing in lists
    arguments = [_moved(tool.parameters or NO_PARAMETERS, f"#/$defs/{n}") for n, tool in enumerate(tools)]
    referred = {str(n): moved for n, moved in enumerate(arguments) if moved != (tools[n].parameters or NO_PARAMETERS)}
    calls = [_schema(tool.name, moved) for tool, moved in zip(tools, arguments, strict=True)]
    return (calls[0] if len(calls) == 1 else {"anyOf": calls}) | ({"$defs": referred} if referred else {})


def _schema(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    properties = {"name": {"const": name}, "arguments": arguments}
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def _moved(schema: Any, place: str) -> Any:
    """Return `schema` with its references to its own parts as they are from `place` on."""
    if isinstance(schema, Mapping):
        return {
            name: place + part[1:] if name == "$ref" and _is_own(part) else _moved(part, place)
            for name, part in schema.items()
        }
    return [_moved(part, place) for part in schema] if isinstance(schema, list) else schema


def _is_own(reference: object) -> bool:
    return isinstance(reference, str) and (reference == "#" or reference.startswith("#/"))


def with_call(chunks: Iterator[Chunk], tools: Sequence[Tool]) -> Iterator[Chunk]:
    """Hold back the text of an answer until its end, and give it as the call of one of `tools` that it is."""
    held, called = "", False
    for chunk in chunks:
        held, called = held + chunk.text, called or bool(chunk.calls)
        if chunk.finish_reason:
            call = None if called else _read(held, tools, chunk.finish_reason == "length")
            yield replace(chunk, text="", calls=(call,)) if call else replace(chunk, text=held)
        elif chunk.calls or chunk.reasoning:
            yield replace(chunk, text="")


def _read(text: str, tools: Sequence[Tool], is_cut: bool) -> CallPiece | None:
    """Return the call that `text` is, or where it is cut its beginning, with the arguments as they are written."""
    found = CALL.match(text)
    if not found or found[1] not in [tool.name for tool in tools]:
        return None
    arguments = found[2] or ""
    try:
        _, end = json.JSONDecoder().raw_decode(arguments)
    except ValueError:
        return CallPiece(0, "", found[1], arguments) if is_cut else None
    return CallPiece(0, "", found[1], arguments[:end])
