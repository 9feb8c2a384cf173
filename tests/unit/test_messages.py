"""Anthropic's Messages as a front, as the clients of docs/providers.md, 4, need it."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from anthropic.types import Message as TheirMessage
from anthropic.types import ModelInfo, RawMessageStreamEvent
from anthropic.types.shared import ErrorResponse
from asking import USER, Log, Serve, ask, error_of
from fakes import ANSWER, END, Fake
from providers import CLAUDE, FarEnd, claude_answer, claude_stream, sent
from pydantic import TypeAdapter
from werkzeug.test import TestResponse

from llm_api.dialects import anthropic
from llm_api.errors import (
    LLMAPIError,
    Overloaded,
    RateLimited,
    RequestRefused,
    ServerError,
    TimedOut,
    Unreachable,
)
from llm_api.rules import ApiKey
from llm_api.types import (
    NEEDS,
    CallPiece,
    Chunk,
    Image,
    Message,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
)

PATH = "/v1/messages"
EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
GIF = base64.b64encode(b"GIF89a").decode()
ADD = {"name": "add", "description": "Adds.", "input_schema": {"type": "object", "properties": {"a": {}}}}
CALLS = [
    Chunk(reasoning=(Reasoning("Hm"),)),
    Chunk(reasoning=(Reasoning("m.", "sig", made_by="claude"),)),
    Chunk(reasoning=(Reasoning(data="secret", made_by="claude"),)),
    Chunk("I "),
    Chunk("add."),
    Chunk(calls=(CallPiece(0, "call_1", "add", '{"a"'), CallPiece(1, "call_2", "now"))),
    Chunk(calls=(CallPiece(0, arguments=": 1}"),)),
    Chunk("", "tool_calls", Usage(30, 9, 10, 4), "m-1"),
]
BLOCKS = [
    {"type": "thinking", "thinking": "Hmm.", "signature": "sig"},
    {"type": "redacted_thinking", "data": "secret"},
    {"type": "text", "text": "I add."},
    {"type": "tool_use", "id": "call_1", "name": "add", "input": {"a": 1}},
    {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
]


class Able(Fake):
    """One that serves all that can be asked for."""

    serves = frozenset(NEEDS)


def events_of(reply: TestResponse) -> list[dict[str, Any]]:
    """Return the events of a stream, each named twice alike, and one that Anthropic's client knows."""
    *frames, rest = reply.data.decode().split("\n\n")
    assert rest == ""
    found = []
    for frame in frames:
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
        if found[-1]["type"] not in ("ping", "error"):
            EVENT.validate_python(found[-1], strict=True)
    return found


