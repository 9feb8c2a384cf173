"""Tools: what clients say of them, what OpenAI's wire makes of it, and that a choice is kept or the answer refused."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
from asking import Log, Serve, ask, error_of, lines_of, outcomes, read_events
from fakes import Fake
from providers import (
    CLAUDE,
    OLLAMA,
    OPENAI,
    FarEnd,
    Provider,
    claude_answer,
    delta,
    event,
    openai_answer,
    openai_stream,
    openai_usage,
)

from llm_api import LLMAPI
from llm_api.backends.told import told, with_call
from llm_api.errors import Unreachable
from llm_api.types import (
    CallPiece,
    Chunk,
    GenerationRequest,
    Message,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

CHAT = "/v1/chat/completions"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Looks.", "parameters": CITY}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
NAMED = {"type": "function", "function": {"name": "clock"}}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(8)).decode()
PARIS = '{"city": "Paris"}'
TOOLS = (Tool("weather", "Looks.", CITY), Tool("clock"))
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": PARIS}}


class Skilled(Fake):
    """A fake that serves everything."""

    serves = frozenset({"json_object", "json_schema", "tools", "tool_choice", "images"})


def called(*pieces: CallPiece, finish: str | None = "tool_calls") -> list[Chunk]:
    return [*(Chunk(calls=(piece,)) for piece in pieces), Chunk("", finish)]


def weather(index: int = 0, call_id: str = "call_1", arguments: str = PARIS) -> CallPiece:
    return CallPiece(index, call_id, "weather", arguments)


def calls_of(message: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]


def streamed_calls(data: bytes) -> list[list[str]]:
    """Put a stream's calls together as its clients do: by their index."""
    calls: list[list[str]] = []
    for said in read_events(data)[:-1]:
        for choice in said["choices"]:
            for piece in choice["delta"].get("tool_calls", ()):
                if piece["index"] == len(calls):
                    calls.append([piece["id"], piece["function"]["name"], ""])
                    assert piece["type"] == "function"
                calls[piece["index"]][2] += piece["function"]["arguments"]
    return calls


@pytest.mark.parametrize(
    ("said", "tools", "choice"),
    [
        ({}, TOOLS, ToolChoice()),
        ({"tool_choice": "auto", "parallel_tool_calls": False}, TOOLS, ToolChoice(parallel=False)),
        ({"tool_choice": "none"}, TOOLS, ToolChoice("none")),
        ({"tool_choice": "required"}, TOOLS, ToolChoice("required")),
        ({"tool_choice": "any"}, TOOLS, ToolChoice("required")),
        ({"tool_choice": {"type": "auto"}}, TOOLS, ToolChoice()),
        ({"tool_choice": NAMED}, TOOLS, ToolChoice("named", "clock")),
        (
            {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}},
            TOOLS[1:],
            ToolChoice("required"),
        ),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/generate"])
def test_tools_and_their_choice(
    serve: Serve, path: str, said: dict[str, Any], tools: tuple[Tool, ...], choice: ToolChoice
) -> None:
    """Both routes take tools and every kind of choice, in OpenAI's words."""
    answer = [Chunk("Hi", "stop")] if not choice.is_forced else called(CallPiece(0, "c", "clock", "{}"))
    fake = Skilled("one", *answer)
    assert ask(serve(fake), path, tools=[WEATHER, CLOCK], **said).status_code == 200
    assert (fake.asked[0].tools, fake.asked[0].tool_choice) == (tools, choice)


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": [WEATHER], "tool_choice": NAMED}, "tool_choice"),
        *(
            ({"tools": [WEATHER], "tool_choice": said}, "tool_choice")
            for said in (
                "sometimes",
                "function",
                {"type": "tool"},
                {"type": "allowed"},
                {"type": ["auto"]},
                {},
                1,
                ["auto"],
            )
        ),
        *(
            ({"tools": [WEATHER], "tool_choice": {"type": "allowed_tools"} | said}, "tool_choice")
            for said in (
                {},
                {"allowed_tools": {"mode": "auto", "tools": {}}},
                {"allowed_tools": {"mode": "auto", "tools": [{"type": {}}]}},
                {"allowed_tools": {"mode": "required", "tools": []}},
            )
        ),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL | {"id": ""}]}]}, "messages"),
        ({"messages": [{"role": "assistant", "tool_calls": [CALL | {"type": "custom"}]}]}, "messages"),
    ],
)
def test_what_cant_be_kept_is_refused(serve: Serve, said: dict[str, Any], param: str) -> None:
    """Tools of kinds that no backend has, and choices that can't be kept, are a 400 that names the field."""
    fake = Skilled("one")
    reply = ask(serve(fake), CHAT, **said)
    assert (reply.status_code, error_of(reply)["param"], fake.asked) == (400, param, [])


HISTORY = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "Hm."},
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "rain"}]},
]


def test_history(serve: Serve, log_lines: Log) -> None:
    """Calls, results and thoughts of earlier turns come to the backend as parts, and to the log."""
    fake = Skilled("one", Chunk("Take an umbrella.", "stop"))
    assert ask(serve(fake), CHAT, messages=HISTORY, tools=[WEATHER]).status_code == 200
    _, assistant, tool = fake.asked[0].messages
    assert assistant.parts == (Reasoning("Hm."), Text(""), ToolCall("call_1", "weather", PARIS))
    assert tool == Message("tool", (ToolResult("call_1", (Text("rain"),)),))
    (line,) = log_lines()
    assert line["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_1", "name": "weather", "arguments": PARIS}],
            "reasoning": "Hm.",
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_calls_come_through(serve: Serve, log_lines: Log, stream: bool) -> None:
    """Thoughts, text and calls of an answer reach the client, whole or in pieces, and the log; the reason says so."""
    pieces = [CallPiece(0, "call_1", "weather", '{"city"'), CallPiece(0, arguments=': "Paris"}')]
    beside = [Chunk(reasoning=(Reasoning("Hm", made_by="one"),)), Chunk("I look.")]
    fake = Skilled("one", *beside, *called(*pieces, CallPiece(1, "call_2", "clock", "{}"), finish="stop"))
    reply = ask(serve(fake), CHAT, tools=[WEATHER, CLOCK], stream=stream)
    expected = [("call_1", "weather", PARIS), ("call_2", "clock", "{}")]
    if stream:
        assert streamed_calls(reply.data) == [list(call) for call in expected]
        choices = [each["choices"][0] for each in read_events(reply.data)[:-1]]
        assert "".join(choice["delta"].get("reasoning_content", "") for choice in choices) == "Hm"
        assert choices[-1]["finish_reason"] == "tool_calls"
    else:
        (choice,) = reply.json["choices"]
        assert calls_of(choice["message"]) == expected
        assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("I look.", "Hm")
        assert choice["finish_reason"] == "tool_calls"
    (line,) = log_lines()
    names = ("id", "name", "arguments")
    assert [tuple(call[name] for name in names) for call in line["tool_calls"]] == expected
    assert (line["reasoning"], line["response"], line["schema_version"]) == ("Hm", "I look.", 2)
    assert (line["tools"], line["tool_choice"]) == (["weather", "clock"], "auto")


