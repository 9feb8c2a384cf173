"""OpenAI's Responses: its official client reads each body and event, and what its clients send is understood."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest
from asking import Log, Serve, ask, error_of
from fakes import Fake
from flask.testing import FlaskClient
from openai.types.responses import Response, ResponseStreamEvent
from providers import CLAUDE, FarEnd
from pydantic import BaseModel, TypeAdapter

from llm_api.errors import RateLimited, ServerError, Unreachable
from llm_api.types import (
    CallPiece,
    Chunk,
    Image,
    Message,
    Reasoning,
    ResponseFormat,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
)

PATH = "/v1/responses"
EVENT = TypeAdapter(ResponseStreamEvent)
USAGE = Usage(9, 5, 4, 3)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "weather", "description": "Looks.", "parameters": CITY, "strict": False}
CLOCK = {"type": "function", "name": "clock"}
SPACE = {"type": "namespace", "name": "mcp", "description": "d", "tools": [CLOCK, {"type": "custom", "name": "x"}]}
PARIS = '{"city": "Paris"}'
GIF = "R0lGODlh"


class Skilled(Fake):
    """A fake that serves everything."""

    serves = frozenset({"json_object", "json_schema", "tools", "tool_choice", "images"})


def events_of(data: bytes) -> list[dict[str, Any]]:
    """Read a stream; each event is what the official types say, and has its name and its number."""
    *frames, rest = data.decode().split("\n\n")
    assert rest == ""
    found = []
    for frame in frames:
        if frame.startswith(":"):
            continue
        name, said = frame.split("\n")
        event = json.loads(said.removeprefix("data: "))
        EVENT.validate_python(event)
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == len(found)
        found.append(event)
    return found


def whole_of(client: FlaskClient, **fields: Any) -> dict[str, Any]:
    """Ask for a whole answer; it is what the official type says."""
    reply = ask(client, PATH, **fields)
    assert reply.status_code == 200, reply.json
    Response.model_validate(reply.json, strict=True)
    body: dict[str, Any] = reply.json
    return body


def plain(response: dict[str, Any]) -> dict[str, Any]:
    """Return a response without what each has for itself."""
    said = json.dumps(response).replace(response["id"].removeprefix("resp_"), "ID")
    bare: dict[str, Any] = json.loads(said) | {"created_at": 0}
    return bare


ANSWERS: dict[str, list[Chunk]] = {
    "text": [Chunk("Hi "), Chunk("there"), Chunk("", "stop", USAGE)],
    "nothing": [Chunk("", "stop", USAGE)],
    "no counts": [Chunk("Hi", "stop")],
    "cut": [Chunk("Hi"), Chunk("", "length", USAGE)],
    "filtered": [Chunk("Hi"), Chunk("", "content_filter", USAGE)],
    "refusal": [Chunk("Hm. "), Chunk(refusal="I "), Chunk(refusal="can't."), Chunk("", "stop", USAGE)],
    "thought": [*(Chunk(reasoning=(Reasoning(t, made_by="one"),)) for t in ("H", "m")), Chunk("Hi", "stop", USAGE)],
    "thoughts of Claude's": [
        Chunk(reasoning=(Reasoning("H", made_by="claude"), Reasoning("m", made_by="claude"))),
        Chunk(reasoning=(Reasoning("", "sig", made_by="claude"), Reasoning(data="xyz", made_by="claude"))),
        Chunk("Hi", "stop", USAGE),
    ],
    "a thought, and one that is hidden": [
        Chunk(reasoning=(Reasoning("Hm", made_by="claude"), Reasoning(data="xyz", made_by="claude"))),
        Chunk("Hi", "stop", USAGE),
    ],
    "calls side by side": [
        Chunk("I look."),
        Chunk(calls=(CallPiece(0, "call_1", "weather", '{"city"'), CallPiece(1, "call_2", "mcp__clock"))),
        Chunk(calls=(CallPiece(0, arguments=': "Paris"}'), CallPiece(1, arguments="{}"))),
        Chunk("", "tool_calls", USAGE),
    ],
    "a cut call": [Chunk(calls=(CallPiece(0, "call_1", "weather", '{"ci'),)), Chunk("", "length", USAGE)],
    "text after a call": [
        Chunk("a", calls=(CallPiece(0, "call_1", "weather", "{}"),)),
        Chunk("b", reasoning=(Reasoning("Hm"),)),
        Chunk("", "tool_calls", USAGE),
    ],
}


@pytest.mark.parametrize("chunks", ANSWERS.values(), ids=ANSWERS)
def test_a_stream_is_the_whole(serve: Serve, chunks: list[Chunk]) -> None:
    """The last event has what a whole answer is, and the deltas, by their places, are what the items say."""
    client = serve(Skilled("one", *chunks))
    whole = whole_of(client, tools=[WEATHER, SPACE])
    events = events_of(ask(client, PATH, tools=[WEATHER, SPACE], stream=True).data)
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1]["type"] == f"response.{whole['status']}"
    last = events[-1]["response"]
    assert plain(last) == plain(whole)
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == sorted_items(events)
    for event in events[2:-1]:
        item = last["output"][event["output_index"]]
        assert event.get("item_id", item["id"]) == item["id"]
    assert said_in(events) == [text_of(item) for item in last["output"]]
    opened = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    assert opened == list(range(len(last["output"])))


def sorted_items(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the items of the last event in the order in which they ended."""
    order = [event["output_index"] for event in events if event["type"] == "response.output_item.done"]
    return [events[-1]["response"]["output"][place] for place in order]