def turn(role: str, *blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": role, "content": list(blocks)}


def asked_of(serve: Serve, **fields: Any) -> Any:
    """Return the request that a backend gets for a body."""
    fake = Able("one", *ANSWER)
    reply = ask(serve(fake), PATH, **fields)
    assert reply.status_code == 200, reply.json
    return fake.asked[0]


# Answers


def test_whole_answer(serve: Serve, log_lines: Log) -> None:
    """Blocks in their order, the reason, counts without the cached, and the id, as Anthropic's client has them."""
    reply = ask(serve(Able("one", *CALLS)), PATH, headers={"X-Request-ID": "id-1"}, tools=[ADD, ADD | {"name": "now"}])
    TheirMessage.model_validate_json(reply.data, strict=True)
    assert reply.json == {
        **{"id": "msg_id-1", "type": "message", "role": "assistant", "model": "one/m-1"},
        **{"content": BLOCKS, "stop_reason": "tool_use", "stop_sequence": None},
        "usage": {
            **{"input_tokens": 20, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 0},
            "output_tokens": 9,
        },
    }
    assert reply.headers["request-id"] == reply.headers["X-Request-ID"] == "id-1"
    assert (log_lines()[-1]["operation"], log_lines()[-1]["tools"]) == ("message", ["add", "now"])


def test_streamed_answer(serve: Serve) -> None:
    """One block is open at a time, in the order of their places, though the calls came mixed; then the true counts."""
    fake = Able("one", *CALLS)
    events = events_of(ask(serve(fake), PATH, stream=True, tools=[ADD, ADD | {"name": "now"}]))
    blocks: list[dict[str, Any]] = []
    begun = None
    for event in events[1:-2]:
        kind = event["type"].removeprefix("content_block_")
        if kind == "start":
            assert begun is None
            begun = event["index"]
            blocks.append(dict(event["content_block"]))
            assert begun == len(blocks) - 1
        assert event["index"] == begun
        if kind == "stop":
            begun = None
        for name, piece in event.get("delta", {}).items():
            if name == "partial_json":
                blocks[-1]["written"] = blocks[-1].get("written", "") + piece
            elif name != "type":
                blocks[-1][name] += piece
    assert begun is None
    for block in blocks:
        if written := block.pop("written", ""):
            block["input"] = json.loads(written)
    assert blocks == BLOCKS
    start, end, stop = events[0], events[-2], events[-1]
    assert start["message"]["usage"]["input_tokens"] > 0
    assert start["message"]["stop_reason"] is None
    assert end["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert (end["usage"]["input_tokens"], end["usage"]["output_tokens"]) == (20, 9)
    assert stop == {"type": "message_stop"}


def test_a_text_is_not_read_letter_by_letter(make_client: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of 1 MB cost 80 ms so: of a text nothing is looked at that blocks are looked at for."""
    looked, left_out = [], anthropic._left_out
    monkeypatch.setattr(anthropic, "_left_out", lambda block: looked.append(block) or left_out(block))
    body = {"system": "x" * 1000, "messages": [USER | {"content": "y" * 1000}]}
    assert ask(make_client(Fake("one")), "/v1/messages", **body).status_code == 200
    assert looked == []


@pytest.mark.parametrize("counted", [Usage(), Usage(None, 2), Usage(0, 2)])
def test_an_input_is_never_of_no_tokens(serve: Serve, counted: Usage) -> None:
    """Where nobody has counted it, it is estimated: by 0, clients never know that a conversation is too long."""
    words = [USER | {"content": "x" * 4000}]
    reply = ask(serve(Able("one", Chunk("x", "stop", counted))), PATH, messages=words, stream=True)
    start, *_, end, _ = events_of(reply)
    assert start["message"]["usage"]["input_tokens"] == 1000
    assert end["usage"]["input_tokens"] == (1000 if counted.input_tokens is None else 0)


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        ([Chunk("x", "stop")], "end_turn"),
        ([Chunk("x", "length")], "max_tokens"),
        ([Chunk("x", "content_filter")], "refusal"),
        ([Chunk(refusal="I won't."), Chunk("", "stop")], "refusal"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_stop_reason(serve: Serve, chunks: list[Chunk], reason: str, stream: bool) -> None:
    """Why the answer ended, in Anthropic's words; what is said in place of an answer is a text."""
    reply = ask(serve(Able("one", *chunks)), PATH, stream=stream)
    said = events_of(reply)[-2]["delta"] if stream else reply.json
    assert said["stop_reason"] == reason
    assert (chunks[0].text or chunks[0].refusal) in reply.text


def test_a_cut_call(serve: Serve) -> None:
    """A call that the limit cut is delivered: streamed as far as it came, whole as a text in an object."""
    cut = [Chunk(calls=(CallPiece(0, "c", "add", '{"a'),)), Chunk("", "length", Usage(3, 2))]
    reply = ask(serve(Able("one", *cut)), PATH, tools=[ADD]).json
    assert (reply["stop_reason"], reply["content"][0]["input"]) == ("max_tokens", {"INVALID_JSON": '{"a'})
    events = events_of(ask(serve(Able("one", *cut)), PATH, tools=[ADD], stream=True))
    assert [event["delta"]["partial_json"] for event in events if "partial_json" in event.get("delta", {})] == ['{"a']


def test_pings(serve: Serve) -> None:
    """While a model is silent, the client is told that it is there."""
    silent = Able("one", Chunk("Hi"), Chunk(), END)
    assert [event["type"] for event in events_of(ask(serve(silent), PATH, stream=True))].count("ping") == 1


# Errors


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Unreachable("m"), 503, "overloaded_error"),
        (Overloaded("m"), 503, "overloaded_error"),
        (RateLimited("m"), 429, "rate_limit_error"),
        (TimedOut("m"), 504, "timeout_error"),
        (ServerError("m"), 502, "api_error"),
    ],
)
def test_error(serve: Serve, error: LLMAPIError, status: int, kind: str) -> None:
    """Anthropic's envelope by the status; in a stream that has begun, an event of it, and no end."""
    reply = ask(serve(Able("one", error)), PATH)
    assert (reply.status_code, reply.json["type"], error_of(reply)["type"]) == (status, "error", kind)
    ErrorResponse.model_validate(reply.json)
    *_, text, last = events_of(ask(serve(Able("one", Chunk("Hi"), error)), PATH, stream=True))
    assert (text["delta"]["text"], last["type"], last["error"]["type"]) == ("Hi", "error", kind)


