"""Requests in the middle language, of dialects that no front of ours reads yet, and what of them may differ."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from itertools import count, groupby
from typing import Any

from llm_api.types import (
    GenerationRequest,
    Image,
    Message,
    Part,
    Reasoning,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

from .cassettes import Json


def _request(body: Json, messages: Iterator[Message], tools: list[Json], **more: Any) -> GenerationRequest:
    offered = tuple(Tool(**{"parameters": tool.pop("input_schema", None)} | tool) for tool in copy.deepcopy(tools))
    return GenerationRequest(
        tuple(messages), model=body.get("model"), tools=offered, stream=body.get("stream", False), **more
    )


# Anthropic's Messages


def of_claude(body: Json) -> GenerationRequest:
    """Return what Anthropic's request means."""
    wanted = (body.get("output_config") or {}).get("format") or body.get("output_format")
    return _request(
        body,
        _claude_messages(body),
        body.get("tools", []),
        max_tokens=body["max_tokens"],
        temperature=body.get("temperature"),
        tool_choice=_claude_choice(**body.get("tool_choice", {"type": "auto"})),
        response_format=ResponseFormat(wanted["schema"]) if wanted else None,
    )


def _claude_choice(type: str, name: str | None = None) -> ToolChoice:  # noqa: A002
    return ToolChoice({"any": "required", "tool": "named"}.get(type, type), name)


def _claude_messages(body: Json) -> Iterator[Message]:
    if "system" in body:
        yield Message("system", tuple(_claude_parts(body["system"])))
    for message in body["messages"]:
        parts = list(_claude_parts(message["content"]))
        yield from (Message("tool", (part,)) for part in parts if isinstance(part, ToolResult))
        if said := tuple(part for part in parts if not isinstance(part, ToolResult)):
            yield Message(message["role"], said)


def _claude_parts(content: Any) -> Iterator[Part]:
    for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        match block["type"]:
            case "text":
                yield Text(block["text"])
            case "thinking":
                yield Reasoning(block["thinking"], block["signature"], made_by="claude")
            case "redacted_thinking":
                yield Reasoning(data=block["data"], made_by="claude")
            case "tool_use":
                yield ToolCall(block["id"], block["name"], json.dumps(block["input"]))
            case "tool_result":
                parts = tuple(_claude_parts(block["content"]))
                yield ToolResult(block["tool_use_id"], parts, block.get("is_error", False))
            case "image":
                yield Image(block["source"]["media_type"], block["source"]["data"])
            case kind:
                raise KeyError(kind)


def same_claude(body: Json) -> Json:
    """Return Anthropic's request without what may differ: each line says why."""
    body = {"stream": False} | copy.deepcopy(body)  # what goes without saying is said
    body.pop("thinking", None)  # a budget in tokens has no word in the middle language
    body.pop("anthropic_version", None)  # Bedrock's, a header elsewhere
    if not body.get("tools", True):
        del body["tools"]  # none are none
    if "output_format" in body:
        body["output_config"] = {"format": body.pop("output_format")}  # the beta's name of it
    if "system" in body:
        body["system"] = "".join(block["text"] for block in _blocks(body["system"]))  # one text means the same
    turns = groupby(body["messages"], key=lambda message: message["role"])  # two turns of one role are one
    body["messages"] = [(role, [b for m in said for b in _blocks(m["content"])]) for role, said in turns]
    return body


def _blocks(content: Any) -> list[Json]:
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for block in blocks:
        block.pop("cache_control", None)  # has no word in the middle language
        block.pop("caller", None)  # nor has who called, where it wasn't the model itself
        if "content" in block:
            block["content"] = _blocks(block["content"])
        if not block.get("is_error", True):
            del block["is_error"]  # what goes without saying
    return blocks


# Ollama's chat


def of_ollama(body: Json) -> GenerationRequest:
    """Return what Ollama's request means: a result belongs to the first call that has none."""
    tools = [tool["function"] for tool in body.get("tools") or ()]
    options = body.get("options") or {}
    return _request(
        body,
        _ollama_messages(body["messages"]),
        tools,
        max_tokens=options.get("num_predict"),
        temperature=options.get("temperature"),
        response_format=ResponseFormat(body["format"]) if body.get("format") else None,
    )


def _ollama_messages(messages: list[Json]) -> Iterator[Message]:
    made, answered = count(), count()
    for message in messages:
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        parts: list[Part] = [Text(message["content"])] if message["content"] else []
        parts += [Image(data=data) for data in message.get("images", ())]
        if message["role"] == "tool":
            parts = [ToolResult(str(next(answered)), (Text(message["content"]),))]
        parts += [ToolCall(str(next(made)), call["name"], json.dumps(call["arguments"])) for call in calls]
        yield Message(message["role"], tuple(parts))


def same_ollama(body: Json) -> Json:
    """Return Ollama's request without what may differ: each line says why."""
    body = copy.deepcopy(body)
    for name in ("think", "truncate", "shift"):
        body.pop(name, None)  # ours says them always (llm_api/backends/http/ollama.py says why)
    for name in ("format", "options", "keep_alive", "tools"):
        if not body.get(name, True):
            del body[name]  # an empty one says nothing
    for message in body["messages"]:
        message.pop("tool_call_id", None)  # no ids in 2024
        message.pop("tool_name", None)
        for call in message.get("tool_calls", ()):
            call.pop("id", None)
            call.pop("type", None)
            call["function"].pop("index", None)
    for tool in body.get("tools", ()):
        tool.setdefault("type", "function")
    return body
