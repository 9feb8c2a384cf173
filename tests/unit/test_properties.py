"""What holds for any conversation and any answer, on each wire: hypothesis makes them, always the same ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from providers import CLAUDE, OLLAMA, OPENAI, Provider, claude_event, event
from recorded.readings import of_claude, of_ollama

from llm_api import Settings
from llm_api.backends import make_backend
from llm_api.backends.http.base import HttpBackend
from llm_api.backends.http.streams import split_lines
from llm_api.dialects.openai import ChatCompletions
from llm_api.errors import InvalidAnswer
from llm_api.runtime.deadline import Deadline
from llm_api.types import (
    Answer,
    Chunk,
    GenerationRequest,
    Head,
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

Json = dict[str, Any]
HEAD = Head("id", 0, 0, "openai", "m")
CHAT = ChatCompletions(10**6, 10**6)

few = settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
# What JSON, lines and events may stumble over is in there often: quotes, line ends, what only Python splits at.
texts = st.text(
    st.sampled_from('a "\\\n\r\t{}[]:,é😀\u2028\x85') | st.characters(codec="utf-8", exclude_characters="\0")
)
words = texts.filter(str.strip)
names = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_-]{0,20}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
arguments = st.dictionaries(names, values, max_size=3)
counts = st.integers(0, 10**6)
luckies = st.integers(0, 2**32).map(random.Random)


@dataclass(frozen=True)
class Said:
    """An answer. Arguments are objects, so that each wire can say them; `finish` is in the provider's words."""

    thought: str
    text: str
    calls: list[tuple[str, str, Json]]
    is_cut: bool
    tokens: tuple[int, int]

    @property
    def parts(self) -> list[tuple[str, Any]]:
        """The parts as a reader must give them, but for ids that the wire may lack."""
        thought = [("thought", self.thought)] if self.thought else []
        text = [("text", self.text)] if self.text else []
        return thought + text + [("call", (name, said)) for _, name, said in self.calls]

    @property
    def finish(self) -> str:
        return "length" if self.is_cut else "tool_calls" if self.calls else "stop"


numbered = st.lists(st.tuples(names, arguments), max_size=3).map(
    lambda calls: [(f"call_{number}", *call) for number, call in enumerate(calls)]
)
answers = st.builds(Said, texts, texts, numbered, st.booleans(), st.tuples(counts, counts))


def pieces_of(text: str, luck: random.Random) -> Iterator[str]:
    """Cut a text at random places, in pieces of which some are empty."""
    places = sorted(luck.randrange(len(text) + 1) for _ in range(luck.randrange(4)))
    yield from (text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True))


# Each wire's answers, whole and as events. The last event without which an answer isn't whole is marked.


def openai_whole(said: Said) -> Json:
    calls = [
        {"id": number, "type": "function", "function": {"name": name, "arguments": json.dumps(value)}}
        for number, name, value in said.calls
    ]
    message = {"role": "assistant", "content": said.text or None} | ({"tool_calls": calls} if calls else {})
    message |= {"reasoning_content": said.thought} if said.thought else {}
    usage = {"prompt_tokens": said.tokens[0], "completion_tokens": said.tokens[1]}
    return {"model": "m", "choices": [{"message": message, "finish_reason": said.finish}], "usage": usage}


def openai_events(said: Said, luck: random.Random) -> Iterator[tuple[bytes, bool]]:
    def chunk(delta: Json, finish: str | None = None, **more: Any) -> bytes:
        return event({"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]} | more)

    yield chunk({"role": "assistant", "content": ""}), False
    for field, text in (("reasoning_content", said.thought), ("content", said.text)):
        yield from ((chunk({field: piece}), False) for piece in pieces_of(text, luck))
    for index, (number, name, value) in enumerate(said.calls):
        begun = {"index": index, "id": number, "type": "function", "function": {"name": name, "arguments": ""}}
        yield chunk({"tool_calls": [begun]}), False
        for piece in pieces_of(json.dumps(value), luck):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}), False
    yield chunk({}, said.finish), True
    usage = {"prompt_tokens": said.tokens[0], "completion_tokens": said.tokens[1]}
    yield chunk({}, choices=[], usage=usage) + event("[DONE]"), False


CLAUDES = {"length": "max_tokens", "tool_calls": "tool_use", "stop": "end_turn"}


def claude_blocks(said: Said) -> list[Json]:
    thought = [{"type": "thinking", "thinking": said.thought, "signature": "c2ln"}] if said.thought else []
    text = [{"type": "text", "text": said.text}] if said.text else []
    calls = [{"type": "tool_use", "id": number, "name": name, "input": value} for number, name, value in said.calls]
    return thought + text + calls


