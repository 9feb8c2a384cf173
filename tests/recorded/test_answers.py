"""Each recorded answer, through our backend of its wire, against what the provider's own client makes of it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import openai
import pytest
from responses import RequestsMock

from llm_api import Settings
from llm_api.backends import make_backend
from llm_api.errors import InvalidAnswer, LLMAPIError
from llm_api.runtime.deadline import Deadline
from llm_api.types import Answer, Chunk, GenerationRequest, Head, Message, Reasoning, Text, ToolCall

from . import expected
from .cassettes import Exchange, of_kind
from .excused import ANSWERS, why

FAR = "http://far.test"
PATHS = {"openai": "/v1/chat/completions", "claude": "/v1/messages", "ollama": "/api/chat"}
ADDRESSES = {"openai_base_url": f"{FAR}/v1", "claude_base_url": FAR, "ollama_url": FAR}
REPLAYED = [exchange for exchange in of_kind(*PATHS) if not why(exchange, ANSWERS)]
KINDS = {Text: "text", Reasoning: "reasoning", ToolCall: "call"}


def chunks_of(exchange: Exchange) -> list[Chunk]:
    """Return what our backend makes of the answer. Raises as it does."""
    request = GenerationRequest((Message.of("user", "Hi"),), stream=exchange.is_streamed)
    with RequestsMock(target="llm_api.backends.http.connections.Adapter.send") as far_end:
        far_end.post(FAR + PATHS[exchange.kind], body=exchange.answer, status=exchange.status)
        return list(make_backend(exchange.kind, Settings(**ADDRESSES)).stream(request, Deadline(5)))


def ours(exchange: Exchange) -> Answer:
    """Return them as one."""
    chunks = chunks_of(exchange)
    model = next((chunk.model for chunk in chunks if chunk.model), "")
    return Answer.of(chunks, Head("", 0, 0, exchange.kind, model))


def parsed(arguments: str) -> Any:
    return json.loads(arguments or "{}")


@pytest.mark.parametrize("exchange", [x for x in REPLAYED if x.status == 200], ids=str)
def test_answer(exchange: Exchange) -> None:
    """Text, calls, thoughts, their order, the reason for the end, the counts and the model."""
    try:
        said = expected.read(exchange)
    except expected.RefusedInside as refused:
        check_refusal(exchange, refused.args[1], refused.args[0])
        return
    got = ours(exchange)
    assert (got.text, got.refusal, got.finish_reason, got.model) == (said.text, said.refusal, said.finish, said.model)
    assert [(call.id, call.name, parsed(call.arguments)) for call in got.tool_calls] == [
        (number, name, parsed(arguments)) for number, name, arguments in said.calls
    ]
    if exchange.is_streamed or exchange.kind == "openai":  # else the wire has objects
        assert [call.arguments for call in got.tool_calls] == [arguments for *_, arguments in said.calls]
    thoughts = [part for part in got.parts if isinstance(part, Reasoning)]
    assert [(part.text, part.signature, part.data) for part in thoughts] == said.reasoning
    assert {part.made_by for part in thoughts} <= {exchange.kind}
    assert [KINDS[type(part)] for part in got.parts] == said.parts
    usage = got.usage
    counts = (usage.input_tokens, usage.output_tokens, usage.cached_tokens or 0, usage.reasoning_tokens or 0)
    assert counts == said.usage


@pytest.mark.parametrize("exchange", [x for x in REPLAYED if x.status != 200], ids=str)
def test_error(exchange: Exchange) -> None:
    """What the provider's client raises is raised here, with the same status and the provider's words."""
    with pytest.raises(openai.APIStatusError) as raised:
        expected.read(exchange)
    check_refusal(exchange, raised.value.status_code, raised.value.body["message"])


def check_refusal(exchange: Exchange, status: int, words: str) -> None:
    with pytest.raises(LLMAPIError) as refused:
        ours(exchange)
    assert refused.value.status == status
    assert words[:400] in refused.value.words()


@pytest.mark.parametrize("exchange", [x for x in REPLAYED if x.is_streamed], ids=str)
def test_cut_stream(exchange: Exchange) -> None:
    """A stream that breaks off before its last event never ends as an answer does: half of it, and all but its end."""
    end = {"openai": b'"finish_reason":"', "claude": b"event: message_stop", "ollama": b'"done":true'}[exchange.kind]
    for cut in (len(exchange.answer) // 2, exchange.answer.rindex(end)):
        with suppress(InvalidAnswer):
            chunks = chunks_of(replace(exchange, answer=exchange.answer[:cut]))
            assert not any(chunk.finish_reason for chunk in chunks)
