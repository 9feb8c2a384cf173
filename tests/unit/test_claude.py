"""What is peculiar to Anthropic's Messages (docs/providers.md, 4)."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest
from asking import Log, Serve, ask, error_of, texts_of
from fakes import Clock
from providers import (
    CLAUDE,
    FarEnd,
    claude_answer,
    claude_end,
    claude_error,
    claude_event,
    claude_start,
    claude_stream,
    sent,
)

from llm_api import Settings
from llm_api.backends import make_backend
from llm_api.backends.base import cut_at_stop
from llm_api.errors import RequestRefused
from llm_api.runtime.deadline import Deadline
from llm_api.types import (
    CallPiece,
    Chunk,
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
    Usage,
    fold,
)


def test_configured_version(make_client: Serve, far_end: FarEnd) -> None:
    """CLAUDE_VERSION is the API version that is asked for."""
    far_end.post(CLAUDE.url, json=claude_answer("Hello"))
    ask(make_client(**CLAUDE.settings, claude_version="2026-10-21"))
    assert far_end.calls[0].request.headers["anthropic-version"] == "2026-10-21"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chain", [(), ("stub",)])
def test_json_object(make_client: Serve, log_lines: Log, stream: bool, chain: tuple[str, ...]) -> None:
    """Anthropic knows schemas only: json_object is refused before it is asked, and nobody else is."""
    client = make_client(**CLAUDE.settings, llm_fallback=chain)
    reply = ask(client, response_format={"type": "json_object"}, stream=stream)
    error = error_of(reply)
    assert reply.status_code == 400
    assert (error["param"], error["code"]) == ("response_format", "unsupported_parameter")
    assert "schema" in error["message"]
    assert log_lines()[-1]["http_status"] == 400


def test_refusal(make_client: Serve, far_end: FarEnd) -> None:
    """A refusal without any text is an answer whose finish reason says so."""
    stopped = {"stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "x", "explanation": "y"}}
    far_end.post(CLAUDE.url, json=claude_answer("", content=[], **stopped))
    reply = ask(make_client(**CLAUDE.settings), details=True)
    assert (reply.status_code, reply.json["response"]) == (200, "")
    assert reply.json["details"]["finish_reason"] == "content_filter"


def test_unknown_model_says_which(make_client: Serve, far_end: FarEnd) -> None:
    """A retired model is named in the answer."""
    far_end.post(CLAUDE.url, status=404, json=claude_error("not_found_error", "model: claude-3-sonnet-20240229"))
    error = error_of(ask(make_client(**CLAUDE.settings)))
    assert error["message"] == "claude does not have this model: model: claude-3-sonnet-20240229"
    assert error["param"] == "model"


# What other providers take


@pytest.mark.parametrize(
    ("said", "sampling", "left_out"),
    [
        ({"temperature": 0.3, "top_p": 0.5}, {"temperature": 0.3}, ["top_p"]),
        ({"temperature": 0.3, "top_p": 1}, {"temperature": 0.3}, ["top_p"]),
        ({"temperature": 1, "top_p": 0.5}, {"top_p": 0.5}, ["temperature"]),
        ({"temperature": 1, "top_p": 1}, {"temperature": 1}, ["top_p"]),
        ({"temperature": 0, "top_p": 0.1}, {"temperature": 0}, ["top_p"]),
        ({"temperature": 1.7, "top_p": 0.5}, {"temperature": 1}, ["top_p"]),
        ({"top_p": 0.5, "seed": 3}, {"top_p": 0.5}, ["seed"]),
        ({"temperature": 0.3}, {"temperature": 0.3}, None),
    ],
)
def test_temperature_or_top_p(
    make_client: Serve,
    far_end: FarEnd,
    log_lines: Log,
    said: dict[str, float],
    sampling: dict[str, float],
    left_out: list[str] | None,
) -> None:
    """Several models refuse both: one goes, which says less, and the log says so."""
    far_end.post(CLAUDE.url, json=claude_answer("x"))
    assert ask(make_client(**CLAUDE.settings), **said).status_code == 200
    assert {name: value for name, value in sent(far_end).items() if name in ("temperature", "top_p")} == sampling
    assert log_lines()[-1]["attempts"][0].get("left_out") == left_out


@pytest.mark.parametrize(
    ("stop", "sent_stops", "text"),
    [
        (["\n"], None, "one"),
        ("\n\n", None, "one\ntwo"),
        ([" "], None, "one\ntwo\n\nthree"),
        (["\t", "END"], ["END"], "one\ntwo\n\nthree END"),
        (["\u00a0\n", "\n", "x"], ["x"], "one"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_blank_stops(
    make_client: Serve, far_end: FarEnd, stop: Any, sent_stops: list[str] | None, text: str, stream: bool
) -> None:
    """Anthropic refuses stop texts without a visible character, so the answer is cut at them here."""
    whole = "one\ntwo\n\nthree END"
    pieces = claude_stream(*whole)
    far_end.post(CLAUDE.url, **({"body": pieces} if stream else {"json": claude_answer(whole)}))
    reply = ask(make_client(**CLAUDE.settings), stop=stop, stream=stream)
    assert sent(far_end).get("stop_sequences") == sent_stops
    assert ("".join(texts_of(reply)) if stream else reply.json["response"]) == text


USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([USER, {"role": "assistant", "content": ""}, USER], {"messages": [USER, USER]}),
        ([USER, ASSISTANT, {"role": "user", "content": " \n"}, USER], {"messages": [USER, ASSISTANT, USER]}),
        ([{"role": "system", "content": "  "}, USER], {"messages": [USER]}),
        (
            [{"role": "system", "content": "Be brief."}, {"role": "assistant", "content": ""}, USER],
            {"messages": [USER], "system": "Be brief."},
        ),
    ],
)
def test_empty_turns(
    make_client: Serve, far_end: FarEnd, messages: list[dict[str, str]], expected: dict[str, Any]
) -> None:
    """Turns without text are refused there, and mean nothing."""
    far_end.post(CLAUDE.url, json=claude_answer("x"))
    reply = ask(make_client(**CLAUDE.settings), "/v1/chat/completions", messages=messages)
    assert reply.status_code == 200, reply.json
    assert {name: value for name, value in sent(far_end).items() if name in ("messages", "system")} == expected


def test_max_tokens_above_the_models(make_client: Serve, far_end: FarEnd, log_lines: Log) -> None:
    """The most that the model allows is asked for, at once and from then on, and the log says so."""
    words = "max_tokens: 200000 > 8192, which is the maximum allowed number of output tokens for claude-x"
    far_end.post(CLAUDE.url, status=400, json=claude_error("invalid_request_error", words))
    far_end.post(CLAUDE.url, json=claude_answer("Hello"))
    client = make_client(**CLAUDE.settings, max_retries=0)
    for asked in (200_000, 100_000, 5):
        assert ask(client, max_tokens=asked, model="claude-x").json == {"response": "Hello"}
    assert [sent(far_end, n)["max_tokens"] for n in range(4)] == [200_000, 8192, 8192, 5]
    first, second = log_lines()[0]["attempts"]
    assert (first["outcome"], second["outcome"]) == ("unsupported_parameter", "ok")
    assert "8,192" in first["message"]


def test_a_limit_that_is_none(make_client: Serve, far_end: FarEnd) -> None:
    """A server that refuses what it says it allows is asked once."""
    words = "max_tokens: 5 > 8192, which is the maximum allowed number of output tokens for claude-x"
    far_end.post(CLAUDE.url, status=400, json=claude_error("invalid_request_error", words))
    assert ask(make_client(**CLAUDE.settings), max_tokens=5).status_code == 400
    assert len(far_end.calls) == 1


@pytest.mark.parametrize("system", ["Be brief.", " "])
def test_a_system_message_alone(far_end: FarEnd, system: str) -> None:
    """A conversation needs a turn there, so the system message becomes one."""
    far_end.post(CLAUDE.url, json=claude_answer("x"))
    request = GenerationRequest((Message.of("system", system),))
    chunks = make_backend("claude", Settings(**CLAUDE.settings)).stream(request, Deadline(5))
    assert "".join(chunk.text for chunk in chunks) == "x"
    assert sent(far_end)["messages"] == [{"role": "user", "content": system}]
    assert "system" not in sent(far_end)


# Tools


CHAT = "/v1/chat/completions"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
LONG = "mcp__a_server_with_a_long_name__a_tool_with_a_name_that_is_even_longer_than_that"
LONG_SENT = f"{LONG[:55]}_{hashlib.sha256(LONG.encode()).hexdigest()[:8]}"
DOTTED = "files.read/all"
DOTTED_SENT = f"files_read_all_{hashlib.sha256(DOTTED.encode()).hexdigest()[:8]}"
WEATHER = Tool("get_weather", "The weather of a city", PARAMETERS, strict=True)
TOOLS = (WEATHER, Tool("now"), Tool("any", parameters={"properties": {}}, strict=False))
SENT_TOOLS = [
    {"name": "get_weather", "description": "The weather of a city", "input_schema": PARAMETERS, "strict": True},
    {"name": "now", "input_schema": {"type": "object", "properties": {}}},
    {"name": "any", "input_schema": {"type": "object", "properties": {}}},
]
HI = Message.of("user", "Hi")


def chunks_of(request: GenerationRequest, **settings: Any) -> list[Chunk]:
    """Return the answer of a backend without an exchange around it."""
    return list(make_backend("claude", Settings(**CLAUDE.settings | settings)).stream(request, Deadline(5)))


def sent_for(far_end: FarEnd, *messages: Message, **fields: Any) -> dict[str, Any]:
    """Return what is sent for a request."""
    far_end.post(CLAUDE.url, json=claude_answer("x"))
    chunks_of(GenerationRequest(messages or (HI,), **fields))
    return sent(far_end)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ToolChoice(), None),
        (ToolChoice("auto", parallel=True), None),
        (ToolChoice("auto", parallel=False), {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("none"), {"type": "none"}),
        (ToolChoice("none", parallel=False), {"type": "none"}),
        (ToolChoice("required"), {"type": "any"}),
        (ToolChoice("required", parallel=False), {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice("named", "now"), {"type": "tool", "name": "now"}),
        (ToolChoice("named", DOTTED), {"type": "tool", "name": DOTTED_SENT}),
    ],
    ids=str,
)
def test_tools_and_choice(far_end: FarEnd, choice: ToolChoice, expected: dict[str, Any] | None) -> None:
    """Tools have an object's schema, and the choice its word; the tools go with none too, as the history may call."""
    body = sent_for(far_end, tools=(*TOOLS, Tool(DOTTED)), tool_choice=choice)
    assert body["tools"][:3] == SENT_TOOLS
    assert body.get("tool_choice") == expected