def said_in(events: list[dict[str, Any]]) -> list[str]:
    said = [""] * len(events[-1]["response"]["output"])
    for event in events:
        if event["type"].endswith(".delta"):
            said[event["output_index"]] += event["delta"]
    return said


def text_of(item: dict[str, Any]) -> str:
    if item["type"] == "function_call":
        return str(item["arguments"])
    parts = item.get("content") or item.get("summary") or []
    return "".join(part.get("text", part.get("refusal")) for part in parts)


def test_events_of_each_kind(serve: Serve) -> None:
    """Their order is OpenAI's: docs of each, and what Codex and the SDKs wait for."""
    chunks = [Chunk("Hi", reasoning=(Reasoning("Hm"),)), *ANSWERS["a cut call"]]
    events = events_of(ask(serve(Skilled("one", *chunks)), PATH, tools=[WEATHER], stream=True).data)
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress", "output_item.added", "reasoning_summary_part.added"),
        *("reasoning_summary_text.delta", "reasoning_summary_text.done", "reasoning_summary_part.done"),
        *("output_item.done", "output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done", "output_item.added", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done", "incomplete"),
    ]
    response = events[-1]["response"]
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in response["output"]] == ["completed", "completed", "incomplete"]


def test_what_an_answer_repeats(serve: Serve) -> None:
    """The request's parameters, as far as they were served, and the counts."""
    asked = {
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "top_p": 0.9,
        "max_output_tokens": 20,
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "tool_choice": "none",
    }
    body = whole_of(serve(Skilled("one", *ANSWERS["text"])), **asked, tools=[WEATHER, {"type": "web_search"}])
    assert {name: body[name] for name in asked} == asked
    assert (body["tools"], body["store"], body["model"]) == ([WEATHER], False, "one/one-model")
    bare = whole_of(serve(Skilled("one")), text={"verbosity": "low", "format": None})
    assert bare["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert body["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 14,
    }


def test_parameters(serve: Serve) -> None:
    """They come to the backend as in a chat; what only OpenAI's wire has, too."""
    fake = Skilled("one", Chunk('{"city": "Paris"}', "stop"))
    text = {"format": {"type": "json_schema", "name": "c", "schema": CITY, "strict": True}, "verbosity": "low"}
    asked = {"max_output_tokens": 20, "temperature": 0.5, "reasoning": {"effort": "low"}, "text": text, "user": "u"}
    whole_of(serve(fake), instructions="Be brief.", **asked)
    (request,) = fake.asked
    assert request.messages == (Message.of("system", "Be brief."), Message.of("user", "Hi"))
    assert (request.max_tokens, request.temperature, request.reasoning_effort) == (20, 0.5, "low")
    assert request.response_format == ResponseFormat(CITY, "c", True, may_be_cut=True)
    assert request.extras_for("openai") == {"verbosity": "low", "user": "u"}