def claude_whole(said: Said) -> Json:
    usage = {"input_tokens": said.tokens[0], "output_tokens": said.tokens[1]}
    return {"model": "m", "content": claude_blocks(said), "stop_reason": CLAUDES[said.finish], "usage": usage}


def claude_events(said: Said, luck: random.Random) -> Iterator[tuple[bytes, bool]]:
    usage = {"input_tokens": said.tokens[0], "output_tokens": 1}
    yield claude_event("message_start", message={"model": "m", "content": [], "usage": usage}), False
    for index, block in enumerate(claude_blocks(said)):
        field, text, empty = {
            "thinking": ("thinking", said.thought, {"thinking": "", "signature": ""}),
            "text": ("text", said.text, {"text": ""}),
            "tool_use": ("partial_json", json.dumps(block.get("input")), {"input": {}}),
        }[block["type"]]
        kind = "input_json_delta" if block["type"] == "tool_use" else f"{block['type']}_delta"
        yield claude_event("content_block_start", index=index, content_block=block | empty), False
        yield claude_event("ping"), False
        for piece in ["", *pieces_of(text, luck)] if text != "{}" else [""]:  # no arguments are no text
            yield claude_event("content_block_delta", index=index, delta={"type": kind, field: piece}), False
        if block["type"] == "thinking":
            signed = {"type": "signature_delta", "signature": "c2ln"}
            yield claude_event("content_block_delta", index=index, delta=signed), False
        yield claude_event("content_block_stop", index=index), False
    end = {"stop_reason": CLAUDES[said.finish], "stop_sequence": None}
    yield claude_event("message_delta", delta=end, usage={"output_tokens": said.tokens[1]}), False
    yield claude_event("message_stop"), True


def ollama_line(message: Json, **more: Any) -> bytes:
    said = {"model": "m", "message": {"role": "assistant", "content": ""} | message, "done": False} | more
    return json.dumps(said, ensure_ascii=False).encode() + b"\n"


def ollama_calls(said: Said) -> list[Json]:
    return [
        {"id": number, "function": {"index": index, "name": name, "arguments": value}}
        for index, (number, name, value) in enumerate(said.calls)
    ]


def ollama_end(said: Said) -> Json:
    reason = "length" if said.is_cut else "stop"
    return {"done": True, "done_reason": reason, "prompt_eval_count": said.tokens[0], "eval_count": said.tokens[1]}


def ollama_whole(said: Said) -> Json:
    message = {"content": said.text, "thinking": said.thought, "tool_calls": ollama_calls(said)}
    return json.loads(ollama_line({name: value for name, value in message.items() if value}, **ollama_end(said)))


def ollama_events(said: Said, luck: random.Random) -> Iterator[tuple[bytes, bool]]:
    for field, text in (("thinking", said.thought), ("content", said.text)):
        yield from ((ollama_line({field: piece}), False) for piece in pieces_of(text, luck))
    yield from ((ollama_line({"tool_calls": [call]}), False) for call in ollama_calls(said))
    yield ollama_line({}, **ollama_end(said)), True


@dataclass(frozen=True)
class Wire:
    """One wire; `read` is what its requests mean, for a middle language as `same` leaves it."""

    provider: Provider
    whole: Callable[[Said], Json]
    events: Callable[[Said, random.Random], Iterator[tuple[bytes, bool]]]
    read: Callable[[Json], GenerationRequest]

    @property
    def backend(self) -> HttpBackend:
        # a server of one's own, which takes thoughts back
        made = make_backend(self.provider.name, Settings(openai_base_url="http://far.test/v1"))
        assert isinstance(made, HttpBackend)
        return made

    def stream(self, said: Said, luck: random.Random) -> tuple[bytes, int]:
        """Return a stream, and the number of its bytes from which on it's an answer."""
        events = list(self.events(said, luck))
        last = [is_last for _, is_last in events].index(True)
        whole = b"".join(data for data, _ in events)
        needed = len(b"".join(data for data, _ in events[: last + 1]))
        return whole, needed - (self.provider is OLLAMA)  # a line is whole without its end

    def __str__(self) -> str:
        return self.provider.name


WIRES = [
    Wire(OPENAI, openai_whole, openai_events, lambda body: CHAT.read(body).request),
    Wire(CLAUDE, claude_whole, claude_events, of_claude),
    Wire(OLLAMA, ollama_whole, ollama_events, of_ollama),
]
every_wire = pytest.mark.parametrize("wire", WIRES, ids=str)


