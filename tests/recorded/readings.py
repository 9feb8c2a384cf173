"""Requests in the middle language, and what of them may differ when they leave in their own dialect again."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, groupby
from typing import Any

from llm_api.dialects.anthropic import Messages
from llm_api.types import (
    GenerationRequest,
    Image,
    Message,
    Part,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)

from .cassettes import Json


def _request(body: Json, messages: Iterator[Message], tools: list[Json], **more: Any) -> GenerationRequest:
    offered = tuple(Tool(**{"parameters": tool.pop("input_schema", None)} | tool) for tool in copy.deepcopy(tools))
    return GenerationRequest(
        tuple(messages), model=body.get("model"), tools=offered, stream=body.get("stream", False), **more
    )


# Anthropic's Messages

FRONT = Messages(10_000_000, 10_000_000)


def of_claude(body: Json) -> GenerationRequest:
    """Return what our front reads of it, for a backend that is not sent the body as it came."""
    request = FRONT.read({"model": "default"} | body).request
    return replace(request, extras=None, model=body.get("model"), reasoning_effort=None)


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
        body["system"] = "\n\n".join(block["text"] for block in _blocks(body["system"]))  # one text means the same
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