@pytest.mark.parametrize("stream", [False, True])
def test_generate_shows_calls(serve: Serve, stream: bool) -> None:
    """/generate has the calls in its details, which are there without asking: else they would be lost."""
    fake = Skilled("one", *called(weather()))
    reply = ask(serve(fake), tools=[WEATHER], stream=stream)
    last = lines_of(reply)[-1] if stream else reply.json
    assert last["details"]["tool_calls"] == [{"id": "call_1", "name": "weather", "arguments": PARIS}]
    assert last["details"]["finish_reason"] == "tool_calls"


def test_claude_blocks_come_back(serve: Serve) -> None:
    """What only Claude can read leaves as it came, and is Claude's when the client sends it back."""
    thought = Reasoning("Hm", "sig", None, "claude")
    hidden = Reasoning(data="xyz", made_by="claude")
    fake = Skilled("one", Chunk("Hi", "stop", reasoning=(thought, hidden)))
    client = serve(fake)
    said = ask(client, CHAT).json["choices"][0]["message"]
    assert said["thinking_blocks"] == [
        {"type": "thinking", "thinking": "Hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "xyz"},
    ]
    ask(client, CHAT, messages=[HISTORY[0], said, HISTORY[0]])
    assert fake.asked[1].messages[1].parts == (thought, hidden, Text("Hi"))


def test_claude_blocks_in_a_stream(serve: Serve) -> None:
    """They are whole there too, each once it has ended, and numbered: OpenAI's client joins lists by `index`."""
    said = [{"text": "H"}, {"text": "m"}, {"signature": "sig"}, {"data": "xyz"}, {"text": "So"}, {"signature": "2"}]
    chunks = [Chunk(reasoning=(Reasoning(**piece, made_by="claude"),)) for piece in said]
    reply = ask(serve(Skilled("one", *chunks, Chunk("Hi", "stop"))), CHAT, stream=True)
    deltas = [event["choices"][0]["delta"] for event in read_events(reply.data)[:-1]]
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["H", "m", "So"]
    assert [delta["thinking_blocks"] for delta in deltas if "thinking_blocks" in delta] == [
        [{"index": 0, "type": "thinking", "thinking": "Hm", "signature": "sig"}],
        [{"index": 1, "type": "redacted_thinking", "data": "xyz"}],
        [{"index": 2, "type": "thinking", "thinking": "So", "signature": "2"}],
    ]


Turn = Sequence[Chunk]
NOT_KEPT: dict[str, tuple[dict[str, Any], Turn]] = {
    "text for required": ({"tool_choice": "required"}, [Chunk("No."), Chunk("", "stop")]),
    "a text cut for required": ({"tool_choice": "required"}, [Chunk("No, I"), Chunk("", "length")]),
    "nothing for named": ({"tool_choice": NAMED}, [Chunk("", "stop")]),
    "another for named": ({"tool_choice": NAMED}, called(weather())),
    "a call for none": ({"tool_choice": "none"}, called(weather())),
    "a reason without a call": ({}, [Chunk("", "tool_calls")]),
    "a call without a name": ({}, called(CallPiece(0, "call_1"))),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("said", "turn"), NOT_KEPT.values(), ids=NOT_KEPT)
def test_a_choice_is_kept_or_the_next_is_asked(
    serve: Serve, log_lines: Log, stream: bool, said: dict[str, Any], turn: Turn
) -> None:
    """An answer that does not keep to the choice is a failure, and no piece of it leaves: the next is asked."""
    name = "clock" if said.get("tool_choice") == NAMED else "weather"
    right = [Chunk("Hi", "stop")] if said.get("tool_choice") == "none" else called(CallPiece(0, "call_2", name, "{}"))
    reply = ask(
        serve(Skilled("one", *turn), Skilled("two", *right)), CHAT, tools=[WEATHER, CLOCK], stream=stream, **said
    )
    assert (reply.status_code, reply.headers["X-LLM-Fallback"]) == (200, "invalid_answer")
    assert outcomes(log_lines()[0]) == [("one", "invalid_answer"), ("two", "ok")]
    assert b"No" not in reply.data


@pytest.mark.parametrize(
    ("turn", "reason", "count"),
    [
        (called(weather(arguments='{"ci'), finish="length"), "length", 1),
        ([Chunk(reasoning=(Reasoning("Hm"),)), Chunk("", "length")], "length", 0),
        ([Chunk(refusal="No.", finish_reason="stop")], "stop", 0),
        ([Chunk("", "content_filter")], "content_filter", 0),
    ],
)
def test_what_is_cut_or_refused_is_said(serve: Serve, turn: Turn, reason: str, count: int) -> None:
    """A call that the limit cuts is delivered as that; thoughts alone, a refusal and a filter end for their reasons."""
    reply = ask(serve(Skilled("one", *turn)), CHAT, tools=[WEATHER], tool_choice="required")
    (choice,) = reply.json["choices"]
    assert (choice["finish_reason"], len(choice["message"].get("tool_calls", ()))) == (reason, count)


def test_ids(serve: Serve) -> None:
    """A call without an id gets one, and so does one that has another's; those that tell apart stay."""
    turn = called(weather(0, ""), weather(1, "a"), weather(2, "a"), finish="stop")
    message = ask(serve(Skilled("one", *turn)), CHAT, tools=[WEATHER]).json["choices"][0]["message"]
    ids = [call[0] for call in calls_of(message)]
    assert (len(set(ids)), ids[1]) == (3, "a")
    assert all(made.startswith("call_") and len(made) == 29 for made in (ids[0], ids[2]))


def test_one_call_at_most(serve: Serve) -> None:
    """With parallel_tool_calls false the calls behind the first are left out, where the backend makes them anyway."""
    turn = called(weather(), weather(1, "b"), CallPiece(1, arguments=" "))
    reply = ask(serve(Skilled("one", *turn)), CHAT, tools=[WEATHER], parallel_tool_calls=False)
    assert calls_of(reply.json["choices"][0]["message"]) == [("call_1", "weather", PARIS)]


def test_a_call_is_no_json(serve: Serve) -> None:
    """An answer of calls is held against no response_format."""
    fake = Skilled("one", *called(weather()))
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array"}}}
    assert ask(serve(fake), CHAT, tools=[WEATHER], response_format=wanted).status_code == 200


def test_who_lacks_what_is_not_asked(serve: Serve, log_lines: Log) -> None:
    """A backend that lacks what a request needs is passed over, with that as the reason; its breaker stays shut."""
    blind, skilled = Fake("one"), Skilled("two", *called(weather()))
    reply = ask(serve(blind, skilled), CHAT, tools=[WEATHER])
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Fallback"]) == ("two", "unsupported")
    assert (blind.asked, outcomes(log_lines()[0])) == ([], [("one", "unsupported"), ("two", "ok")])


@pytest.mark.parametrize("said", [{"fallback": False}, {}])
def test_nobody_left(serve: Serve, said: dict[str, Any]) -> None:
    """Where every backend lacks it, the request is wrong for this service: 400, with who lacks what."""
    reply = ask(serve(Fake("one"), Fake("two")), CHAT, tools=[WEATHER], **said)
    error = error_of(reply)
    assert (reply.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", "tools")
    assert error["message"].startswith("one does not serve tools")
    assert ("two does not serve tools" in error["message"]) is not said


def test_a_failure_counts_more(serve: Serve) -> None:
    """Where the one that could serve it is down, that is the answer, not a 400."""
    down = Skilled("two", turns=[(Unreachable("two can't be reached"),)] * 9)
    reply = ask(serve(Fake("one"), down), CHAT, tools=[WEATHER])
    assert (reply.status_code, error_of(reply)["code"]) == (503, "unreachable")


def test_hidden_prompts_hide_all_of_it(serve: Serve, log_lines: Log) -> None:
    """With LOG_PROMPTS=false neither arguments nor results nor thoughts are in the log."""
    fake = Skilled("one", Chunk(reasoning=(Reasoning("thoughtful"),)), *called(weather(arguments='{"city": "Oslo"}')))
    ask(serve(fake, log_prompts=False), CHAT, messages=HISTORY, tools=[WEATHER])
    text = json.dumps(log_lines())
    assert [word for word in ("Paris", "rain", "Hm.", "thoughtful", "Oslo") if word in text] == []
    assert '"arguments_sha256"' in text


def test_the_stub(make_client: Serve) -> None:
    """The stub answers text, and where it has to call a tool, one call that fits, marked as a stub's."""
    client = make_client(llm_backend="stub")
    assert "[stub]" in ask(client, CHAT, tools=[WEATHER]).json["choices"][0]["message"]["content"]
    nested = {"$defs": {"Kind": {"enum": ["a", "b"]}}, "required": ["kind", "n", "list"], "properties": {}}
    nested["properties"] = {
        "kind": {"$ref": "#/$defs/Kind"},
        "n": {"type": "integer", "minimum": 3},
        "list": {"type": "array"},
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": nested}}
    reply = ask(client, CHAT, tools=[WEATHER, tool], tool_choice={"type": "function", "function": {"name": "f"}})
    ((call_id, name, arguments),) = calls_of(reply.json["choices"][0]["message"])
    assert (call_id[:10], name) == ("call_stub_", "f")
    assert json.loads(arguments) == {"kind": "a", "n": 3, "list": []}


NODE = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "next": {"$ref": "#"}}}
FITTED: dict[str, dict[str, Any]] = {
    "above": {"type": "integer", "exclusiveMinimum": 0},
    "below": {"type": "integer", "maximum": -3},
    "between": {"type": "number", "exclusiveMinimum": 0.1, "exclusiveMaximum": 0.2},
    "negative": {"type": "number", "exclusiveMaximum": 0},
    "multiple": {"type": "integer", "multipleOf": 5, "minimum": 7},
    "length": {"type": "string", "minLength": 7, "maxLength": 7},
    "short": {"type": "string", "maxLength": 2},
    "choice": {"enum": ["x", "y"]},
    "nullable": {"anyOf": [{"type": "null"}, {"type": "string"}]},
    "types": {"type": ["string", "null"]},
    "items": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2},
    "tuple": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "boolean"}], "minItems": 2},
    "anything": True,  # type: ignore[dict-item]
    "referred": {"allOf": [{"$ref": "#/$defs/Node"}], "description": "x"},
    "old": {"$ref": "#/definitions/Old"},
    "both": {"allOf": [NODE, {"required": ["size"], "properties": {"size": {"type": "integer"}}}]},
    "either": {
        "type": "object",
        "properties": {"a": {"const": 1}},
        "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "unsaid": {"type": "object", "required": ["a"]},
}