@pytest.mark.parametrize("words", ["2 tokens > 1", "prompt is too long: 2 tokens > 1 maximum"])
def test_too_long(serve: Serve, words: str) -> None:
    """By Anthropic's words for it Claude Code knows that it has to shorten the conversation."""
    error = error_of(ask(serve(Able("one", RequestRefused(words, code="context_length_exceeded"))), PATH))
    assert error["message"] == f"prompt is too long: {words.removeprefix('prompt is too long: ')}"
    ours = error_of(ask(serve(Able("one"), max_prompt_chars=1), PATH))
    assert ours["message"].startswith("prompt is too long: messages: Has 2 characters")


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("POST", "/v1/messages/batches", 404, "not_found_error"),
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("POST", "/v1/messages", 415, "invalid_request_error"),
    ],
)
def test_what_has_no_route(serve: Serve, method: str, path: str, status: int, kind: str) -> None:
    """Below the route, errors of the framework are in the same envelope."""
    reply = serve(Able("one")).open(path, method=method)
    assert (reply.status_code, reply.json["type"], reply.json["error"]["type"]) == (status, "error", kind)
    assert reply.headers["request-id"] == reply.json["request_id"]


@pytest.mark.parametrize("header", [{"x-api-key": "canary-Key_0123456789"}, {"x-api-key": "no"}, {}])
def test_keys(make_client: Serve, header: dict[str, str]) -> None:
    """A key comes in Anthropic's header; without it there is an authentication_error, for counting too."""
    client = make_client(api_keys=(ApiKey("alice", hashlib.sha256(b"canary-Key_0123456789").hexdigest()),))
    for path in (PATH, f"{PATH}/count_tokens"):
        reply = client.post(path, json={"model": "default", "messages": [USER]}, headers=header)
        kind = None if reply.status_code == 200 else reply.json["error"]["type"]
        right = header.get("x-api-key", "").startswith("canary")
        assert (reply.status_code, kind) == ((200, None) if right else (401, "authentication_error"))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [USER | {"role": "tool"}]}, "messages"),
        ({"messages": [turn("user", {"type": "text"})]}, "messages"),
        ({"messages": [turn("user", {"type": "document"})]}, "messages"),
        ({"messages": [turn("user", {"type": "tool_use", "id": "a", "name": "b", "input": {}})]}, "messages"),
        (
            {"messages": [turn("user", {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text"}]})]},
            None,
        ),
        ({"messages": [turn("user", {"type": "image", "source": {"type": "url", "url": "ftp://x"}})]}, "messages"),
        ({"messages": [USER | {"content": 5}]}, "messages"),
        ({"system": 5}, "system"),
        ({"system": [{"type": "thinking", "thinking": "x"}]}, "system"),
        ({"tools": [{"name": "a"}]}, "tools"),
        ({"tools": [ADD, ADD]}, "tools"),
        ({"tools": [ADD], "tool_choice": {"type": "tool", "name": "other"}}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config"),
        ({"thinking": "adaptive"}, "thinking"),
    ],
)
@pytest.mark.parametrize("path", [PATH, f"{PATH}/count_tokens"])
def test_wrong_field(serve: Serve, path: str, fields: dict[str, Any], param: str | None) -> None:
    """What is wrong is named, with 400."""
    reply = serve(Able("one")).post(path, json={"model": "default", "messages": [USER]} | fields)
    assert (reply.status_code, reply.json["error"]["type"]) == (400, "invalid_request_error")
    assert reply.json["error"]["param"] == param or param is None


# Requests


def test_conversation(serve: Serve) -> None:
    """Calls, results, pictures and thoughts are what they are for every backend; results come first."""
    request = asked_of(
        serve,
        system="Be brief.",
        messages=[
            turn("user", {"type": "text", "text": "See"}, image := {"type": "image", "source": base64_of(GIF)}),
            turn(
                "assistant",
                {"type": "thinking", "thinking": "Hm", "signature": "sig"},
                {"type": "thinking", "thinking": "another's", "signature": ""},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I add."},
                {
                    "type": "tool_use",
                    "id": "call_abc.1",
                    "name": "add",
                    "input": {"a": 1},
                    "caller": {"type": "direct"},
                },
                {"type": "tool_use", "id": "call_2", "name": "add", "input": {}},
            ),
            turn(
                "user",
                {"type": "text", "text": "Go on"},
                {"type": "tool_result", "tool_use_id": "call_2", "content": "no", "is_error": True},
                {"type": "tool_result", "tool_use_id": "call_abc.1", "content": [{"type": "text", "text": "1"}, image]},
            ),
            {"role": "user", "content": "And?"},
        ],
    )
    picture = Image("image/gif", GIF)
    assert request.messages == (
        Message.of("system", "Be brief."),
        Message("user", (Text("See"), picture)),
        Message(
            "assistant",
            (
                Reasoning("Hm", "sig", made_by="claude"),
                Reasoning("another's"),
                Reasoning(data="x", made_by="claude"),
                Text("I add."),
                ToolCall("call_abc.1", "add", '{"a": 1}'),
                ToolCall("call_2", "add", "{}"),
            ),
        ),
        Message("tool", (ToolResult("call_2", (Text("no"),), is_error=True),)),
        Message("tool", (ToolResult("call_abc.1", (Text("1"), picture)),)),
        Message.of("user", "Go on"),
        Message.of("user", "And?"),
    )


def base64_of(data: str) -> dict[str, str]:
    return {"type": "base64", "media_type": "image/gif", "data": data}


@pytest.mark.parametrize(
    ("said", "choice"),
    [
        ({"type": "auto"}, ToolChoice()),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "tool", "name": "add"}, ToolChoice("named", "add")),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice(parallel=False)),
        ({"type": "any", "disable_parallel_tool_use": False}, ToolChoice("required")),
    ],
)
def test_tools(make_client: Serve, serve: Serve, said: dict[str, Any], choice: ToolChoice) -> None:
    """The tools that the client runs, and the choice among them."""
    fake = Able("one", Chunk("", "tool_calls", calls=(CallPiece(0, "c", "add", "{}"),)))
    ask(serve(fake), PATH, tools=[ADD], tool_choice=said)
    request = fake.asked[0]
    assert request.tools == (Tool("add", "Adds.", ADD["input_schema"]),)  # type: ignore[arg-type]
    assert request.tool_choice == choice


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({}, None),
        ({"thinking": {"type": "disabled"}}, "none"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 20000}}, "high"),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, "xhigh"),
    ],
)
def test_effort(serve: Serve, fields: dict[str, Any], effort: str | None) -> None:
    """How much to think, where a model is told that in a word."""
    assert asked_of(serve, **fields).reasoning_effort == effort


