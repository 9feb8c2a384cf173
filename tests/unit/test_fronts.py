"""The vendors' fronts side by side: one request in four dialects is one, and what they write their SDKs read."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ollama
import pytest
from anthropic.types import Message as TheirMessage
from anthropic.types import RawMessageStreamEvent
from asking import Log, Serve
from fakes import Fake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from llm_api.dialects import Asked, Dialect
from llm_api.dialects.anthropic import Messages
from llm_api.dialects.ollama import OllamaChat
from llm_api.dialects.openai import ChatCompletions
from llm_api.dialects.responses import Responses
from llm_api.types import NEEDS, Answer, CallPiece, Chunk, Head, Reasoning, Usage

Json = dict[str, Any]
CHAT, MESSAGES, RESPONSES, OLLAMA = "/v1/chat/completions", "/v1/messages", "/v1/responses", "/api/chat"
# What each front's official client reads: a whole body, and an event of a stream.
TYPES: dict[str, tuple[Any, Any]] = {
    CHAT: (ChatCompletion, ChatCompletionChunk),
    MESSAGES: (TheirMessage, RawMessageStreamEvent),
    RESPONSES: (Response, ResponseStreamEvent),
    OLLAMA: (ollama.ChatResponse, ollama.ChatResponse),
}
FRONTS: dict[str, Dialect] = {
    each.rule: each(10**6, 10**6) for each in (ChatCompletions, Messages, Responses, OllamaChat)
}
BODIES: dict[str, Json] = {
    **{path: {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} for path in (CHAT, MESSAGES, OLLAMA)},
    RESPONSES: {"model": "m", "input": "Hi"},
}
each_front = pytest.mark.parametrize("path", TYPES)


# Twins tell the truth

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Looks.", "parameters": CITY}
FUNCTION = {"type": "function", "function": WEATHER}
SYSTEM, HI, RAIN = "Be brief.", "Rain in Paris?", "It rains."
CALLED = {"name": "weather", "arguments": '{"city": "Paris"}'}
CALL = {"id": "c1", "type": "function", "function": CALLED}
TOLD = [{"role": "user", "content": HI}]
LOOP: dict[str, Json] = {
    CHAT: {
        "messages": [
            {"role": "system", "content": SYSTEM},
            *TOLD,
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [{"id": "c1", "type": "function", "function": CALLED}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": RAIN},
        ],
        **{"tools": [FUNCTION], "max_tokens": 50, "temperature": 0.5, "reasoning_effort": "low"},
    },
    MESSAGES: {
        "system": SYSTEM,
        "messages": [
            *TOLD,
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Paris"}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": RAIN}]},
        ],
        "tools": [{"name": "weather", "description": "Looks.", "input_schema": CITY}],
        **{"max_tokens": 50, "temperature": 0.5, "output_config": {"effort": "low"}},
    },
    RESPONSES: {
        "instructions": SYSTEM,
        "input": [
            *TOLD,
            {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
            {"type": "function_call", "call_id": "c1", **CALLED},
            {"type": "function_call_output", "call_id": "c1", "output": RAIN},
        ],
        "tools": [{"type": "function", **WEATHER}],
        **{"max_output_tokens": 50, "temperature": 0.5, "reasoning": {"effort": "low"}},
    },
    OLLAMA: {
        "messages": [
            {"role": "system", "content": SYSTEM},
            *TOLD,
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [{"id": "c1", "function": {"name": "weather", "arguments": {"city": "Paris"}}}],
            },
            {"role": "tool", "tool_name": "weather", "content": RAIN},
        ],
        **{"tools": [FUNCTION], "options": {"num_predict": 50, "temperature": 0.5}, "think": "low"},
    },
}
STRICT: dict[str, Json] = {
    CHAT: {"response_format": {"type": "json_schema", "json_schema": {"schema": CITY}}, "messages": TOLD},
    MESSAGES: {"output_config": {"format": {"type": "json_schema", "schema": CITY}}, "messages": TOLD},
    RESPONSES: {"text": {"format": {"type": "json_schema", "schema": CITY}}, "input": TOLD},
    OLLAMA: {"format": CITY, "messages": TOLD},
}
# What is each request's own.
OWN = {"request_id", "timestamp", "operation", "duration_ms", "time_to_first_chunk_ms", "attempts", "trace_id"}


class Able(Fake):
    """One that serves all that can be asked for."""

    serves = frozenset(NEEDS)


@pytest.mark.parametrize(
    ("bodies", "said"),
    [
        (LOOP, [Chunk("Yes."), Chunk(calls=(CallPiece(0, "c2", "weather", '{"city": "Rome"}'),))]),
        (STRICT, [Chunk('{"city": '), Chunk('"Paris"}')]),
    ],
    ids=["a loop with a tool", "a schema"],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_twins(serve: Serve, log_lines: Log, bodies: dict[str, Json], said: list[Chunk], streamed: bool) -> None:
    """The same request in four dialects is the same to the backend and in the log, and has the same answer."""
    finish = "tool_calls" if said[-1].calls else "stop"
    fake = Able("one", *said, Chunk("", finish, Usage(9, 5)))
    client, answers = serve(fake), []
    for path, body in bodies.items():
        reply = client.post(path, json={"model": "default", "stream": streamed} | body)
        assert reply.status_code == 200, reply.json
        answers.append(read(path, reply.data.decode() if streamed else reply.json))
    assert answers == [answers[0]] * 4
    assert answers[0]["text"] == "".join(chunk.text for chunk in said)
    asked = [replace(request, extras=None) for request in fake.asked]
    assert asked == [asked[0]] * 4
    lines = [{name: value for name, value in line.items() if name not in OWN} for line in log_lines()]
    assert lines == [lines[0]] * 4
    assert [line["operation"] for line in log_lines()] == ["chat", "message", "response", "chat"]


@each_front
def test_what_nobody_knows_is_named(serve: Serve, path: str) -> None:
    """Fields that say something and have no place in a request; not those that are null or empty."""
    said = {"x_newer": {"a": 1}, "a_newer": 0, "null": None, "empty": [], "none": {}}
    reply = serve(Able("one")).post(path, json=BODIES[path] | said)
    assert (reply.status_code, reply.headers["X-LLM-Ignored"]) == (200, "a_newer, x_newer")
    assert "X-LLM-Ignored" not in serve(Able("one")).post(path, json=BODIES[path]).headers


@pytest.mark.parametrize("speaks", ["openai", "claude", None])
def test_what_only_one_vendor_has_is_named_elsewhere(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, speaks: str | None
) -> None:
    """A field of OpenAI's own changes the answer of those who speak its words; who asks changes no answer."""
    monkeypatch.setattr(Able, "speaks", speaks)
    body = BODIES["/v1/chat/completions"] | {"presence_penalty": 1, "logit_bias": {"5": 1}, "user": "u"}
    reply = serve(Able("one")).post("/v1/chat/completions", json=body)
    told = reply.headers.get("X-LLM-Ignored")
    assert (reply.status_code, told) == (200, None if speaks == "openai" else "presence_penalty, logit_bias")