@pytest.mark.parametrize("name", FITTED)
def test_the_stubs_call_fits(make_client: Serve, name: str) -> None:
    """The arguments of its one call fit the schema, whatever the schema asks for."""
    parameters = {
        **{"type": "object", "properties": {name: FITTED[name]}, "required": [name]},
        **{"$defs": {"Node": NODE}, "definitions": {"Old": {"type": "boolean"}}},
    }
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    reply = ask(make_client(llm_backend="stub"), CHAT, tools=[tool], tool_choice="required")
    ((_, _, arguments),) = calls_of(reply.json["choices"][0]["message"])
    jsonschema.validate(json.loads(arguments), parameters)


TWICE = {
    n: {"required": ["a", "b"], "properties": {key: {"$ref": f"#/$defs/{n + 1}"} for key in "ab"}} for n in range(60)
}


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "strange"},
        {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#/nowhere"}}},
        {"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "pattern": "^[0-9]{3}$"}}},
        {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer", "minimum": 2, "maximum": 1}}},
        {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#/properties/a"}}},
        {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer", "multipleOf": 0, "minimum": 1}}},
        {"type": "object", "required": ["a"], "properties": {"a": False}},
        {"type": "array", "minItems": 10**9},
        {"type": "array", "minItems": 10**19},
        {"type": "array", "minItems": 10**4, "items": {"type": "array", "minItems": 10**4}},
        {"type": "string", "minLength": 10**10},
        {"type": "string", "minLength": 10**19},
        {"$ref": "#/$defs/0", "$defs": TWICE | {60: {"type": "null"}}},
        {"type": "array", "minItems": 10**3, "items": {"const": "x" * 10**4}},
        {"type": "array", "minItems": 10**3, "items": {"required": ["x" * 10**4], "properties": {}}},
    ],
    ids=[
        *("strange", "nowhere", "pattern", "nothing fits", "itself", "of nothing", "never"),
        "list",
        "longer list",
        "lists",
        "text",
        "longer text",
        "twice as much in each",
        "the same text",
        "the same name",
    ],
)
def test_what_the_stub_cant_call(make_client: Serve, parameters: dict[str, Any]) -> None:
    """What fits can't be made, or fills the memory, of a small schema: that is refused, and costs nothing."""
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    reply = ask(make_client(llm_backend="stub"), CHAT, tools=[tool], tool_choice="required")
    assert (reply.status_code, error_of(reply)["param"]) == (400, "tools")


def test_replay(make_client: Serve, serve: Serve, tmp_path: Any) -> None:
    """A recorded call is given again to the same conversation with the same tools, and to no other."""
    fake = Skilled("one", *called(weather()))
    log = tmp_path / "recorded.jsonl"
    ask(serve(fake, log_file=str(log)), CHAT, messages=HISTORY, tools=[WEATHER])
    again = make_client(llm_backend="replay", replay_file=str(log), log_file=str(tmp_path / "log.jsonl"))
    message = ask(again, CHAT, messages=HISTORY, tools=[WEATHER]).json["choices"][0]["message"]
    assert calls_of(message) == [("call_1", "weather", PARIS)]
    other = [*HISTORY[:2], HISTORY[2] | {"content": "sun"}]
    assert ask(again, CHAT, messages=other, tools=[WEATHER]).status_code == 400


# What OpenAI's wire is sent.
@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ({}, {}),
        ({"tool_choice": "none"}, {"tool_choice": "none"}),
        ({"tool_choice": NAMED, "parallel_tool_calls": True}, {"tool_choice": NAMED, "parallel_tool_calls": True}),
    ],
)
def test_openai_is_sent_tools(make_client: Serve, far_end: FarEnd, said: dict[str, Any], sent: dict[str, Any]) -> None:
    """Tools, calls and results leave for OpenAI as they came, and thoughts stay here."""
    answer = openai_answer(None) if said.get("tool_choice") != NAMED else None
    message = {"content": None, "tool_calls": [CALL | {"function": {"name": "clock", "arguments": ""}}]}
    far_end.post(OPENAI.url, json=answer or openai_answer(None, message=message, finish_reason="stop"))
    client = make_client(**OPENAI.settings)
    assert ask(client, CHAT, messages=HISTORY, tools=[WEATHER, CLOCK], **said).status_code == 200
    body = json.loads(far_end.calls[0].request.body)
    assert body["tools"] == [WEATHER, CLOCK]
    assert {name: body[name] for name in ("tool_choice", "parallel_tool_calls") if name in body} == sent
    assert body["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]


def call_delta(**said: Any) -> bytes:
    function = {name: said.pop(name) for name in ("name", "arguments") if name in said}
    return calls_delta({"function": function} | said)


def calls_delta(*calls: dict[str, Any]) -> bytes:
    return event({"choices": [{"index": 0, "delta": {"tool_calls": calls}}]})


CLOCK_CALL = ["b", "clock", "{}"]
WEATHER_CALL = ["a", "weather", PARIS]
# How servers are known to stream calls (dialects.md 1.2 and 5): the pieces, and the calls that they are.
STREAMED: dict[str, tuple[list[bytes], list[list[str]]]] = {
    "OpenAI's": (
        [
            call_delta(index=0, id="a", type="function", name="weather", arguments=""),
            call_delta(index=0, arguments='{"city"'),
            call_delta(index=0, arguments=': "Paris"}'),
            call_delta(index=1, id="b", type="function", name="clock", arguments="{}"),
        ],
        [WEATHER_CALL, CLOCK_CALL],
    ),
    "whole calls": (
        [
            call_delta(index=0, id="a", name="weather", arguments=PARIS),
            call_delta(index=1, id="b", name="clock", arguments="{}"),
        ],
        [WEATHER_CALL, CLOCK_CALL],
    ),
    "index 0 for all": (
        [
            call_delta(index=0, id="a", name="weather", arguments=PARIS),
            call_delta(index=0, id="b", name="clock", arguments="{}"),
        ],
        [WEATHER_CALL, CLOCK_CALL],
    ),
    "no index": (
        [
            call_delta(id="a", name="weather", arguments='{"city": '),
            call_delta(arguments='"Paris"}'),
            call_delta(id="b", name="clock", arguments="{}"),
        ],
        [WEATHER_CALL, CLOCK_CALL],
    ),
    "id and name each time": (
        [
            call_delta(index=0, id="a", name="weather", arguments='{"city": '),
            call_delta(index=0, id="a", name="weather", arguments='"Paris"}'),
        ],
        [WEATHER_CALL],
    ),
    "the name each time": (
        [
            call_delta(index=0, id="a", name="weather", arguments=""),
            call_delta(index=0, name="weather", arguments='{"city": '),
            call_delta(index=0, name="weather", arguments='"Paris"}'),
        ],
        [WEATHER_CALL],
    ),
    "an empty id later": (
        [
            call_delta(index=0, id="a", name="weather", arguments='{"city": '),
            call_delta(index=0, id="", arguments='"Paris"}'),
        ],
        [WEATHER_CALL],
    ),
    "mixed": (
        [
            call_delta(index=0, id="a", name="weather", arguments='{"city": '),
            call_delta(index=1, id="b", name="clock", arguments=""),
            call_delta(index=0, arguments='"Paris"}'),
            call_delta(index=1, arguments="{}"),
        ],
        [WEATHER_CALL, CLOCK_CALL],
    ),
    "from index 1": ([call_delta(index=1, id="a", name="weather", arguments=PARIS)], [WEATHER_CALL]),
    "the name later": (
        [call_delta(index=0, id="a", arguments=""), call_delta(index=0, name="weather", arguments=PARIS)],
        [WEATHER_CALL],
    ),
    "arguments as an object": (
        [call_delta(index=0, id="a", name="weather", arguments={"city": "Paris"})],
        [WEATHER_CALL],
    ),
    "another id later": (  # Poolside's
        [
            call_delta(index=0, id="a", name="weather", arguments='{"city": '),
            call_delta(index=0, id="x", arguments='"Par'),
            call_delta(index=0, id="y", arguments='is"}'),
        ],
        [WEATHER_CALL],
    ),
    "another index later": (  # Nebius's
        [
            call_delta(index=0, id="a", name="weather", arguments='{"city": '),
            call_delta(index=1, arguments='"Par'),
            call_delta(index=2, arguments='is"}'),
        ],
        [WEATHER_CALL],
    ),
    "ids and no index": (
        [
            call_delta(id="a", name="weather", arguments='{"city": '),
            call_delta(id="b", name="clock", arguments=""),
            call_delta(id="a", arguments='"Paris"}'),
            call_delta(id="b", arguments="{}"),
        ],
        [WEATHER_CALL, CLOCK_CALL],
    ),
    "several in one": (
        [
            calls_delta(
                {"index": 1, "id": "a", "function": {"name": "weather", "arguments": '{"city": '}},
                {"index": 0, "id": "b", "function": {"name": "clock", "arguments": ""}},
            ),
            calls_delta({"index": 1, "function": {"arguments": '"Paris"}'}}, {"index": 0, "function": {}}),
            calls_delta({"index": 0, "function": {"arguments": "{}"}}),
        ],
        [WEATHER_CALL, CLOCK_CALL],
    ),
    "no function later": (
        [
            call_delta(index=0, id="a", name="weather", arguments=PARIS),
            calls_delta({"index": 0}, {"index": 0, "function": None}, {"index": 5, "type": "function"}),
            calls_delta(),
        ],
        [WEATHER_CALL],
    ),
    "the first is named last": (
        [
            call_delta(index=0, id="b", arguments=""),
            call_delta(index=1, id="a", name="weather", arguments=PARIS),
            call_delta(index=0, id="b", name="clock", arguments="{}"),
        ],
        [WEATHER_CALL, CLOCK_CALL],
    ),
    "arguments that are null": ([call_delta(index=0, id="b", name="clock", arguments=None)], [["b", "clock", ""]]),
}


@pytest.mark.parametrize(("pieces", "calls"), STREAMED.values(), ids=STREAMED)
def test_streamed_calls_are_told_apart(
    make_client: Serve, far_end: FarEnd, pieces: list[bytes], calls: list[list[str]]
) -> None:
    """However a server numbers the pieces, no call is merged, lost or invented, and ours count from 0."""
    body = b"".join([delta(""), *pieces, delta(None, "tool_calls"), openai_usage(), event("[DONE]")])
    far_end.post(OPENAI.url, body=body, content_type="text/event-stream")
    reply = ask(make_client(**OPENAI.settings), CHAT, tools=[WEATHER, CLOCK], stream=True)
    assert streamed_calls(reply.data) == calls


NAMELESS = {
    "never named": {"index": 1, "id": "b", "function": {"arguments": "{}"}},
    "an empty name": {"index": 1, "id": "b", "type": "function", "function": {"name": "", "arguments": "{}"}},
    "nothing but an id": {"index": 1, "id": "b"},
    "nothing but arguments": {"index": 1, "function": {"arguments": '{"n": 1}'}},
}


@pytest.mark.parametrize("call", NAMELESS.values(), ids=NAMELESS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_call_without_a_name_is_not_lost(
    make_client: Serve, far_end: FarEnd, stream: bool, call: dict[str, Any]
) -> None:
    """Beside a good call, one that can't be passed on makes the answer a broken one."""
    first = {"index": 0, "id": "a", "function": {"name": "weather", "arguments": PARIS}}
    whole = openai_answer(None, message={"content": None, "tool_calls": [first, call]}, finish_reason="tool_calls")
    events = calls_delta(first) + calls_delta(call) + delta(None, "tool_calls") + event("[DONE]")
    far_end.post(OPENAI.url, body=events if stream else json.dumps(whole))
    reply = ask(make_client(**OPENAI.settings), CHAT, tools=[WEATHER, CLOCK], stream=stream)
    error = read_events(reply.data)[-1]["error"] if stream else error_of(reply)
    assert error["code"] == "invalid_answer"


def test_two_calls_without_ids(make_client: Serve, far_end: FarEnd) -> None:
    """Two whole calls that have the same index and no ids are two, with ids of ours."""
    pieces = [call_delta(index=0, name="weather", arguments=PARIS)] * 2
    body = b"".join([*pieces, delta(None, "tool_calls"), event("[DONE]")])
    far_end.post(OPENAI.url, body=body, content_type="text/event-stream")
    reply = ask(make_client(**OPENAI.settings), CHAT, tools=[WEATHER], stream=True)
    assert [call[1:] for call in streamed_calls(reply.data)] == [["weather", PARIS]] * 2


@pytest.mark.parametrize("end", [b"", delta(None, None)])
def test_a_cut_call_is_no_answer(make_client: Serve, far_end: FarEnd, log_lines: Log, end: bytes) -> None:
    """A stream that breaks off in a call ends with an error, whatever of it has left."""
    body = delta("") + call_delta(index=0, id="a", name="weather", arguments='{"ci') + end
    far_end.post(OPENAI.url, body=body, content_type="text/event-stream")
    reply = ask(make_client(**OPENAI.settings), CHAT, tools=[WEATHER], stream=True)
    assert read_events(reply.data)[-1]["error"]["code"] == "invalid_answer"
    assert log_lines()[0]["status"] == "error"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_have_three_names(make_client: Serve, far_end: FarEnd, name: str) -> None:
    """Each name of thoughts is read, whole and streamed; an empty or null one is none."""
    message = {"content": "4", name: "2 + 2"}
    far_end.post(OPENAI.url, json=openai_answer(None, message=message))
    pieces = [{name: "2 +"}, {name: " 2"}, {name: None, "content": "4"}]
    stream = b"".join(event({"choices": [{"index": 0, "delta": piece}]}) for piece in pieces)
    far_end.post(OPENAI.url, body=stream + openai_stream(), content_type="text/event-stream")
    client = make_client(**OPENAI.settings)
    said = ask(client, CHAT).json["choices"][0]["message"]
    assert (said["content"], said["reasoning_content"]) == ("4", "2 + 2")
    deltas = [each["choices"][0]["delta"] for each in read_events(ask(client, CHAT, stream=True).data)[:-1]]
    assert "".join(each.get("reasoning_content", "") for each in deltas) == "2 + 2"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}},
            {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}},
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "total_tokens": 14,
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            {"prompt_tokens": 9, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 3}},
        ),
        *(
            (
                {"prompt_tokens": 9, "completion_tokens": 5, name: 4},
                {"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}},
            )
            for name in ("prompt_cache_hit_tokens", "cached_tokens")
        ),
        (  # xAI's
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "total_tokens": 17,
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            {"prompt_tokens": 9, "completion_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 3}},
        ),
        (
            {
                "prompt_tokens": 9,
                "completion_tokens": 5,
                "prompt_tokens_details": None,
                "completion_tokens_details": [1],
            },
            {"prompt_tokens": 9, "completion_tokens": 5},
        ),
    ],
)
def test_usage_has_more(
    make_client: Serve, far_end: FarEnd, log_lines: Log, said: dict[str, Any], shown: dict[str, Any]
) -> None:
    """Cached and reasoning tokens are counted, in the answer and in the log; the output has all that was thought."""
    far_end.post(OPENAI.url, json=openai_answer("Hi") | {"usage": said})
    usage = ask(make_client(**OPENAI.settings), CHAT).json["usage"]
    total = shown["prompt_tokens"] + shown["completion_tokens"]
    assert usage == shown | {"total_tokens": total}
    line = log_lines()[0]
    cached = shown.get("prompt_tokens_details", {}).get("cached_tokens")
    assert (line["output_tokens"], line.get("cached_tokens")) == (shown["completion_tokens"], cached)


PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}


@pytest.mark.parametrize("after", [[], [{"role": "user", "content": "Well?"}]], ids=["last", "before a user's turn"])
def test_images_of_results_are_a_users(make_client: Serve, far_end: FarEnd, after: list[dict[str, Any]]) -> None:
    """OpenAI takes no image in a tool's message, and no message between those of a turn's tools: they follow all."""
    far_end.post(OPENAI.url, json=openai_answer("Hi"))
    calls = [CALL | {"id": name} for name in "abc"]
    results = [
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "a cat"}, PICTURE]},
        {"role": "tool", "tool_call_id": "a", "content": [PICTURE]},
        {"role": "tool", "tool_call_id": "b", "content": "rain"},
    ]
    asked = [{"role": "user", "content": "Look."}, {"role": "assistant", "tool_calls": calls}, *results, *after]
    assert ask(make_client(**OPENAI.settings), CHAT, messages=asked, tools=[WEATHER]).status_code == 200
    assert json.loads(far_end.calls[0].request.body)["messages"][2:] == [
        {"role": "tool", "tool_call_id": "c", "content": "a cat"},
        {"role": "tool", "tool_call_id": "a", "content": ""},
        {"role": "tool", "tool_call_id": "b", "content": "rain"},
        {"role": "user", "content": [PICTURE, PICTURE]},
        *after,
    ]