def test_no_tools(far_end: FarEnd) -> None:
    """Without tools nothing is said of them."""
    assert sent_for(far_end).keys().isdisjoint({"tools", "tool_choice", "thinking", "output_config"})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("name", "sent_name"), [(LONG, LONG_SENT), (DOTTED, DOTTED_SENT), ("get_weather",) * 2])
def test_names(far_end: FarEnd, name: str, sent_name: str, stream: bool) -> None:
    """A name that Anthropic refuses goes as one that it takes, in the history too, and comes back as it was."""
    block = {"type": "tool_use", "id": "toolu_1", "name": sent_name, "input": {"a": 1}}
    whole = claude_answer("", content=[block], stop_reason="tool_use")
    body = claude_start() + claude_block(1, block) + claude_end("tool_use")
    far_end.post(CLAUDE.url, **({"body": body} if stream else {"json": whole}))
    messages = (
        HI,
        Message("assistant", (ToolCall("1", name, "{}"),)),
        Message("tool", (ToolResult("1", (Text("r"),)),)),
    )
    chunks = chunks_of(GenerationRequest(messages, tools=(Tool(name), Tool("other")), stream=stream))
    assert [tool["name"] for tool in sent(far_end)["tools"]] == [sent_name, "other"]
    assert sent(far_end)["messages"][1]["content"][0]["name"] == sent_name
    assert len(sent_name) <= 64
    assert fold(chunks) == (ToolCall("toolu_1", name, '{"a": 1}'),)
    assert chunks[-1].finish_reason == "tool_calls"