def test_parameters(serve: Serve, log_lines: Log) -> None:
    """Those that all dialects have; null is not said, and what only Claude has is in the log."""
    schema = {"type": "object"}
    request = asked_of(
        serve,
        **{"max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "stop_sequences": ["a", "b", "c", "d", "e"], "top_k": 3},
        **{"system": None, "metadata": None, "fallback": False, "model": "m"},
    )
    assert (request.max_tokens, request.temperature, request.top_p, request.model) == (7, 0.5, 0.9, "m")
    assert (request.stop, request.fallback) == (("a", "b", "c", "d", "e"), False)
    assert log_lines()[-1]["parameters"]["top_k"] == 3
    fake = Able("one", Chunk("{}"), END)
    ask(serve(fake), PATH, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert fake.asked[0].response_format.schema == schema


# What only Claude takes: the shape of Claude Code's requests

CACHED = {"type": "ephemeral"}
CLAUDE_CODE: dict[str, Any] = {
    "model": "claude/far-model-1",
    "max_tokens": 64000,
    "stream": True,
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197; cc_entrypoint=sdk-cli; cch=abc;"},
        {"type": "text", "text": "You are a coder.", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be exact.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ],
    "messages": [
        turn("user", {"type": "text", "text": "Add."}, {"type": "container_upload", "file_id": "file_1"}),
        {"role": "system", "content": "The date is today."},
        turn(
            "assistant",
            {"type": "thinking", "thinking": "Hm", "signature": ""},
            {"type": "tool_use", "id": "call_abc.1", "name": "add", "input": {"a": 1}},
            {"type": "tool_use", "id": "call_abc.2", "name": "add", "input": {}},
        ),
        turn(
            "user",
            {"type": "tool_result", "tool_use_id": "call_abc.2", "content": "2", "is_error": True},
            {
                "type": "tool_result",
                "tool_use_id": "call_abc.1",
                "content": "1",
                "cache_control": {"type": "ephemeral"},
            },
        ),
    ],
    "tools": [ADD, {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}],
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "high"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "metadata": {"user_id": '{"device_id": "x"}'},
}
BETAS = {"anthropic-version": "2023-06-01", "anthropic-beta": "claude-code-20250219,context-1m-2025-08-07"}
LEFT_OUT = {"anthropic-beta", "context_management", "metadata", "container_upload", "web_search_20250305"}


def post(client: Any, **fields: Any) -> TestResponse:
    reply: TestResponse = client.post(f"{PATH}?beta=true", json=CLAUDE_CODE | fields, headers=BETAS, buffered=True)
    return reply


def test_claude_code_before_another(serve: Serve) -> None:
    """What another model can't have is left out, and named; what the system says stands first, without the billing."""
    fake = Able("one", *ANSWER)
    reply = post(serve(fake), model="default")
    assert events_of(reply)[-1] == {"type": "message_stop"}
    assert set(reply.headers["X-LLM-Ignored"].split(", ")) == LEFT_OUT
    system, user, calls, second, first = fake.asked[0].messages
    assert system == Message.of("system", "You are a coder.\n\nBe exact.\n\nThe date is today.")
    assert (user, calls.parts[0]) == (Message.of("user", "Add."), Reasoning("Hm"))
    assert [message.parts[0].call_id for message in (second, first)] == ["call_abc.2", "call_abc.1"]
    assert [tool.name for tool in fake.asked[0].tools] == ["add"]


def test_claude_code_before_claude(make_client: Serve, far_end: FarEnd) -> None:
    """It travels as it came, but for what Claude refuses: thoughts without its signature, ids with dots."""
    far_end.post(CLAUDE.url, body=claude_stream("Hi"))
    reply = post(make_client(**CLAUDE.settings), model="default")
    assert reply.status_code == 200
    assert "X-LLM-Ignored" not in reply.headers
    wanted = json.loads(json.dumps(CLAUDE_CODE))
    body = sent(far_end)
    calls, results = body["messages"][2]["content"], body["messages"][3]["content"]
    assert [call["id"] for call in calls] == [result["tool_use_id"] for result in reversed(results)]
    assert len({call["id"] for call in calls}) == 2
    del wanted["messages"][2]["content"][0]
    kept = wanted["messages"][2]["content"] + wanted["messages"][3]["content"]
    for block, came in zip([*calls, *results], kept, strict=True):
        block |= {name: came[name] for name in ("id", "tool_use_id") if name in came}
    assert body.pop("anthropic-beta", None) is None
    assert body == wanted | {"model": body["model"]}
    assert far_end.calls[0].request.headers["anthropic-beta"] == BETAS["anthropic-beta"]


PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}
NOTES = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Green."}, "title": "Grass"}
NOTES |= {"context": "Of 2026."}
NEWER = {"type": "smell", "of": "rain"}
FOUND = {"type": "search_result", "source": "a.b/c", "title": "Sky", "content": [{"type": "text", "text": "Blue."}]}
FILE = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}
WET = {"type": "text", "text": "Wet"}
SHOWN = {"type": "document", "source": {"type": "content", "content": [WET, {"type": "image", "source": {}}]}}
SHOWN["source"]["content"][1]["source"] = {"type": "base64", "media_type": "image/gif", "data": GIF}