@pytest.mark.parametrize("provider", [OPENAI, OLLAMA], ids=str)
@pytest.mark.parametrize("said", ["", "no network", "Error: no network"])
def test_a_call_that_failed(make_client: Serve, far_end: FarEnd, provider: Provider, said: str) -> None:
    """Only Anthropic's wire has a word for it: elsewhere it is a text, or an empty result would be a success."""
    if provider is OLLAMA:
        far_end.post(f"{OLLAMA.base}/api/show", json={"capabilities": ["completion", "tools"]})
    far_end.post(provider.url, json=provider.answer("Hm."))
    use = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": said, "is_error": True}
    turns = [{"role": "user", "content": "Rain?"}, {"role": "assistant", "content": [use]}]
    turns.append({"role": "user", "content": [result]})
    reply = ask(make_client(**provider.settings), "/v1/messages", messages=turns)
    assert reply.status_code == 200
    words = said if said.startswith("Error") else f"Error: {said}"
    assert json.loads(far_end.calls[-1].request.body)["messages"][-1]["content"] == words


LONG = "mcp__plugin_chrome-devtools-mcp_chrome-devtools__get_console_message"


@pytest.mark.parametrize("name", [LONG, "files.read", "read/file", "Straße", "a b"])
@pytest.mark.parametrize("stream", [False, True])
def test_names_that_openai_does_not_take(make_client: Serve, far_end: FarEnd, stream: bool, name: str) -> None:
    """They leave as it takes them, in the tools, the choice and the history, and come back as they were."""

    def answer(request: Any) -> tuple[int, dict[str, str], bytes | str]:
        asked = json.loads(request.body)
        sent = asked["tools"][0]["function"]["name"]
        assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", sent)
        assert asked["tool_choice"]["function"]["name"] == sent
        assert asked["messages"][1]["tool_calls"][0]["function"]["name"] == sent
        call = {"index": 0, "id": "call_2", "type": "function", "function": {"name": sent, "arguments": "{}"}}
        if stream:
            return 200, {}, calls_delta(call) + delta(None, "tool_calls") + event("[DONE]")
        return 200, {}, json.dumps(openai_answer(None, message={"tool_calls": [call]}, finish_reason="tool_calls"))

    far_end.add_callback("POST", OPENAI.url, answer)
    called = CALL | {"function": {"name": name, "arguments": "{}"}}
    reply = ask(
        make_client(**OPENAI.settings),
        CHAT,
        messages=[HISTORY[0], HISTORY[1] | {"tool_calls": [called]}, HISTORY[2]],
        tools=[{"type": "function", "function": {"name": name}}, CLOCK],
        tool_choice={"type": "function", "function": {"name": name}},
        stream=stream,
    )
    assert reply.status_code == 200
    calls = streamed_calls(reply.data) if stream else calls_of(reply.json["choices"][0]["message"])
    assert [tuple(call) for call in calls] == [("call_2", name, "{}")]