@pytest.mark.parametrize(
    ("said", "choice"),
    [
        ("auto", ToolChoice()),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "weather"}, ToolChoice("named", "weather")),
        ({"type": "allowed_tools", "mode": "required", "tools": [WEATHER]}, ToolChoice("required")),
        ({"type": "allowed_tools", "mode": "auto", "tools": [WEATHER, {"type": "web_search"}]}, ToolChoice()),
    ],
)
def test_choices(serve: Serve, said: Any, choice: ToolChoice) -> None:
    """The choice is flat here, and repeated as it was kept."""
    fake = Skilled("one", *ANSWERS["a cut call"][:1], Chunk("", "stop"))
    body = whole_of(serve(fake), tools=[WEATHER, CLOCK], tool_choice=said)
    assert fake.asked[0].tool_choice == choice
    assert body["tool_choice"] == (said if choice.name else choice.mode)


# What clients send


ITEMS: list[dict[str, Any]] = [
    {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be brief."}], "id": "msg_1"},
    {"role": "user", "content": [{"type": "input_text", "text": "Look"}, {"type": "input_image", "image_url": None}]},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}], "content": None},
    {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
    },
    {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "arguments": PARIS},
    {"type": "function_call", "call_id": "call_2", "name": "clock", "namespace": "mcp", "arguments": ""},
    {"type": "function_call_output", "call_id": "call_2", "output": "noon"},
    {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "rain"}]},
    {"type": "web_search_call", "id": "ws_1", "status": "completed"},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    {"role": "user", "content": "Why?"},
]
ITEMS[1]["content"][1] |= {"image_url": f"data:image/gif;base64,{GIF}", "detail": "low"}


def test_items(serve: Serve, log_lines: Log) -> None:
    """The items of one answer are one message; those of kinds that nobody here has are left out."""
    fake = Skilled("one")
    whole_of(serve(fake), input=ITEMS)
    assert fake.asked[0].messages == (
        Message.of("system", "Be brief."),
        Message("user", (Text("Look"), Image("image/gif", GIF, detail="low"))),
        Message(
            "assistant",
            (
                *(Reasoning("Hm"), Text("I look.")),
                *(ToolCall("call_1", "weather", PARIS), ToolCall("call_2", "mcp__clock", "")),
            ),
        ),
        Message("tool", (ToolResult("call_2", (Text("noon"),)),)),
        Message("tool", (ToolResult("call_1", (Text("rain"),)),)),
        Message.of("assistant", "No."),
        Message.of("user", "Why?"),
    )
    (line,) = log_lines()
    assert (line["operation"], len(line["messages"])) == ("response", 7)