# The history


PICTURE = Image("image/png", data="aGk=")
SENT_PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
ADDRESS = "https://box.example/a.png"


def use(call_id: str, name: str, value: dict[str, Any]) -> dict[str, Any]:
    """Return a call as Anthropic has it."""
    return {"type": "tool_use", "id": call_id, "name": name, "input": value}


def result_of(call_id: str, content: Any = ..., **more: Any) -> dict[str, Any]:
    """Return a result as Anthropic has it."""
    said = {} if content is ... else {"content": content}
    return {"type": "tool_result", "tool_use_id": call_id} | said | more


def answered(call_id: str, *parts: Any, is_error: bool = False) -> Message:
    """Return a tool's message."""
    return Message("tool", (ToolResult(call_id, parts, is_error),))


def test_history(far_end: FarEnd) -> None:
    """Its own thoughts, text, calls as objects; all results first in one turn, as they came, then the user's text."""
    thoughts = (
        Reasoning("hm", "sig", made_by="claude"),
        Reasoning("", "only a signature", made_by="claude"),
        Reasoning(data="secret", made_by="claude"),
        *(Reasoning("no", "", made_by="claude"), Reasoning("no", "sig", made_by="ollama"), Reasoning("no", "sig")),
    )
    calls = (
        *(ToolCall("a", "now", ""), ToolCall("b", "now", '{"n": 1}')),
        *(ToolCall("c", "cut", '{"n": '), ToolCall("d", "list", "[1]")),
        ToolCall("e", "large", '{"n": 1e999}'),
    )
    body = sent_for(
        far_end,
        Message("system", (Text("Be brief."),)),
        Message("user", (Text("Look:"), PICTURE, Text(" "), Image(url=ADDRESS))),
        Message("assistant", (*thoughts, Text("I see."), Text(""), *calls)),
        answered("d", Text("list")),
        answered("b", Text("a "), PICTURE),
        answered("a", Text(" "), is_error=True),
        answered("c"),
        answered("e"),
        Message.of("user", "And?"),
        Message("user", (Text("Well?"), PICTURE)),
        Message.of("assistant", "Fine."),
    )
    assert body["system"] == "Be brief."
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look:"},
                SENT_PICTURE,
                {"type": "image", "source": {"type": "url", "url": ADDRESS}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "thinking", "thinking": "", "signature": "only a signature"},
                {"type": "redacted_thinking", "data": "secret"},
                {"type": "text", "text": "I see."},
                *(use("a", "now", {}), use("b", "now", {"n": 1})),
                *(use("c", "cut", {"INVALID_JSON": '{"n": '}), use("d", "list", {"INVALID_JSON": "[1]"})),
                use("e", "large", {"INVALID_JSON": '{"n": 1e999}'}),
            ],
        },
        {
            "role": "user",
            "content": [
                result_of("d", "list"),
                result_of("b", [{"type": "text", "text": "a "}, SENT_PICTURE]),
                result_of("a", is_error=True),
                *(result_of("c"), result_of("e")),
                *({"type": "text", "text": text} for text in ("And?", "Well?")),
                SENT_PICTURE,
            ],
        },
        {"role": "assistant", "content": "Fine."},
    ]