def test_ids_that_are_too_long_for_openai(make_client: Serve, far_end: FarEnd) -> None:
    """OpenAI takes 40 characters; a call and its result keep the same id, and two calls two. Other servers get all."""
    ids = [f"chatcmpl-tool-{number:032x}" for number in (1, 2)]
    history = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "tool_calls": [CALL | {"id": number} for number in ids]},
        *({"role": "tool", "tool_call_id": number, "content": "rain"} for number in reversed(ids)),
    ]
    other = "http://far.test/v1"
    for base in (OPENAI.base, other):
        far_end.post(f"{base}{OPENAI.path}", json=openai_answer("Hi"))
        ask(make_client(**OPENAI.at(base)), CHAT, messages=history, tools=[WEATHER])
    for call, most in zip(far_end.calls, (40, 46), strict=True):
        _, assistant, *results = json.loads(call.request.body)["messages"]
        sent = [each["id"] for each in assistant["tool_calls"]]
        assert [each["tool_call_id"] for each in results] == sent[::-1]
        assert [len(number) for number in set(sent)] == [most] * 2


SIGNED = {"google": {"thought_signature": "c2lnbmVk"}}


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses"])
def test_what_stands_beside_a_call_goes_back(make_client: Serve, far_end: FarEnd, path: str) -> None:
    """Gemini refuses its calls without its signatures: clients send them back, through each front, and only there."""
    call = {"index": 0, "extra_content": SIGNED} | CALL
    events = calls_delta(call) + delta(None, "tool_calls") + event("[DONE]")
    base = "http://far.test/v1"
    far_end.post(f"{base}{OPENAI.path}", body=events)
    far_end.post(f"{base}{OPENAI.path}", json=openai_answer("It rains."))
    far_end.post(OPENAI.url, json=openai_answer("It rains."))
    client = make_client(**OPENAI.at(base))
    tools = {CHAT: WEATHER, "/v1/responses": {"type": "function", **WEATHER["function"]}}
    tool = tools.get(path, {"name": "weather", "input_schema": CITY})
    reply = ask(client, path, tools=[tool], stream=True)
    turns = next_turns(path, [json.loads(line[6:]) for line in reply.data.splitlines() if line.startswith(b"data: {")])
    for each in (client, make_client(**OPENAI.settings)):
        assert ask(each, path, tools=[tool], **turns).status_code == 200
    first, second = (json.loads(call.request.body)["messages"] for call in list(far_end.calls)[1:])
    assert first[1]["tool_calls"] == [CALL | {"extra_content": SIGNED}]
    assert second[1]["tool_calls"] == [CALL]