def test_documents_of_words(serve: Serve) -> None:
    """What another model can read it is told, with all that is said of it, also as a tool's result."""
    fake = Able("one", *ANSWER)
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": [FOUND]}
    parts = [{"type": "document", "source": {"type": "content", "content": said}} for said in ("Dry", [WET])]
    reply = ask(serve(fake), PATH, messages=[turn("user", result, NOTES, *parts, {"type": "text", "text": "So?"})])
    assert (reply.status_code, reply.headers.get("X-LLM-Ignored")) == (200, None)
    found, said = fake.asked[0].messages
    assert found.parts[0].parts == (Text("Sky\na.b/c\nBlue."),)
    assert [part.text for part in said.parts] == ["Grass\nOf 2026.\nGreen.", "Dry", "Wet", "So?"]


FILES = [
    *(PDF, FILE, SHOWN, FOUND | {"content": [WET, NEWER]}),
    {"type": "document", "source": {"type": "content", "content": [WET, NEWER]}},
    {"type": "document", "source": {"type": "content", "content": [FOUND | {"content": [NEWER]}]}},
]


def given(block: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a conversation with a call that gave this."""
    call = {"type": "tool_use", "id": "call_1", "name": "add", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": [WET, block]}
    return [turn("user", WET), turn("assistant", call), turn("user", result)]


@pytest.mark.parametrize("messages", [*([turn("user", block)] for block in FILES), *map(given, [*FILES, NEWER])])
def test_what_only_claude_reads(make_client: Serve, far_end: FarEnd, messages: list[dict[str, Any]]) -> None:
    """A file, and what is not known inside a block, is never left out: it reaches Claude, and no other is asked."""
    far_end.post(CLAUDE.url, json=claude_answer("Hi"))
    assert ask(make_client(**CLAUDE.settings), PATH, messages=messages).status_code == 200
    assert sent(far_end)["messages"] == messages
    refused = ask(make_client(llm_backend="stub"), PATH, messages=messages)
    assert (refused.status_code, "stub does not serve documents" in refused.text) == (400, True)


@pytest.mark.parametrize("content", [[None], [[]], ["x"], {}, 5])
def test_content_where_no_block_has_it(serve: Serve, content: Any) -> None:
    """A field of a block that nobody knows may have any value."""
    block = {"type": "text", "text": "Hi", "content": content}
    reply = ask(serve(Able("one", *ANSWER)), PATH, messages=[turn("user", block)])
    assert reply.status_code == 200


def test_claude_after_another(make_client: Serve, far_end: FarEnd) -> None:
    """A fallback gets what it can have, and the header says so."""
    far_end.post(CLAUDE.url, status=529, json={"type": "error", "error": {"type": "overloaded_error", "message": "m"}})
    settings = {**CLAUDE.settings, "llm_fallback": ("stub",), "max_retries": 0}
    reply = post(make_client(**settings), model="default")
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Fallback"]) == ("stub", "overloaded")
    assert set(reply.headers["X-LLM-Ignored"].split(", ")) == LEFT_OUT


def test_betas_of_both(make_client: Serve, far_end: FarEnd) -> None:
    """Those that the operator has set stay; a header that would end its line is the client's fault."""
    far_end.post(CLAUDE.url, json=claude_answer("Hi"))
    client = make_client(**CLAUDE.settings, claude_extra_headers={"anthropic-beta": "ours"})
    assert ask(client, PATH, headers={"anthropic-beta": "theirs"}).status_code == 200
    assert far_end.calls[0].request.headers["anthropic-beta"] == "ours,theirs"
    assert ask(client, PATH, headers={"anthropic-beta": "\xe4"}).status_code == 400


# What the service says besides


def test_count_tokens(serve: Serve) -> None:
    """An estimate that says so: of words, tools and pictures; nobody is asked, and nothing is logged."""
    client = serve(fake := Able("one"))
    said = {"model": "default", "messages": [USER | {"content": "x" * 400}]}
    for more, tokens in [({}, 100), ({"system": "y" * 40}, 110), ({"tools": []}, 100)]:
        reply = client.post(f"{PATH}/count_tokens?beta=true", json=said | more)
        assert (reply.json, reply.headers["X-LLM-Estimate"]) == ({"input_tokens": tokens}, "characters/4")
    assert client.post(f"{PATH}/count_tokens", json=said | {"tools": [ADD]}).json["input_tokens"] > 110
    shown = [turn("user", {"type": "image", "source": base64_of(GIF)})]
    assert client.post(f"{PATH}/count_tokens", json=said | {"messages": shown}).json["input_tokens"] >= 1600
    assert fake.asked == []


def test_claude_counts(make_client: Serve, far_end: FarEnd) -> None:
    """Where Claude answers it says how many, of what it counts; where that fails it is estimated."""
    client = make_client(**CLAUDE.settings, max_retries=0)
    far_end.post(f"{CLAUDE.url}/count_tokens", json={"input_tokens": 7})
    body = CLAUDE_CODE | {"model": "default", "top_k": 3}
    reply = client.post(f"{PATH}/count_tokens?beta=true", json=body, headers=BETAS)
    assert (reply.json, "X-LLM-Estimate" in reply.headers) == ({"input_tokens": 7}, False)
    assert sent(far_end).keys() == body.keys() - {"max_tokens", "stream", "metadata", "top_k"}
    assert far_end.calls[0].request.headers["anthropic-beta"] == BETAS["anthropic-beta"]
    far_end.reset()
    far_end.post(f"{CLAUDE.url}/count_tokens", status=404, json={})
    reply = client.post(f"{PATH}/count_tokens", json=body)
    assert (reply.status_code, "X-LLM-Estimate" in reply.headers) == (200, True)


def test_models_for_both(serve: Serve) -> None:
    """One body is a list for Anthropic's clients too."""
    reply = serve(Able("one", models=["a", "b"])).get("/v1/models?limit=1000").json
    for model in reply["data"]:
        ModelInfo.model_validate_json(json.dumps(model), strict=True)
    assert (reply["has_more"], reply["first_id"], reply["last_id"]) == (False, "one/a", "one/b")


def test_a_model_by_an_alias(serve: Serve) -> None:
    """A client that asks for the model that it has built in is told of the one that would answer."""
    client = serve(Able("one", models=["a"]), model_aliases={"claude-*": "one/a", "gone": "one/b"})
    for name in ("claude-opus-4-8", "one/a", "default"):
        found = client.get(f"/v1/models/{name}").json
        ModelInfo.model_validate_json(json.dumps(found), strict=True)
        assert (found["id"], found["owned_by"], found["serves"]) == (name, "one", sorted(NEEDS))
    assert [client.get(f"/v1/models/{name}").status_code for name in ("gone", "b", "two/a")] == [404] * 3


@pytest.mark.parametrize("path", ["/v1/models/none", "/v1/nothing"])
def test_errors_for_its_clients(serve: Serve, path: str) -> None:
    """On routes of both vendors, the header that all clients of Anthropic's send says who asks."""
    theirs = serve(Able("one")).get(path, headers={"anthropic-version": "2023-06-01"})
    assert (theirs.status_code, theirs.json["error"]["type"]) == (404, "not_found_error")
    assert theirs.headers["request-id"] == theirs.json["request_id"]
    assert serve(Able("one")).get(path).json["error"]["type"] == "invalid_request_error"


def test_a_probe(serve: Serve) -> None:
    """Claude Code asks for the top of its address first."""
    with serve(Able("one")).head("/") as reply:
        assert reply.status_code == 200