def whole_of(wire: Wire, said: Said) -> Answer:
    """Return what our backend reads in a whole answer."""
    read = wire.backend.whole(json.loads(json.dumps(wire.whole(said))))
    return Answer.of([read] if isinstance(read, Chunk) else list(read), HEAD)


def read_stream(wire: Wire, data: bytes, luck: random.Random) -> list[Chunk]:
    """Return what our backend reads in a stream, which arrives in pieces of any size, with silence between them."""
    cuts = sorted(luck.randrange(len(data) + 1) for _ in range(5))
    parts = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    chunks = list(wire.backend.pieces(split_lines((part for some in parts for part in (some, b"")), Deadline(1))))
    return [chunk for chunk in chunks if chunk != Chunk()]


def parts_of(parts: tuple[Part, ...]) -> list[tuple[str, Any]]:
    """Return an answer's parts as Said has them."""
    found: list[tuple[str, Any]] = []
    for part in parts:
        if isinstance(part, ToolCall):
            found.append(("call", (part.name, json.loads(part.arguments or "{}"))))
        elif isinstance(part, Reasoning):
            found.append(("thought", part.text))
        else:
            assert isinstance(part, Text)
            found.append(("text", part.text))
    return found


def check_answer(wire: Wire, said: Said, got: Answer) -> None:
    assert parts_of(got.parts) == said.parts
    assert (got.usage.input_tokens, got.usage.output_tokens) == said.tokens
    # Ollama says `stop` where it calls; the exchange knows better
    assert got.finish_reason == ("stop" if wire.provider is OLLAMA and not said.is_cut else said.finish)


@every_wire
@few
@given(said=answers, luck=luckies)
def test_a_stream_is_the_whole(wire: Wire, said: Said, luck: random.Random) -> None:
    """A stream folds to what a whole answer is: parts, order, ids, arguments, reason and counts; calls count from 0."""
    whole = whole_of(wire, said)
    check_answer(wire, said, whole)
    chunks = read_stream(wire, wire.stream(said, luck)[0], luck)
    streamed = Answer.of(chunks, HEAD)
    check_answer(wire, said, streamed)
    assert [call.id for call in streamed.tool_calls] == [call.id for call in whole.tool_calls]
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    begun = [piece.index for chunk in chunks for piece in chunk.calls if piece.name]
    assert begun == list(range(len(said.calls)))


@every_wire
def test_silence_is_an_empty_chunk(wire: Wire) -> None:
    """So a front can keep its client's connection, before the first event and in the middle of one."""
    chunks = wire.backend.pieces(split_lines([b"", b"data: ", b"", b""], Deadline(1)))
    assert [next(chunks) for _ in range(3)] == [Chunk()] * 3


def check_cut(wire: Wire, data: bytes, needed: int, cut: int) -> None:
    """What is cut before the event that ends it never ends."""
    ends = []
    with suppress(InvalidAnswer, KeyError, TypeError, ValueError):  # `stream` makes an InvalidAnswer of the others
        ends = [
            chunk.finish_reason
            for chunk in wire.backend.pieces(split_lines([data[:cut]], Deadline(1)))
            if chunk.finish_reason
        ]
    assert bool(ends) == (cut >= needed), data[:cut]


@every_wire
@few
@given(said=answers, luck=luckies)
def test_a_cut_stream(wire: Wire, said: Said, luck: random.Random) -> None:
    """A stream that is cut anywhere is no complete answer."""
    data, needed = wire.stream(said, luck)
    for _ in range(10):
        check_cut(wire, data, needed, luck.randrange(len(data)))
    for cut in (needed - 1, needed, len(data)):
        check_cut(wire, data, needed, cut)


@every_wire
def test_a_stream_cut_at_every_byte(wire: Wire) -> None:
    """One with a thought, a text and two calls."""
    calls = [("call_0", "get", {"city": "Zürich"}), ("call_1", "now", {})]
    data, needed = wire.stream(Said("hm", "Let's see… ", calls, False, (1, 2)), random.Random(1))
    for cut in range(len(data) + 1):
        check_cut(wire, data, needed, cut)


# What our front writes, read as a provider's