def next_turns(path: str, said: Any) -> dict[str, Any]:
    """Return the conversation with the call of a stream as it came, and its result."""
    asked, result = {"role": "user", "content": "Weather?"}, {"call_id": "call_1", "output": "rain"}
    if path == "/v1/responses":
        return {"input": [asked, *said[-1]["response"]["output"], {"type": "function_call_output", **result}]}
    if path == CHAT:
        (call,) = (call for each in said for call in each["choices"][0]["delta"].get("tool_calls", ()))
        called = {"role": "assistant", "tool_calls": [call]}
        return {"messages": [asked, called, {"role": "tool", "tool_call_id": "call_1", "content": "rain"}]}
    (block,) = (each["content_block"] for each in said if "content_block" in each)
    called = {"role": "assistant", "content": [block | {"input": {"city": "Paris"}}]}
    answer = {"type": "tool_result", "tool_use_id": "call_1", "content": "rain"}
    return {"messages": [asked, called, {"role": "user", "content": [answer]}]}


def test_what_stands_beside_a_call_of_a_whole_answer(make_client: Serve, far_end: FarEnd) -> None:
    """It is there too, and is no part of what /generate shows."""
    call = CALL | {"extra_content": SIGNED}
    far_end.post(OPENAI.url, json=openai_answer(None, message={"tool_calls": [call]}, finish_reason="tool_calls"))
    client = make_client(**OPENAI.settings)
    assert ask(client, CHAT, tools=[WEATHER]).json["choices"][0]["message"]["tool_calls"] == [call]
    shown = ask(client, tools=[WEATHER]).json["details"]["tool_calls"]
    assert shown == [{"id": "call_1", "name": "weather", "arguments": PARIS}]