def read(path: str, answer: Any) -> Json:
    """Return what a client reads of an answer, whole or as the text of a stream."""
    if isinstance(answer, str):
        answer = folded(path, list(events_of(answer)))
    return {
        CHAT: lambda: of_chat(answer["choices"][0]["message"]),
        MESSAGES: lambda: of_blocks(answer["content"]),
        RESPONSES: lambda: of_items(answer["output"]),
        OLLAMA: lambda: of_chat(answer["message"]),
    }[path]()


def of_chat(message: Json) -> Json:
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    thought = message.get("reasoning_content") or message.get("thinking") or ""
    return {
        "text": (message["content"] or "") + (message.get("refusal") or ""),
        "thought": thought,
        "calls": [(call["name"], as_object(call["arguments"])) for call in calls],
    }


def of_blocks(blocks: list[Json]) -> Json:
    return {
        "text": "".join(block["text"] for block in blocks if block["type"] == "text"),
        "thought": "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        "calls": [(block["name"], as_object(block["input"])) for block in blocks if block["type"] == "tool_use"],
    }


def of_items(items: list[Json]) -> Json:
    texts = [part for item in items if item["type"] == "message" for part in item["content"]]
    thoughts = [part["text"] for item in items if item["type"] == "reasoning" for part in item["summary"]]
    calls = [item for item in items if item["type"] == "function_call"]
    return {
        "text": "".join(part.get("text", part.get("refusal")) for part in texts),
        "thought": "".join(thoughts),
        "calls": [(call["name"], as_object(call["arguments"])) for call in calls],
    }


def as_object(arguments: Any) -> Any:
    """Return a call's arguments; None where the token limit has cut them."""
    if isinstance(arguments, dict):
        return None if "INVALID_JSON" in arguments else arguments
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return None


def events_of(stream: str) -> Iterator[Json]:
    for line in stream.split("\n"):
        data = line.removeprefix("data: ")
        if data and not data.startswith((":", "event: ", "[DONE]")):
            yield json.loads(data)