def test_ids(far_end: FarEnd) -> None:
    """Ids that Anthropic refuses are changed on both sides alike; those that repeat are told apart."""
    body = sent_for(
        far_end,
        HI,
        Message("assistant", (ToolCall("call_abc.1", "now", ""), ToolCall("call_abc|1", "now", ""))),
        answered("call_abc|1", Text("second")),
        answered("call_abc.1", Text("first")),
        Message("assistant", (ToolCall("same", "now", '{"n": 1}'), ToolCall("same", "now", '{"n": 2}'))),
        *(answered("same", Text("1")), answered("same", Text("2"))),
        Message("assistant", (ToolCall("same", "now", '{"n": 3}'), ToolCall("x" * 70, "now", ""))),
        *(answered("x" * 70, Text("x")), answered("same", Text("3"))),
    )
    blocks = [block for turn in body["messages"][1:] for block in turn["content"]]
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    results = {block["tool_use_id"]: block["content"] for block in blocks if block["type"] == "tool_result"}
    assert all(re.fullmatch("[a-zA-Z0-9_-]{1,64}", call) for call in calls)
    assert [results[call] for call in calls] == ["first", "second", "1", "2", "3", "x"]
    assert calls[2] == "same"


CALL = Message("assistant", (Text("Wait."), ToolCall("a", "now", "{}"), ToolCall("b", "now", "{}")))


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ((HI, CALL), "'a' has no result"),
        ((HI, CALL, answered("a", Text("1"))), "'b' has no result"),
        ((HI, CALL, answered("a", Text("1")), HI, answered("b", Text("2"))), "'b' has no result"),
        ((HI, CALL, Message.of("assistant", "So."), answered("a", Text("1"))), "'a' has no result"),
        ((HI, answered("a", Text("1"))), "'a' has no such call"),
        ((HI, CALL, answered("c", Text("1"))), "'c' has no such call"),
        ((HI, CALL, *(answered(name, Text("1")) for name in "abb")), "'b' has no such call"),
    ],
)
def test_calls_and_results_that_miss_each_other(messages: tuple[Message, ...], words: str) -> None:
    """Anthropic refuses these, so it isn't asked: the fault is the client's, and the message says which call it is."""
    with pytest.raises(RequestRefused, match=words) as refused:
        chunks_of(GenerationRequest(messages, tools=TOOLS))
    assert (refused.value.status, refused.value.param) == (400, "messages")