def test_what_stands_beside_a_call_is_not_claudes(make_client: Serve, far_end: FarEnd) -> None:
    """A conversation that goes on with Claude after Gemini has nothing that Anthropic refuses."""
    far_end.post(CLAUDE.url, json=claude_answer("It rains."))
    block = {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Paris"}}
    turns = next_turns("/v1/messages", [{"content_block": block | {"extra_content": SIGNED}}])
    tool = {"name": "weather", "input_schema": CITY}
    assert ask(make_client(**CLAUDE.settings), "/v1/messages", tools=[tool], **turns).status_code == 200
    assert json.loads(far_end.calls[0].request.body)["messages"][1]["content"] == [block]


def test_a_loop_in_python(serve: Serve) -> None:
    """A host's next turn has the answer as it came, and the result of its call."""
    fake = Skilled("one", turns=[called(weather()), [Chunk("It rains.", "stop")]])
    app = serve(fake).application
    asked = {"role": "user", "content": "Weather?"}
    answer = LLMAPI.of(app).generate(messages=[asked], tools=[WEATHER], tool_choice="required")
    (call,) = answer.tool_calls
    assert (call.name, call.arguments, str(answer)) == ("weather", PARIS, "")
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    assert str(LLMAPI.of(app).generate(messages=[asked, answer, result], tools=[WEATHER])) == "It rains."
    assert fake.asked[1].messages[1].parts[-1] == ToolCall("call_1", "weather", PARIS)
    assert fake.asked[1].messages[2].parts == (ToolResult("call_1", (Text("rain"),)),)
    with pytest.raises(TypeError):
        LLMAPI.of(app).generate()


def test_what_is_served_is_shown(serve: Serve) -> None:
    """/config and /v1/models say what each backend can do beyond text."""
    client = serve(Skilled("one"), Fake("two"))
    everything = ["images", "json_object", "json_schema", "tool_choice", "tools"]
    assert client.get("/config").json["serves"] == {"one": everything, "two": ["json_object", "json_schema"]}
    assert [model["serves"] for model in client.get("/v1/models").json["data"]] == [everything]


def test_the_logs_readers_show_calls(make_app: Any, serve: Serve, tmp_path: Any) -> None:
    """`tail` shows the call where there is no text, `search` finds it, and no curl line pretends to have the tools."""
    log = tmp_path / "called.jsonl"
    ask(serve(Skilled("one", *called(weather())), log_file=str(log)), CHAT, tools=[WEATHER])
    run = make_app(log_file=str(log)).test_cli_runner().invoke
    (line,) = run(args=["llm", "logs", "search", "--text", "paris"]).output.splitlines()
    assert line.endswith("Hi -> weather " + PARIS)
    assert run(args=["llm", "logs", "search", "--text", "london"]).output == ""
    request_id = json.loads(log.read_text())["request_id"]
    assert "does not have the whole request" in run(args=["llm", "logs", "show", request_id, "--curl"]).output


@pytest.mark.parametrize(
    ("said", "name", "arguments"),
    [
        ('{"name": "weather", "arguments": {"city": "Paris"}}', "weather", PARIS),
        (' {"arguments" : {"a":\n1} , "name": "weather"}\n', "weather", '{"a":\n1}'),
        ('{"name": "a\\"b\\\\", "arguments": {}}', 'a"b\\', "{}"),
        ('{"name": "weather", "arguments": {}} and words', None, None),
        ('{"name": "weather", "arguments": {}} {"name": "weather", "arguments": {}}', None, None),
        ('{"name": "other", "arguments": {}}', None, None),
        ('{"name": "weather", "arguments": [1]}', None, None),
        ('{"name": "weather", "arguments": {"a": NaN}}', None, None),
        ('{"name": "weather"}', None, None),
        ('["weather"]', None, None),
    ],
)
def test_what_is_a_call_in_words(said: str, name: str | None, arguments: str | None) -> None:
    """A text is a call where all of it is one, of a tool that is there; else it stays the text that it is."""
    tools = (Tool("weather"), Tool('a"b\\'))
    (chunk,) = with_call(iter([Chunk(said, "stop")]), tools)
    expected = [CallPiece(0, "", name, arguments or "")] if name else []
    assert (list(chunk.calls), chunk.text) == (expected, "" if name else said)


@pytest.mark.parametrize(
    ("said", "name", "arguments"),
    [
        ('{"name": "weather", "arguments": {"ci', "weather", '{"ci'),
        ('{"name": "weather"', "weather", ""),
        ('{"arguments": {"ci', "weather", '{"ci'),
        ('{"na', None, None),
    ],
)
def test_the_beginning_of_a_call(said: str, name: str | None, arguments: str | None) -> None:
    """What the token limit cuts is as much of the call as there is."""
    (chunk,) = with_call(iter([Chunk(said, "length")]), (Tool("weather"),))
    assert list(chunk.calls) == ([CallPiece(0, "", name, arguments or "")] if name else [])


def test_a_result_that_is_a_picture(serve: Serve) -> None:
    """A tool may answer with a picture alone, and a client may say null for what it has not."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    call = {"id": "call_1", "type": None, "function": {"name": "look", "arguments": None}}
    turns = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": [picture]},
    ]
    fake = Skilled("one", Chunk("A cat.", "stop"))
    for messages in (turns, turns[1:]):
        assert ask(serve(fake), CHAT, messages=messages, tools=[WEATHER]).status_code == 200
    assert fake.asked[0].messages[0].parts[-1] == ToolCall("call_1", "look", "")


def test_what_a_model_without_tools_is_told() -> None:
    """Tools, calls and results are words to it; after a result there are no tools, or a small model calls for ever."""
    asked = Message.of("user", "Weather?")
    called_it = Message("assistant", (ToolCall("c", "weather", PARIS),))
    result = Message("tool", (ToolResult("c", (Text("rain"),)),))
    failed = Message("tool", (ToolResult("c", (Text("no network"),), is_error=True),))
    first = told(GenerationRequest((asked,), tools=TOOLS))
    assert (first.tools, first.messages[1:]) == ((), (asked,))
    assert all(word in str(first.system) for word in ("weather", "clock", "else answer in words"))
    must = told(GenerationRequest((asked,), tools=TOOLS, tool_choice=ToolChoice("named", "clock")))
    assert "clock" in str(must.system)
    assert "weather" not in str(must.system)
    then = told(GenerationRequest((asked, called_it, result), tools=TOOLS))
    said = [(message.role, message.content) for message in then.messages]
    assert said[1:] == [("assistant", f"Calling weather with {PARIS}."), ("user", "The result of weather is: rain")]
    assert then.system is None
    assert told(GenerationRequest((asked, called_it, failed))).messages[-1].content == "weather failed: no network"
