"""Each recorded answer, through our backend of its wire, against what the provider's own client makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import openai
import pytest
from flask.testing import FlaskClient
from responses import RequestsMock

from llm_api import Settings
from llm_api.backends import make_backend
from llm_api.errors import InvalidAnswer, LLMAPIError
from llm_api.runtime.deadline import Deadline
from llm_api.types import Answer, Chunk, GenerationRequest, Head, Message, Reasoning, Refusal, Text, ToolCall

from . import expected
from .cassettes import Exchange, of_kind
from .excused import ANSWERS, why

FAR = "http://far.test"
PATHS = {"openai": "/v1/chat/completions", "claude": "/v1/messages", "ollama": "/api/chat"}
ADDRESSES = {"openai_base_url": f"{FAR}/v1", "claude_base_url": FAR, "ollama_url": FAR}
REPLAYED = [exchange for exchange in of_kind(*PATHS) if not why(exchange, ANSWERS)]
KINDS = {Text: "text", Reasoning: "reasoning", Refusal: "refusal", ToolCall: "call"}


@contextmanager
def network(exchange: Exchange) -> Iterator[RequestsMock]:
    """A network with a provider that gives the recorded answer."""
    with RequestsMock(target="llm_api.backends.http.connections.Adapter.send") as far_end:
        far_end.assert_all_requests_are_fired = False
        far_end.post(FAR + PATHS[exchange.kind], body=exchange.answer, status=exchange.status)
        yield far_end


def chunks_of(exchange: Exchange) -> list[Chunk]:
    """Return what our backend makes of the answer. Raises as it does."""
    request = GenerationRequest((Message.of("user", "Hi"),), stream=exchange.is_streamed)
    with network(exchange):
        return list(make_backend(exchange.kind, Settings(**ADDRESSES)).stream(request, Deadline(5)))


def ours(exchange: Exchange) -> Answer:
    """Return them as one."""
    chunks = chunks_of(exchange)
    model = next((chunk.model for chunk in chunks if chunk.model), "")
    return Answer.of(chunks, Head("", 0, 0, exchange.kind, model))


def comparable(call: tuple[str, str, str]) -> tuple[str, str, Any]:
    """Return a call with its arguments parsed: none are an empty object."""
    number, name, arguments = call
    return number, name, json.loads(arguments or "{}")


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
    calls = [(call.id, call.name, call.arguments) for call in got.tool_calls]
    assert list(map(comparable, calls)) == list(map(comparable, said.calls))
    if exchange.is_streamed or exchange.kind == "openai":  # else the wire has objects
        assert calls == said.calls
    thoughts = [part for part in got.parts if isinstance(part, Reasoning)]
    blocks = [(part.text, part.signature, part.data) for part in thoughts if part.signature or part.data]
    assert (got.reasoning, blocks) == (said.thought, said.blocks)
    assert {part.made_by for part in thoughts} <= {exchange.kind}
    assert [KINDS[type(part)] for part in got.parts] == said.parts
    usage = got.usage
    counts = (usage.input_tokens, usage.output_tokens, usage.cached_tokens or 0, usage.reasoning_tokens or 0)
    assert counts == said.usage


@pytest.mark.parametrize("exchange", [x for x in REPLAYED if x.kind != "openai"], ids=str)
def test_for_a_client_of_openai(make_client: Callable[..., FlaskClient], exchange: Exchange) -> None:
    """OpenAI's client reads from /v1/chat/completions what another provider's client reads from the provider."""
    said = expected.read(exchange)
    tools = [{"type": "function", "function": {"name": name}} for name in sorted({name for _, name, _ in said.calls})]
    asked = {"model": "default", "messages": [expected.USER], "stream": exchange.is_streamed, "tools": tools}
    client = make_client(**ADDRESSES, llm_backend=exchange.kind)
    with network(exchange):
        reply = client.post("/v1/chat/completions", json=asked | {"stream_options": {"include_usage": True}})
    assert reply.status_code == 200, reply.json
    got = expected.read(Exchange("", "/chat/completions", asked, 200, reply.data))
    assert (got.text, got.finish, got.model) == (said.text, said.finish, f"{exchange.kind}/{said.model}")
    assert list(map(comparable, got.calls)) == list(map(comparable, said.calls))
    assert (got.thought, got.blocks) == (said.thought, said.blocks)
    # an Ollama of 2024 did not count a prompt that it had in its cache, and OpenAI's usage is whole or not there
    assert got.usage == (expected.counted({}) if None in said.usage else said.usage)


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