def test_history_of_another_backend(make_client: Serve, far_end: FarEnd) -> None:
    """A conversation that another backend began goes on here: its ids are made to fit, null contents are none."""
    far_end.post(CLAUDE.url, json=claude_answer("Sunny."))
    call = {"id": "chatcmpl-tool.1", "type": "function", "function": {"name": "now", "arguments": ""}}
    messages = [
        USER,
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "chatcmpl-tool.1", "content": "12:00"},
    ]
    assert ask(make_client(**CLAUDE.settings), CHAT, messages=messages).status_code == 200
    first, second = sent(far_end)["messages"][1:]
    assert [block["type"] for block in first["content"]] == ["tool_use"]
    assert first["content"][0]["id"] == second["content"][0]["tool_use_id"]


# What comes back


def claude_block(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    """Return a block as a stream has it."""
    begun = claude_event("content_block_start", index=index, content_block=block)
    pieces = [claude_event("content_block_delta", index=index, delta=delta) for delta in deltas]
    return begun + b"".join(pieces) + claude_event("content_block_stop", index=index)


def json_deltas(*texts: str) -> list[dict[str, str]]:
    """Return the pieces of a call's arguments."""
    return [{"type": "input_json_delta", "partial_json": text} for text in texts]


SIGNED = ({"type": "thinking_delta", "thinking": "h"}, {"type": "thinking_delta", "thinking": "m"})
SIGNATURE = {"type": "signature_delta", "signature": "sig"}
THINKING = {"type": "thinking", "thinking": "", "signature": ""}
# A block whole, the same in pieces, and the parts that it is.
BLOCKS: dict[str, tuple[dict[str, Any], tuple[dict[str, Any], list[dict[str, Any]]], tuple[Part, ...]]] = {
    "text": (
        {"type": "text", "text": "Hello"},
        ({"type": "text", "text": "He"}, [{"type": "text_delta", "text": "llo"}]),
        (Text("Hello"),),
    ),
    "thinking": (
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        (THINKING, [*SIGNED, SIGNATURE]),
        (Reasoning("hm", "sig", made_by="claude"),),
    ),
    "signature only": (
        {"type": "thinking", "thinking": "", "signature": "sig"},
        (THINKING, [SIGNATURE]),
        (Reasoning("", "sig", made_by="claude"),),
    ),
    "thinking without signature": (
        {"type": "thinking", "thinking": "hm"},
        ({"type": "thinking", "thinking": ""}, [*SIGNED]),
        (Reasoning("hm", made_by="claude"),),
    ),
    "redacted": (
        {"type": "redacted_thinking", "data": "xyz"},
        ({"type": "redacted_thinking", "data": "xyz"}, []),
        (Reasoning(data="xyz", made_by="claude"),),
    ),
    "call": (
        use("toolu_1", "now", {"n": [1, "é"]}),
        (use("toolu_1", "now", {}), json_deltas("", '{"n"', ': [1, "\\u00e9"]}')),
        (ToolCall("toolu_1", "now", '{"n": [1, "\\u00e9"]}'),),
    ),
    "call without arguments": (
        use("toolu_1", "now", {}),
        (use("toolu_1", "now", {}), json_deltas("")),
        (ToolCall("toolu_1", "now", "{}"),),
    ),
    "call that begins with its arguments": (
        use("toolu_1", "now", {"n": 1}),
        (use("toolu_1", "now", {"n": 1}), []),
        (ToolCall("toolu_1", "now", '{"n": 1}'),),
    ),
    "call that begins without an input": (  # llama.cpp's
        {"type": "tool_use", "id": "toolu_1", "name": "now", "input": {"n": 1}},
        ({"type": "tool_use", "id": "toolu_1", "name": "now"}, json_deltas('{"n"', ": 1}")),
        (ToolCall("toolu_1", "now", '{"n": 1}'),),
    ),
    "call whose arguments come twice": (
        use("toolu_1", "now", {"n": 1}),
        (use("toolu_1", "now", {"n": 1}), json_deltas('{"n": 1}')),
        (ToolCall("toolu_1", "now", '{"n": 1}'),),
    ),
    "unknown": (
        {"type": "something_new", "text": "x"},
        ({"type": "something_new"}, [{"type": "something_delta", "text": "x"}]),
        (),
    ),
    "server's call": (
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
        ({"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}, json_deltas("", "{}")),
        (),
    ),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_block(far_end: FarEnd, kind: str) -> None:
    """A block is read as the same parts, whole and in pieces."""
    whole, (begun, deltas), parts = BLOCKS[kind]
    reason = "tool_use" if whole["type"] == "tool_use" else "end_turn"
    far_end.post(CLAUDE.url, json=claude_answer("", content=[whole], stop_reason=reason))
    far_end.post(CLAUDE.url, body=claude_start() + claude_block(1, begun, *deltas) + claude_end(reason))
    for stream in (False, True):
        chunks = chunks_of(GenerationRequest((HI,), tools=TOOLS, stream=stream))
        assert fold(chunks) == parts
        assert chunks[-1].finish_reason == ("tool_calls" if reason == "tool_use" else "stop")
        assert all(chunk.model == "far-model-1" for chunk in chunks)
        assert not any(chunk.is_empty or Reasoning(made_by="claude") in chunk.reasoning for chunk in chunks[:-1])


def test_order_of_blocks(far_end: FarEnd) -> None:
    """All blocks of an answer keep their order, and calls are counted without those of the server's own tools."""
    kinds = ("thinking", "redacted", "text", "call", "server's call", "thinking", "call without arguments", "text")
    ping = claude_event("ping")
    streamed = ping.join(claude_block(n, BLOCKS[kind][1][0], *BLOCKS[kind][1][1]) for n, kind in enumerate(kinds))
    body = claude_event("message_start", message={"model": "m", "usage": {}}) + streamed + claude_end("tool_use")
    whole = claude_answer("", content=[BLOCKS[kind][0] for kind in kinds], stop_reason="tool_use")
    far_end.post(CLAUDE.url, json=whole)
    far_end.post(CLAUDE.url, body=body)
    for stream in (False, True):
        chunks = chunks_of(GenerationRequest((HI,), tools=TOOLS, stream=stream))
        assert fold(chunks) == tuple(part for kind in kinds for part in BLOCKS[kind][2])
        assert {piece.index for chunk in chunks for piece in chunk.calls} == {0, 1}


def test_blocks_with_the_same_index(far_end: FarEnd) -> None:
    """A server that numbers each block alike loses and merges no call."""
    calls = [use(f"toolu_{number}", "now", {}) for number in range(3)]
    body = b"".join(claude_block(0, call, *json_deltas(f'{{"n": {n}}}')) for n, call in enumerate(calls))
    far_end.post(CLAUDE.url, body=claude_start() + body + claude_end("tool_use"))
    chunks = chunks_of(GenerationRequest((HI,), tools=TOOLS, stream=True))
    assert fold(chunks) == tuple(ToolCall(f"toolu_{n}", "now", f'{{"n": {n}}}') for n in range(3))
    assert [piece.index for chunk in chunks for piece in chunk.calls] == [0, 0, 1, 1, 2, 2]


def test_call_cut_by_the_limit(far_end: FarEnd) -> None:
    """It is delivered as far as it came, and the answer ends for its length."""
    block = claude_block(0, use("toolu_1", "now", {}), *json_deltas("", '{"n": '))
    far_end.post(CLAUDE.url, body=claude_event("message_start", message={}) + block + claude_end("max_tokens"))
    chunks = chunks_of(GenerationRequest((HI,), tools=TOOLS, stream=True))
    assert (fold(chunks), chunks[-1].finish_reason) == ((ToolCall("toolu_1", "now", '{"n": '),), "length")


@pytest.mark.parametrize("stream", [False, True])
def test_calls_beside_blank_stops(far_end: FarEnd, stream: bool) -> None:
    """Where the text is cut here, thoughts and calls pass, and text before a call is not held back behind it."""
    blocks = [BLOCKS["thinking"], BLOCKS["text"], BLOCKS["call"]]
    streamed = b"".join(claude_block(n, begun, *deltas) for n, (_, (begun, deltas), _) in enumerate(blocks))
    body = claude_event("message_start", message={}) + streamed + claude_end("tool_use")
    whole = claude_answer("", content=[block for block, _, _ in blocks], stop_reason="tool_use")
    far_end.post(CLAUDE.url, **({"body": body} if stream else {"json": whole}))
    chunks = chunks_of(GenerationRequest((HI,), tools=TOOLS, stop=("\n\n\n",), stream=stream))
    assert fold(chunks) == tuple(part for _, _, parts in blocks for part in parts)


@pytest.mark.parametrize("stream", [False, True])
def test_counts(far_end: FarEnd, stream: bool) -> None:
    """Cached tokens are part of the input, thoughts of the output; a stream's last counts hold, but for its noughts."""
    counts = {"input_tokens": 5, "cache_creation_input_tokens": 70, "cache_read_input_tokens": 600}
    end = {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}}
    start = claude_event("message_start", message={"usage": counts | {"output_tokens": 1}})
    said = {"delta": {"stop_reason": "end_turn"}, "usage": end | {"input_tokens": 0}}
    body = start + claude_event("message_delta", **said) + claude_event("message_stop")
    far_end.post(CLAUDE.url, **({"body": body} if stream else {"json": claude_answer("x", usage=counts | end)}))
    assert chunks_of(GenerationRequest((HI,), stream=stream))[-1].usage == Usage(675, 9, 600, 4)


def test_counts_of_a_stream_that_ends_without(far_end: FarEnd) -> None:
    """The first token's count is not the answer's."""
    end = claude_event("message_delta", delta={"stop_reason": "end_turn"}) + claude_event("message_stop")
    far_end.post(CLAUDE.url, body=claude_start() + end)
    assert chunks_of(GenerationRequest((HI,), stream=True))[-1].usage == Usage(12, None)


def test_calls_after_a_stop() -> None:
    """What comes after the text that ends an answer is not given, in the same piece or later."""
    call = (CallPiece(0, "a", "now", "{}"),)
    chunks = [Chunk("One END two", calls=call), Chunk(calls=call), Chunk("", "tool_calls")]
    assert list(cut_at_stop(iter(chunks), ("END",))) == [Chunk("One ", "stop")]


# Thinking


def told(effort: str, **more: Any) -> dict[str, Any]:
    return {"output_config": {"effort": effort}} | more


ADAPTIVE = {"thinking": {"type": "adaptive"}}
DISABLED = {"thinking": {"type": "disabled"}}


@pytest.mark.parametrize(
    ("model", "effort", "expected"),
    [
        *((model, None, {}) for model in ("claude-haiku-5-5", "claude-haiku-4-5", "claude-opus-4-6")),
        ("claude-haiku-4-5", "none", {}),
        ("claude-haiku-4-5", "minimal", None),
        ("claude-sonnet-4-20250514", "medium", None),
        ("claude-opus-4-6", "none", {}),
        ("claude-opus-4-6", "low", told("low") | ADAPTIVE),
        ("anthropic/claude-sonnet-4.6", "minimal", told("low") | ADAPTIVE),
        ("claude-opus-4-8", "xhigh", told("xhigh") | ADAPTIVE),
        ("claude-haiku-5-5", "high", told("high")),
        ("claude-haiku-5-5", "none", DISABLED),
        ("claude-sonnet-5", "none", DISABLED),
        ("claude-opus-5", "none", DISABLED),
        ("claude-sonnet-5-5", "none", {"thinking": {"type": "between_tools"}}),
        *((model, "none", None) for model in ("claude-opus-5-5", "claude-fable-5-2", "somebody-elses")),
        *((model, "max", told("max")) for model in ("claude-opus-5-5", "claude-fable-5-2", "somebody-elses")),
    ],
)
def test_effort(
    make_client: Serve, far_end: FarEnd, log_lines: Log, model: str, effort: str | None, expected: dict[str, Any] | None
) -> None:
    """An effort is what the model understands (docs/providers.md, 4.3); where it understands none, the log says so."""
    far_end.post(CLAUDE.url, json=claude_answer("x"))
    said = {"reasoning_effort": effort} if effort else {}
    assert ask(make_client(**CLAUDE.settings), CHAT, model=model, max_tokens=10_000, **said).status_code == 200
    body = sent(far_end)
    assert {name: body[name] for name in ("thinking", "output_config") if name in body} == (expected or {})
    left_out = ["reasoning_effort"] if expected is None else None
    assert log_lines()[-1]["attempts"][0].get("left_out") == left_out


FORCED: dict[str, Any] = {"tools": TOOLS, "tool_choice": ToolChoice("required")}
LOOP = (HI, Message("assistant", (ToolCall("a", "now", ""),)), answered("a", Text("1")))


@pytest.mark.parametrize(
    ("model", "messages", "fields", "thinks"),
    [
        ("claude-haiku-4-5", (HI,), {}, False),
        ("claude-opus-4-6", (HI,), {"tools": TOOLS}, True),
        ("claude-opus-4-7", (HI,), FORCED, False),
        ("claude-opus-4-8", (HI,), FORCED, True),
        ("claude-opus-4-6", LOOP, {}, True),
    ],
)
def test_where_thinking_is_refused(
    far_end: FarEnd, model: str, messages: tuple[Message, ...], fields: dict[str, Any], thinks: bool
) -> None:
    """It is left out, and said to be: the limit, the choice and the conversation are as they are."""
    request = GenerationRequest(messages, model=model, reasoning_effort="low", **fields)
    assert ("thinking" in sent_for(far_end, *messages, model=model, reasoning_effort="low", **fields)) is thinks
    claude = make_backend("claude", Settings(**CLAUDE.settings))
    assert claude.left_out(request) == (() if thinks else ("reasoning_effort",))


def test_thinking_takes_no_temperature(far_end: FarEnd) -> None:
    """It is left out and named; where nothing thinks, it stays. A format goes beside the effort."""
    request = GenerationRequest((HI,), model="claude-opus-4-6", temperature=0.2, reasoning_effort="low")
    fields = {"model": request.model, "temperature": 0.2, "response_format": ResponseFormat({"type": "object"})}
    body = sent_for(far_end, reasoning_effort="low", **fields)
    assert "temperature" not in body
    assert body["output_config"].keys() == {"effort", "format"}
    assert make_backend("claude", Settings(**CLAUDE.settings)).left_out(request) == ("temperature",)
    assert sent_for(far_end, reasoning_effort="none", **fields)["temperature"] == 0.2


SEES = {"supported": True}
BLIND = {"image_input": {"supported": False}, "pdf_input": SEES, "structured_outputs": {"supported": False}}


def can(capabilities: Any) -> dict[str, Any]:
    return {"id": "claude-haiku-5-5", "type": "model", "capabilities": capabilities}


ALL = {"documents", "images", "json_schema", "tool_choice", "tools"}


@pytest.mark.parametrize(
    ("said", "serves"),
    [
        ({"json": can(BLIND)}, {"documents", "tool_choice", "tools"}),
        ({"json": can({"image_input": SEES, "thinking": {}})}, ALL),
        ({"json": can(None)}, ALL),
        ({"json": []}, ALL),
        ({"status": 404, "json": claude_error("not_found_error")}, ALL),
    ],
)
def test_abilities(far_end: FarEnd, said: dict[str, Any], serves: set[str]) -> None:
    """What Anthropic says that a model can't do is not asked of it; where it says nothing, all is. It's asked once."""
    far_end.get(f"{CLAUDE.base}/v1/models/claude-haiku-5-5", **said)
    claude = make_backend("claude", Settings(claude_api_key="sk-1"))
    for _ in range(2):
        assert claude.abilities("claude-haiku-5-5", Deadline(5)) == serves
    assert len(far_end.calls) == 1


def test_abilities_that_cant_be_had_now(far_end: FarEnd, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Nothing holds for long that is not known, and what was known is kept: a picture is not sent to a blind model."""
    monkeypatch.setattr("llm_api.backends.http.base.time", clock)
    url, down = f"{CLAUDE.base}/v1/models/claude-haiku-5-5", {"status": 500}
    claude = make_backend("claude", Settings(claude_api_key="sk-1"))
    far_end.get(url, **down)
    found = []
    for seconds, said in ((9, {"json": can(BLIND)}), (2, {"json": can(BLIND)}), (61, down), (11, {"json": can({})})):
        found.append(claude.abilities("claude-haiku-5-5", Deadline(5)))
        clock.now += seconds
        far_end.replace("GET", url, **said)
    assert found == [ALL, ALL, ALL - {"images", "json_schema"}, ALL - {"images", "json_schema"}]
    assert claude.abilities("claude-haiku-5-5", Deadline(5)) == ALL
    assert len(far_end.calls) == 4


def test_abilities_of_all_models(make_client: Serve, far_end: FarEnd) -> None:
    """/v1/models shows what each can do, from the one list."""
    far_end.get(f"{CLAUDE.base}/v1/models", json={"data": [can(BLIND), can({}) | {"id": "claude-opus-5"}]})
    models = make_client(**CLAUDE.settings).get("/v1/models").json["data"]
    assert {model["id"]: set(model["serves"]) for model in models} == {
        "claude/claude-haiku-5-5": {"documents", "tool_choice", "tools"},
        "claude/claude-opus-5": ALL,
    }
    assert len(far_end.calls) == 1


def test_a_model_that_is_blind(make_client: Serve, far_end: FarEnd) -> None:
    """It is sent no picture: the next backend is asked, or the request refused."""
    far_end.get(f"{CLAUDE.base}/v1/models/claude-haiku-5-5", json=can(BLIND))
    client = make_client(**CLAUDE.settings, claude_model="claude-haiku-5-5")
    png = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
    error = error_of(ask(client, "/generate", images=[png]))
    assert (error["code"], error["param"]) == ("unsupported_parameter", "messages")