def folded(path: str, events: list[Json]) -> Json:
    """Return the whole answer that a stream's events make up, as the vendor's client folds them."""
    if path == RESPONSES:
        whole: Json = events[-1]["response"]
        return whole
    if path == MESSAGES:
        return {"content": blocks_of(events)}
    message: Json = {"content": "", "refusal": "", "tool_calls": []}
    for event in events:
        delta = event["message"] if path == OLLAMA else (event["choices"] or [{"delta": {}}])[0]["delta"]
        for name in ("content", "refusal", "thinking", "reasoning_content"):
            message[name] = message.get(name, "") + (delta.get(name) or "")
        for call in delta.get("tool_calls") or ():
            if path == OLLAMA or "id" in call:
                message["tool_calls"].append(call)
            else:
                message["tool_calls"][call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    return {"message": message} if path == OLLAMA else {"choices": [{"message": message}]}


def blocks_of(events: list[Json]) -> list[Json]:
    """Return the blocks of a stream; each begins when the one before has ended, and grows by deltas of its kind."""
    blocks: list[Json] = []
    open_at = None
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert (open_at, event["index"]) == (None, len(blocks))
                open_at = event["index"]
                blocks.append(dict(event["content_block"]))
            case "content_block_delta":
                assert event["index"] == open_at
                (name,) = event["delta"].keys() - {"type"}
                begun = "" if name == "partial_json" and name not in blocks[-1] else blocks[-1].get(name, "")
                blocks[-1][name] = begun + event["delta"][name]
            case "content_block_stop":
                assert event["index"] == open_at
                open_at = None
                if "partial_json" in blocks[-1]:
                    blocks[-1]["input"] = blocks[-1].pop("partial_json")
    return blocks


# What they write, their SDKs read

few = settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
HEAD = Head("id-1", 1_795_000_000.5, 0.0, "one", "one-model-100%s")
texts = st.text(st.sampled_from('a "\\\n{}é😀\u2028'), min_size=1, max_size=6)
thoughts = st.one_of(
    st.builds(Reasoning, texts, st.none() | texts, made_by=st.just("claude")),
    st.builds(Reasoning, data=texts, made_by=st.just("claude")),
)
sayings = st.lists(
    st.one_of(
        st.builds(Chunk, texts),
        st.builds(lambda thought: Chunk(reasoning=(thought,)), thoughts),
        st.just(Chunk()),
    ),
    max_size=6,
)
refusals = st.lists(st.builds(lambda text: Chunk(refusal=text), texts), max_size=2)
counts = st.none() | st.integers(0, 10**6)


@st.composite
def answers(draw: st.DrawFn) -> list[Chunk]:
    """Return an answer: thoughts, words and refusals, then calls in pieces that may mix; the last may be cut."""
    queues = []
    for index in range(draw(st.integers(0, 3))):
        written = json.dumps(draw(st.dictionaries(texts, st.integers() | texts, max_size=2)))
        place = draw(st.integers(0, len(written)))
        begun = [CallPiece(index, f"call_{index}", draw(st.sampled_from(["add", "now"])))]
        queues.append(begun + [CallPiece(index, arguments=text) for text in (written[:place], written[place:])])
    is_cut = draw(st.booleans())
    if queues and is_cut:
        queues[-1].pop()
    mixed = []
    # a call begins when those before it have
    while waiting := [queue for n, queue in enumerate(queues) if queue and all(len(it) < 3 for it in queues[:n])]:
        mixed.append(Chunk(calls=(draw(st.sampled_from(waiting)).pop(0),)))
    finish = "length" if is_cut else "tool_calls" if queues else draw(st.sampled_from(["stop", "content_filter"]))
    return [*draw(sayings), *draw(refusals), *mixed, Chunk("", finish, Usage(*(draw(counts) for _ in range(4))))]


def asked(path: str) -> Asked:
    more: Json = {"stream_options": {"include_usage": True}} if path == CHAT else {}
    return FRONTS[path].read(BODIES[path] | more | {"stream": True})


@functools.cache  # each takes as long to make as a hundred answers to read
def readers(path: str) -> list[TypeAdapter[Any]]:
    return [TypeAdapter(kind) for kind in TYPES[path]]


@each_front
@few
@given(chunks=answers())
def test_sdks_read_any_answer(path: str, chunks: list[Chunk]) -> None:
    """Each body and event is what the official types say, strictly; what a stream folds to is the whole answer."""
    dialect, wanted = FRONTS[path], asked(path)
    whole_type, event_type = readers(path)
    whole = json.dumps(dialect.whole(Answer.of(chunks, HEAD), wanted))
    whole_type.validate_json(whole, strict=True)
    stream = "".join(dialect.pieces(HEAD, iter(chunks), wanted))
    events = [event for event in events_of(stream) if event.get("type") != "ping"]
    for event in events:
        event_type.validate_json(json.dumps(event), strict=True)
    said = read(path, stream)
    assert said == read(path, json.loads(whole))
    assert said["text"] == "".join(chunk.text + chunk.refusal for chunk in chunks)