@few
@given(said=answers, luck=luckies)
def test_our_own_answers(said: Said, luck: random.Random) -> None:
    """An answer that our front for OpenAI's clients writes, whole or streamed, is read as what it was."""
    wire = WIRES[0]
    chunks = list(wire.backend.pieces(split_lines([wire.stream(said, luck)[0]], Deadline(1))))
    answer = Answer.of(chunks, HEAD)
    asked = replace(CHAT.read({"model": "m", "messages": [{"role": "user", "content": "Hi"}]}), shows=True)
    whole = wire.backend.whole(CHAT.whole(answer, asked))
    assert isinstance(whole, Chunk)
    streamed = "".join(CHAT.pieces(HEAD, iter(chunks), asked)).encode()
    again = Answer.of(list(wire.backend.pieces(split_lines([streamed], Deadline(1)))), HEAD)
    for got in (Answer.of([whole], HEAD), again):
        assert (got.parts, got.finish_reason, got.usage) == (answer.parts, answer.finish_reason, answer.usage)


# Requests: written by a backend, and read again


PICTURE = Image("image/png", "iVBORw0KGgo=")
schemas = st.just({"type": "object", "properties": {"a": {"type": "string"}}})
tools = st.lists(st.builds(Tool, names, st.none() | words, schemas), max_size=3, unique_by=lambda tool: tool.name)


@st.composite
def requests(draw: st.DrawFn) -> GenerationRequest:
    """Return a request with a conversation in which each call is answered, and the user has the last word."""
    messages = [Message.of("system", draw(words))] if draw(st.booleans()) else []
    for turn in range(draw(st.integers(0, 2))):
        ids = [f"call_{turn}_{number}" for number in range(draw(st.integers(0, 2)))]
        calls = [ToolCall(number, draw(names), json.dumps(draw(arguments))) for number in ids]
        thoughts = [Reasoning(draw(words), "c2ln", made_by="claude")] if draw(st.booleans()) else []
        said = [Text(draw(words))] if draw(st.booleans()) or not calls else []
        seen = [PICTURE] if draw(st.booleans()) else []
        messages += [Message("user", (Text(draw(words)), *seen)), Message("assistant", (*thoughts, *said, *calls))]
        messages += [Message("tool", (ToolResult(number, (Text(draw(words)),)),)) for number in ids]
    offered = tuple(draw(tools))
    named = [ToolChoice("required"), ToolChoice("named", offered[0].name)] if offered else []
    return GenerationRequest(
        (*messages, Message.of("user", draw(words))),
        model="m",
        max_tokens=draw(st.integers(1, 1000)),
        temperature=draw(st.none() | st.floats(0, 1)),
        response_format=draw(st.none() | st.just(ResponseFormat({"type": "object"}))),
        tools=offered,
        tool_choice=draw(st.sampled_from([ToolChoice(), *named])),
        stream=draw(st.booleans()),
    )


def kept(request: GenerationRequest, wire: Wire) -> GenerationRequest:
    """Return what the wire can say of a request, without what its front has of its own."""
    wanted = request.response_format and ResponseFormat(request.response_format.schema)
    messages = tuple(replace(m, parts=tuple(part for part in m.parts if can_say(wire, part))) for m in request.messages)
    said = replace(request, messages=messages, response_format=wanted)
    if wire.provider is not OLLAMA:
        return said
    ids = [part.id for message in messages for part in message.parts if isinstance(part, ToolCall)]
    return replace(said, messages=tuple(as_ollama(message, ids) for message in messages))


def can_say(wire: Wire, part: Part) -> bool:
    """Signed thoughts go back only to who signed them; an empty text says nothing."""
    return part != Text("") and (wire.provider is CLAUDE or not isinstance(part, Reasoning))


def as_ollama(message: Message, ids: list[str]) -> Message:
    """Return the message with the places of its calls in place of their ids, and pictures of no kind."""

    def changed(part: Part) -> Part:
        match part:
            case ToolCall():
                return replace(part, id=str(ids.index(part.id)))
            case ToolResult():
                return replace(part, call_id=str(ids.index(part.call_id)))
            case Image():
                return replace(part, media_type=None)
        return part

    return replace(message, parts=tuple(map(changed, message.parts)))


@every_wire
@few
@given(request=requests())
def test_a_request_is_read_as_it_was_written(wire: Wire, request: GenerationRequest) -> None:
    """Messages, thoughts, calls, results, tools, choice and parameters, but for what a wire has no words for."""
    if wire.provider is OLLAMA and request.tools:  # where a choice is forced by a format
        request = replace(request, tool_choice=ToolChoice(), response_format=None)
    written = json.loads(json.dumps(wire.backend.payload(request)))
    assert kept(wire.read(written), wire) == kept(request, wire)