def test_a_text(serve: Serve, log_lines: Log) -> None:
    """A string is the user's, and a prompt in the log."""
    whole_of(serve(Fake("one")), instructions="Be brief.")
    (line,) = log_lines()
    assert (line["prompt"], line["system"]) == ("Hi", "Be brief.")


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"background": True}, "background"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
    ],
)
def test_what_is_stored_is_refused(serve: Serve, said: dict[str, Any], param: str) -> None:
    """With the reason, and what to do."""
    fake = Skilled("one")
    reply = ask(serve(fake), PATH, **said)
    assert (reply.status_code, error_of(reply)["param"], fake.asked) == (400, param, [])
    assert "Nothing is stored here: send the whole conversation as input." in error_of(reply)["message"]


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["Hi"]}, "input[0]"),
        ({"input": [{"type": "message", "role": "user"}]}, "input[0].content"),
        ({"input": [{"content": "Hi"}]}, "input[0].role"),
        ({"input": [{"role": "tool", "content": "Hi"}]}, "input[0].role"),
        ({"input": [ITEMS[0], {"type": "function_call", "name": "f"}]}, "input[1].call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]}, "input[0].content[0]"),
        ({"input": [{"role": "system", "content": ITEMS[1]["content"]}]}, "input"),
        ({"input": [{"type": 5}]}, "input"),
        ({"input": [{"type": "", "role": "user", "content": "Hi"}]}, "input"),
        ({"tools": 5}, "tools"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": 5}]}, "tools"),
        ({"tools": ["x"]}, "tools"),
        ({"tools": [{"name": "x"}]}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tools": [{"type": "namespace", "name": "a", "tools": None}]}, "tools"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"metadata": {"a": 5}}, "metadata"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(serve: Serve, said: dict[str, Any], where: str) -> None:
    """A 400 says where it is."""
    fake = Skilled("one")
    reply = ask(serve(fake), PATH, **said)
    assert (reply.status_code, fake.asked) == (400, [])
    assert error_of(reply)["message"].startswith(where), error_of(reply)
    assert error_of(reply)["param"] == where.partition("[")[0].partition(".")[0]


def test_null_is_not_said(serve: Serve) -> None:
    """OpenAI's own answers, sent back, are full of nulls."""
    unsaid = ("previous_response_id", "conversation", "prompt", "background", "tools", "text", "reasoning", "metadata")
    whole_of(serve(Fake("one")), **dict.fromkeys(unsaid))
    whole_of(serve(Fake("one")), text={"format": None, "verbosity": None}, reasoning={"effort": None}, background=False)


def test_claude_thoughts_come_back(serve: Serve) -> None:
    """What only Claude can read travels in `encrypted_content`, and is Claude's when the client sends it back."""
    fake = Skilled("one", *ANSWERS["thoughts of Claude's"])
    client = serve(fake)
    said = whole_of(client)["output"]
    assert [item["type"] for item in said] == ["reasoning", "reasoning", "message"]
    whole_of(client, input=[ITEMS[0], *said])
    thoughts = (Reasoning("Hm", "sig", None, "claude"), Reasoning("", None, "xyz", "claude"))
    assert fake.asked[1].messages[1].parts == (*thoughts, Text("Hi"))
    foreign = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA:not ours"}
    whole_of(client, input=[foreign, ITEMS[-1]])
    assert fake.asked[2].messages[0].parts == (Reasoning(),)


def test_a_hidden_thought_is_an_item_of_its_own(serve: Serve) -> None:
    """Claude wants each block back as it was."""
    items = whole_of(serve(Skilled("one", *ANSWERS["a thought, and one that is hidden"])))["output"]
    found = [(item["type"], item.get("encrypted_content")) for item in items]
    assert found == [("reasoning", None), ("reasoning", "claude:data:xyz"), ("message", None)]


# Codex 0.171, as recorded (docs/providers.md): no instructions, ids on items, namespaces, a hosted tool


CODEX: dict[str, Any] = {
    "model": "default",
    "input": [
        {"type": "message", "role": "developer", "id": "msg_1", "content": [{"type": "input_text", "text": "Rules."}]},
        {"type": "message", "role": "developer", "id": "msg_2", "content": [{"type": "input_text", "text": "More."}]},
        {"type": "message", "role": "user", "id": "msg_3", "content": [{"type": "input_text", "text": "What time?"}]},
    ],
    "tools": [WEATHER, SPACE, {"type": "web_search", "external_web_access": False}],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "k",
    "client_metadata": {"session": "s"},
    "stream": True,
}


def test_codex(serve: Serve) -> None:
    """A turn of Codex: its namespace tool has one name at the backend and two for Codex; its history comes back."""
    call = [
        Chunk(reasoning=(Reasoning("Hm", made_by="one"),)),
        Chunk(calls=(CallPiece(0, "call_1", "mcp__clock", "{}"),)),
    ]
    fake = Skilled("one", turns=[[*call, Chunk("", "tool_calls", USAGE)], [Chunk("Noon.", "stop", USAGE)]])
    client = serve(fake)
    done = [
        event["item"] for event in events_of(ask(client, PATH, **CODEX).data) if event["type"].endswith("item.done")
    ]
    assert [(item["type"], item.get("namespace"), item.get("name")) for item in done] == [
        ("reasoning", None, None),
        ("function_call", "mcp", "clock"),
    ]
    assert fake.asked[0].tools == (Tool("weather", "Looks.", CITY, False), Tool("mcp__clock"))
    result = {"type": "function_call_output", "id": "fco_1", "call_id": "call_1", "output": "12:00"}
    back = [done[0] | {"content": None}, done[1], result]
    events = events_of(ask(client, PATH, **CODEX | {"input": [*CODEX["input"], *back]}).data)
    assert text_of(events[-1]["response"]["output"][0]) == "Noon."
    assert fake.asked[1].messages[3:] == (
        Message("assistant", (Reasoning("Hm"), ToolCall("call_1", "mcp__clock", "{}"))),
        Message("tool", (ToolResult("call_1", (Text("12:00"),)),)),
    )


def test_what_is_left_out_is_named(serve: Serve) -> None:
    """Kinds of tools, those of namespaces too, of items, and fields."""
    reply = ask(serve(Skilled("one")), PATH, **CODEX | {"input": ITEMS})
    fields, kinds = "client_metadata, include, store", "custom, web_search, web_search_call"
    assert (reply.status_code, reply.headers["X-LLM-Ignored"]) == (200, f"{fields}, {kinds}")


@pytest.mark.parametrize("part", [{"type": "smell"}, {"type": 5}, {"type": "input_file", "file_id": "x"}, {}, "x"])
@pytest.mark.parametrize(
    ("item", "holder"),
    [
        ({"role": "user"}, "content"),
        ({"role": "assistant"}, "content"),
        ({"type": "function_call_output", "call_id": "call_1"}, "output"),
        ({"type": "reasoning"}, "summary"),
    ],
)
def test_a_part_is_never_left_out(serve: Serve, item: dict[str, Any], holder: str, part: Any) -> None:
    """What the model would not see is refused, with its place, beside what it sees too."""
    fake = Skilled("one")
    parts = [{"type": "input_text", "text": "Hm"}, part]
    reply = ask(serve(fake), PATH, input=[*ITEMS, item | {holder: parts}])
    assert (reply.status_code, fake.asked) == (400, [])
    assert f"input[{len(ITEMS)}].{holder}[1]" in error_of(reply)["message"]


def test_a_name_that_is_too_long(serve: Serve, far_end: FarEnd) -> None:
    """A namespace and its tool may have more characters together than a backend takes; they come back as they were."""

    def answer(request: Any) -> tuple[int, dict[str, str], str]:
        (tool,) = json.loads(request.body)["tools"]
        assert len(tool["name"]) == 64
        use = {"type": "tool_use", "id": "toolu_1", "name": tool["name"], "input": {}}
        return 200, {}, json.dumps({"model": "c", "content": [use], "stop_reason": "tool_use", "usage": {}})

    far_end.add_callback("POST", CLAUDE.url, answer)
    space = SPACE | {"name": "n" * 50, "tools": [CLOCK | {"name": "c" * 20}]}
    (item,) = whole_of(serve(**CLAUDE.settings), tools=[space])["output"]
    assert (item["namespace"], item["name"]) == ("n" * 50, "c" * 20)


# Errors


def test_an_error_has_its_status(serve: Serve) -> None:
    """Before the answer begins; streamed, too."""
    for stream in (False, True):
        reply = ask(serve(Fake("one", Unreachable("gone"))), PATH, stream=stream)
        assert (reply.status_code, error_of(reply)["code"]) == (503, "unreachable")


@pytest.mark.parametrize("error", [ServerError("it broke"), RateLimited("slow")])
def test_a_stream_that_breaks(serve: Serve, error: Exception) -> None:
    """What came is in `response.failed`; then an error that the official client raises. Nothing says it is complete."""
    events = events_of(ask(serve(Fake("one", Chunk("Hi "), Chunk("there"), error)), PATH, stream=True).data)
    failed, last = events[-2:]
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": "server_error", "message": last["message"]}
    (item,) = failed["response"]["output"]
    assert (text_of(item), item["status"]) == ("Hi there", "incomplete")
    assert (last["type"], last["code"]) == ("error", last["error"]["code"])
    assert not [event for event in events if event["type"] in ("response.completed", "response.output_item.done")]


# The official client


@pytest.fixture
def sdk(serve: Serve) -> Iterator[Callable[..., openai.OpenAI]]:
    """Return a maker of official clients that reach an app with these backends."""
    clients = []

    def make(*backends: Fake) -> openai.OpenAI:
        transport = httpx.WSGITransport(app=serve(*backends).application)
        http: Any = httpx.Client(transport=transport)
        clients.append(openai.OpenAI(api_key="x", base_url="http://localhost/v1", max_retries=0, http_client=http))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


Sdk = Callable[..., openai.OpenAI]


class City(BaseModel):
    city: str


def test_create_and_stream(sdk: Sdk) -> None:
    """The text is the same by `create`, whole and streamed, and by the stream helper."""
    client = sdk(Fake("one", *ANSWERS["text"]))
    whole = client.responses.create(model="default", input="Hi")
    assert (whole.output_text, whole.status) == ("Hi there", "completed")
    assert whole.usage
    assert whole.usage.total_tokens == 14
    events = list(client.responses.create(model="default", input="Hi", stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "Hi there"
    with client.responses.stream(model="default", input="Hi") as stream:
        assert [event.type for event in stream][-1] == "response.completed"
        assert stream.get_final_response().output_text == "Hi there"


def test_parse(sdk: Sdk) -> None:
    """`.parse` gives the object, whole and streamed; a refusal is none."""
    client = sdk(Skilled("one", Chunk(PARIS, "stop", USAGE)))
    parsed = client.responses.parse(model="default", input="Where?", text_format=City)
    assert parsed.output_parsed == City(city="Paris")
    with client.responses.stream(model="default", input="Where?", text_format=City) as stream:
        assert stream.get_final_response().output_parsed == City(city="Paris")
    refusing = sdk(Skilled("one", *ANSWERS["refusal"][1:]))
    refused: Any = refusing.responses.parse(model="default", input="?", text_format=City)
    assert (refused.output_parsed, refused.output[0].content[0].refusal) == (None, "I can't.")


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tool_loop(sdk: Sdk, streamed: bool) -> None:
    """Call, result, answer; the client sends back the items as it got them."""
    fake = Skilled("one", turns=[ANSWERS["calls side by side"], [Chunk("Rain.", "stop", USAGE)]])
    client, said = sdk(fake), [{"role": "user", "content": "Weather?"}]
    for _ in range(2):
        asked: dict[str, Any] = {"model": "default", "input": said, "tools": [WEATHER, SPACE]}
        if streamed:
            with client.responses.stream(**asked) as stream:
                response: Any = stream.get_final_response()
        else:
            response = client.responses.create(**asked)
        said += response.output
        calls = [item for item in response.output if item.type == "function_call"]
        said += [{"type": "function_call_output", "call_id": call.call_id, "output": call.name} for call in calls]
    assert response.output_text == "Rain."
    assert fake.asked[1].messages[1:] == (
        Message(
            "assistant",
            (Text("I look."), ToolCall("call_1", "weather", PARIS), ToolCall("call_2", "mcp__clock", "{}")),
        ),
        Message("tool", (ToolResult("call_1", (Text("weather"),)),)),
        Message("tool", (ToolResult("call_2", (Text("clock"),)),)),
    )


def test_errors_are_raised(sdk: Sdk) -> None:
    """By the client's own classes, in the middle of a stream too."""
    with pytest.raises(openai.BadRequestError, match="Nothing is stored here"):
        sdk(Fake("one")).responses.create(model="default", input="Hi", previous_response_id="resp_1")
    broken = sdk(Fake("one", Chunk("Hi"), ServerError("it broke")))
    with pytest.raises(openai.APIError, match="it broke"):
        list(broken.responses.create(model="default", input="Hi", stream=True))


def test_before_claude(serve: Serve, far_end: FarEnd) -> None:
    """Through a real backend: Claude's signature leaves as it came."""
    blocks = [{"type": "thinking", "thinking": "Hm", "signature": "sig"}]
    calls = [{"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}]
    answer = {"model": "c", "content": blocks + calls, "stop_reason": "tool_use", "usage": {}}
    far_end.post(CLAUDE.url, json=answer)
    client = serve(**CLAUDE.settings)
    said = whole_of(client, tools=[WEATHER])["output"]
    result = {"type": "function_call_output", "call_id": "toolu_1", "output": "rain"}
    whole_of(client, tools=[WEATHER], input=[ITEMS[-1], *said, result])
    sent = json.loads(far_end.calls[-1].request.body or "")
    assert sent["messages"][1]["content"] == blocks + calls
