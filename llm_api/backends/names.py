"""Names of tools and ids of calls for wires that don't take all: changed where they leave, and back where they come."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace

from ..types import Chunk, GenerationRequest, Message, ToolCall

# OpenAI's and Anthropic's (docs/providers.md, 3.1 and 4.1).
MOST_CHARS = 64


def plain(name: str) -> str:
    """Return a name with no other characters than OpenAI and Anthropic take, different where the names are."""
    return name if re.fullmatch(f"[a-zA-Z0-9_-]{{1,{MOST_CHARS}}}", name) else short(name, MOST_CHARS)


def short(name: str, most: int) -> str:
    """Return the beginning of a name with digits of its hash, `most` characters together."""
    return f"{re.sub('[^a-zA-Z0-9_-]', '_', name[: most - 9])}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def plain_names(request: GenerationRequest) -> GenerationRequest:
    """Return the request with plain names of tools, in the history too."""
    if all(plain(name) == name for name in _names(request)):
        return request
    choice = request.tool_choice
    return replace(
        request,
        messages=tuple(map(_plain, request.messages)),
        tools=tuple(replace(tool, name=plain(tool.name)) for tool in request.tools),
        tool_choice=replace(choice, name=choice.name and plain(choice.name)),
    )


def named_back(chunks: Iterator[Chunk], request: GenerationRequest) -> Iterator[Chunk]:
    """Return the answer to `plain_names(request)` with the names that `request` has."""
    renamed = {sent: tool.name for tool in request.tools if (sent := plain(tool.name)) != tool.name}
    return _named_back(chunks, renamed) if renamed else chunks


def _names(request: GenerationRequest) -> Iterator[str]:
    yield from (tool.name for tool in request.tools)
    yield from (part.name for message in request.messages for part in message.parts if isinstance(part, ToolCall))


def _plain(message: Message) -> Message:
    parts = (replace(part, name=plain(part.name)) if isinstance(part, ToolCall) else part for part in message.parts)
    return replace(message, parts=tuple(parts))


def _named_back(chunks: Iterator[Chunk], renamed: dict[str, str]) -> Iterator[Chunk]:
    for chunk in chunks:
        calls = tuple(replace(call, name=renamed.get(call.name, call.name)) for call in chunk.calls)
        yield replace(chunk, calls=calls) if calls else chunk
