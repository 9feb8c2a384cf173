"""Recorded exchanges with OpenAI's Responses: what its clients ask is read whole, and what it answered we can write."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from llm_api.dialects.responses import ITEMS, SERVED_TOOLS, Responses
from llm_api.errors import ValidationFailed
from llm_api.types import Answer, CallPiece, Chunk, Head, Message, Part, Reasoning, Text, ToolCall, ToolResult

from .cassettes import Exchange, Json, of_kind

DIALECT = Responses(10**6, 10**7)
EVENT = TypeAdapter(ResponseStreamEvent)
HEAD = Head("id-1", 1_795_000_000.5, 0.0, "openai", "m")
ASKED = [exchange for exchange in of_kind("responses") if isinstance(exchange.asked, dict)]


def is_refused(exchange: Exchange) -> bool:
    """Whether it goes on with what OpenAI has stored, as two do, or shows a file, as three do."""
    return "previous_response_id" in exchange.asked or '"input_file"' in json.dumps(exchange.asked["input"])


def served(items: Any) -> list[Json]:
    return [item for item in items if item.get("type", "message") in ITEMS]


def texts_in(value: Any) -> Iterator[str]:
    """Yield the texts of items, contents and parts, in their order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from texts_in(each)
    elif isinstance(value, dict):
        for name in ("summary", "content", "text", "refusal", "arguments", "output"):
            yield from texts_in(value.get(name))


def texts_of(parts: tuple[Part, ...]) -> Iterator[str]:
    for part in parts:
        match part:
            case ToolResult():
                yield from texts_of(part.parts)
            case ToolCall():
                yield part.arguments
            case Text() | Reasoning():
                yield part.text


@pytest.mark.parametrize("exchange", [x for x in ASKED if is_refused(x)], ids=str)
def test_refused(exchange: Exchange) -> None:
    """What OpenAI has stored, and files; with the reason."""
    with pytest.raises(ValidationFailed, match=r"Nothing is stored here|Files are not served\."):
        DIALECT.read(exchange.asked)


@pytest.mark.parametrize("exchange", [x for x in ASKED if not is_refused(x)], ids=str)
def test_request(exchange: Exchange) -> None:
    """Each text and each tool of kinds that we serve is in the request that is read; the other kinds are named."""
    body = exchange.asked
    asked = DIALECT.read(body)
    said = body["input"] if isinstance(body["input"], str) else served(body["input"])
    expected = [*texts_in(body.get("instructions")), *texts_in(said)]
    got = [text for message in asked.request.messages for text in texts_of(message.parts)]
    assert "".join(got) == "".join(expected)
    tools = [tool for tool in body.get("tools") or () if tool["type"] in SERVED_TOOLS]
    flat = [inner for tool in tools for inner in tool.get("tools", [tool])]
    if asked.request.tool_choice.mode == "auto":
        assert [tool.parameters for tool in asked.request.tools] == [tool.get("parameters") for tool in flat]
    left = {tool["type"] for tool in body.get("tools") or ()} - SERVED_TOOLS
    assert left <= set(asked.ignored)


def answered(exchange: Exchange) -> Json | None:
    """Return the response of an answer, which the last event of a stream has."""
    if not exchange.is_streamed:
        body: Json = json.loads(exchange.answer)
        return body if body.get("object") == "response" else None
    data = [line.removeprefix(b"data: ") for line in exchange.answer.splitlines() if line.startswith(b"data: {")]
    response: Json | None = json.loads(data[-1]).get("response")
    return response


def is_sought(item: Json, exchange: Exchange) -> bool:
    """Whether it calls what OpenAI's own search of tools has found, which makes up a namespace."""
    return item.get("namespace") not in (
        None,
        *(tool.get("name") for tool in exchange.asked.get("tools", ()) if "tools" in tool),
    )


ANSWERED = [
    exchange
    for exchange in ASKED
    if (answer := answered(exchange)) and (items := served(answer["output"]))
    if not any(is_sought(item, exchange) for item in items)
]


def bare(item: Json) -> tuple[Any, ...]:
    return item["type"], "".join(texts_in(item)), item.get("call_id"), item.get("name"), item.get("namespace")


@pytest.mark.parametrize("exchange", ANSWERED, ids=str)
def test_answer(exchange: Exchange) -> None:
    """Its items, sent back as clients do, are one message; as an answer, whole and streamed, that has the same."""
    response = answered(exchange)
    assert response
    items = served(response["output"])
    tools = [tool for tool in exchange.asked.get("tools") or () if tool["type"] in SERVED_TOOLS]
    asked = DIALECT.read({"model": "default", "input": [{"role": "user", "content": "Hi"}, *items], "tools": tools})
    _, *said = asked.request.messages
    assert [message.role for message in said] == ["assistant"]
    chunks = list(pieces(said[0]))
    whole = DIALECT.whole(Answer.of(chunks, HEAD), asked)
    Response.model_validate(whole, strict=True)
    *events, last = list(DIALECT.pieces(HEAD, iter(chunks), asked))
    for event in (*events, last):
        EVENT.validate_json(event.partition("data: ")[2])
    assert json.loads(last.partition("data: ")[2])["response"] == whole
    assert list(map(bare, whole["output"])) == list(map(bare, merged(items)))


def pieces(message: Message) -> Iterator[Chunk]:
    calls = 0
    for part in message.parts:
        match part:
            case Text():
                yield Chunk(part.text)
            case Reasoning() if part.text:
                yield Chunk(reasoning=(part,))
            case ToolCall():
                yield Chunk(calls=(CallPiece(calls, part.id, part.name, part.arguments),))
                calls += 1
    yield Chunk("", "stop")


def merged(items: list[Json]) -> Iterator[Json]:
    """Yield the items, those of words or thoughts that follow each other as one; without a text there is none."""
    said = [item for item in items if item["type"] == "function_call" or "".join(texts_in(item))]
    for kind, found in groupby(said, key=lambda item: item["type"]):
        if kind == "function_call":
            yield from found
        else:
            yield {"type": kind, "text": [each for item in found for each in texts_in(item)]}
