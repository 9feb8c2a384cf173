"""Each of 79 exchanges recorded from Ollama 0.24 (recorded/ollama.jsonl), with what must become of its answer here.

A request of the recording that the service can make is made, and goes out as it was recorded. Of the others only the
answer is replayed, to a request for text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from asking import Log, Serve, ask, error_of, lines_of, read_events
from providers import OLLAMA, FarEnd, sent
from werkzeug.test import TestResponse

from llm_api import Settings
from llm_api.backends import Backend, make_backend
from llm_api.errors import ModelNotFound
from llm_api.runtime.deadline import Deadline
from llm_api.types import GenerationRequest, Message, Reasoning, Text, fold

Json = dict[str, Any]
RECORDED = Path(__file__).parents[1] / "recorded" / "ollama.jsonl"
EXCHANGES: dict[str, Json] = {said["name"]: said for said in map(json.loads, RECORDED.read_text().splitlines())}
CHAT = "/v1/chat/completions"
OURS = {"num_predict": "max_tokens", "temperature": "temperature", "stop": "stop"}

# Their requests are made; those of the others can't be, or are no answer to (JSON that is cut: test_structured.py).
MADE = {
    "chat", "chat stream", "chat length", "chat stream length", "chat stop", "chat system", "chat emoji stream",
    "json schema", "json schema stream", "thinking off",
    "unknown model", "unknown model stream", "bad name", "too long", "too long stream", "schema with a pattern",
    "runner killed in mid-stream", "runner killed in a whole answer",
}  # fmt: skip
# Not read by this service yet.
LATER = {
    **dict.fromkeys(("head", "root", "ps"), "the command line asks them of a front that speaks Ollama's API"),
    **dict.fromkeys(("embed", "embed many", "embed none", "embed empty text"), "embeddings"),
    **dict.fromkeys(("embed too long", "embed number", "embed unknown"), "embeddings"),
}
LISTS = {"version", "tags", "show", "show tools", "show thinking", "show by name", "show unknown"}
CONTEXT = (400, "context_length_exceeded", "OLLAMA_CONTEXT_LENGTH", "num_ctx", "the input length exceeds the context")
MEANT = (400, "request_refused")
NO_ANSWER = (502, "invalid_answer")
CALLED = (*NO_ANSWER, "called a tool where none was offered")
# The status and code of the answer, and words in its message.
REFUSED: dict[str, tuple[Any, ...]] = {
    "unload": (*NO_ANSWER, "unload"),
    "load": (*NO_ANSWER, "load"),
    # the answers of another route are none to a chat
    **dict.fromkeys(("load generate", "generate", "generate stream", "generate as the command line"), NO_ANSWER),
    **dict.fromkeys(("tool call", "tool call one of two", "tool call without arguments"), CALLED),
    **dict.fromkeys(("tool call stream", "tool call one of two stream", "tool call without arguments stream"), CALLED),
    "thinking refused": (*MEANT, '"smol" does not support thinking'),
    "tools refused": (*MEANT, "library/smol:latest does not support tools"),
    "tool result arguments as text": (*MEANT, "can't find closing '}'"),
    "image data url": (*MEANT, "illegal base64 data at input byte 4"),
    "image not base64": (*MEANT, "illegal base64 data at input byte 5"),
    "unknown model": (404, "model_not_found", "ollama pull nope", "pulled: smolthink, smoljson, smoltools, smol"),
    "unknown model stream": (404, "model_not_found", "ollama pull nope"),
    "bad name": (404, "model_not_found", "invalid model name"),
    "too long": CONTEXT,
    "too long stream": CONTEXT,
    "schema with a pattern": (*MEANT, "invalid JSON schema in format"),
    "schema of no type": (*MEANT, "invalid JSON schema in format"),
    "format unknown": (*MEANT, 'expected "json" or a valid JSON Schema object'),
    "option of a wrong type": (*MEANT, 'option "temperature" must be of type float32'),
    "not json": (*MEANT, "unexpected EOF"),
    "no body": (*MEANT, "missing request body"),
    "no model": (*MEANT, "model is required"),
    "messages of a wrong type": (*MEANT, "cannot unmarshal string"),
    "unknown route": (*NO_ANSWER, "base URL"),
    "runner killed in a whole answer": (502, "server_error", "running the model: unexpected EOF"),
}
BROKEN = "runner killed in mid-stream"
ANSWERED = EXCHANGES.keys() - LATER - LISTS - REFUSED.keys() - {BROKEN}
# What is known of some of them by reading; the rest is held against the recording's own words.
TEXTS = {
    "chat": "The capital of France is Paris.",
    "chat stream": "The capital of France is Paris.",
    "chat stop": "The capital of France is ",
    "thinking": "4",
    "thinking stream": "4",
    "thinking only": "",
    "thinking by default": "",
    "tool call cut": '{\n  "name": "get_weather",\n ',
    "tool call cut stream": '{\n  "name": "get_weather",\n ',
}


# Their requests are made with tools. The id (None: Ollama gave none), name and arguments of the calls, as written.
PARIS = '{\n    "city": "Paris"\n  }'
CALLS: dict[str, list[tuple[str | None, str, str]]] = {
    "tool call": [("call_9nit1ykn", "get_weather", '{"city": "Paris"}')],
    "tool call stream": [("call_vcdplox0", "get_weather", '{"city": "Paris"}')],
    "tool call one of two": [("call_7qny021i", "get_time", '{"zone": "Paris"}')],
    "tool call one of two stream": [("call_palz6cz8", "get_time", '{"zone": "Paris"}')],
    "tool call without arguments": [("call_7ljhc3pq", "now", "{}")],
    "tool call without arguments stream": [("call_e9n5zkhn", "now", "{}")],
    **{name: [(None, "get_weather", "")] for name in ("tool call cut", "tool call cut stream")},
    **{name: [(None, "get_weather", PARIS)] for name in ("forced without tools", "forced without tools stream")},
    **{name: [] for name in ("tools text", "tools text stream", "tool result")},
}


def test_none_is_forgotten() -> None:
    """All 79 are replayed or left for later, and ten are left."""
    assert len(EXCHANGES) == 79
    assert EXCHANGES.keys() >= {*LATER, *LISTS, *REFUSED, *MADE, *TEXTS, *CALLS}
    assert (len(LATER), len(LISTS), len(REFUSED), len(ANSWERED), len([BROKEN])) == (10, 7, 32, 29, 1)


def replay(far_end: FarEnd, name: str, path: str | None = None) -> None:
    """Let the far end give the answer of an exchange, at the exchange's path or at another."""
    said = EXCHANGES[name]
    body = said["body"] if isinstance(said["body"], str) else json.dumps(said["body"])
    method, url = said["request"]["method"], OLLAMA.base + (path or said["request"]["path"])
    far_end.add(method, url, body=body, status=said["status"], content_type=said["content_type"])


def lines(name: str) -> list[Json]:
    """Return the objects of an answer."""
    return [json.loads(line) for line in EXCHANGES[name]["body"].splitlines()]


def is_stream(name: str) -> bool:
    request = EXCHANGES[name]["request"]["body"]
    return isinstance(request, dict) and request.get("stream", True) is True


def our_request(name: str) -> Json:
    """Return the fields for `/generate` that ask what the exchange asks."""
    body = EXCHANGES[name]["request"]["body"]
    texts = {("prompt" if m["role"] == "user" else m["role"]): m["content"] for m in body["messages"]}
    options = {OURS[theirs]: value for theirs, value in body["options"].items()}
    wanted = {"response_format": body["format"]} if "format" in body else {}
    return texts | options | wanted | {"model": body["model"]}


def ask_for(client: Any, far_end: FarEnd, name: str) -> TestResponse:
    """Ask what the exchange asks, or for text, and get its answer; hold what was sent against the recording."""
    replay(far_end, name, OLLAMA.path)
    reply = ask(client, stream=is_stream(name), details=True, **(our_request(name) if name in MADE else {}))
    asked = next(json.loads(call.request.body) for call in far_end.calls if call.request.url == OLLAMA.url)
    if name in MADE:
        assert asked | EXCHANGES[name]["request"]["body"] == asked
    assert (asked["shift"], asked["truncate"], asked["think"]) == (False, False, False)
    return reply


@pytest.fixture
def client(make_client: Serve) -> Any:
    return make_client(**OLLAMA.settings)


@pytest.mark.parametrize("name", sorted(ANSWERED))
def test_answer(client: Any, far_end: FarEnd, log_lines: Log, name: str) -> None:
    """Text, reason for the end, counts and model of an answer are what Ollama said, whole or streamed."""
    last = lines(name)[-1]
    text = "".join(line["message"]["content"] for line in lines(name))
    assert TEXTS.get(name, text) == text
    reply = ask_for(client, far_end, name)
    assert reply.status_code == 200, reply.data
    said = lines_of(reply) if is_stream(name) else [reply.json]
    assert "".join(line["response"] for line in said) == text
    details = said[-1]["details"]
    assert (details["finish_reason"], details["model"]) == (last["done_reason"], last["model"])
    assert details["usage"] == {"input_tokens": last["prompt_eval_count"], "output_tokens": last["eval_count"]}
    assert (log_lines()[-1]["status"], log_lines()[-1]["response"]) == ("ok", text)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_no_answer(client: Any, far_end: FarEnd, log_lines: Log, name: str) -> None:
    """What is no answer is never taken for one: the status says whose fault it is, and the message why."""
    status, code, *words = REFUSED[name]
    far_end.assert_all_requests_are_fired = False
    replay(far_end, "tags")
    reply = ask_for(client, far_end, name)
    assert (reply.status_code, error_of(reply)["code"]) == (status, code)
    message = error_of(reply)["message"]
    assert all(word in message for word in words), message
    assert [line["error"]["message"] for line in log_lines()] == [message]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_who_answers_then(make_client: Serve, far_end: FarEnd, name: str) -> None:
    """The client's own fault is the client's with a fallback too; for all else another backend answers."""
    status, code, *_ = REFUSED[name]
    far_end.assert_all_requests_are_fired = False
    replay(far_end, "tags")
    reply = ask_for(make_client(**OLLAMA.settings, llm_fallback=("stub",)), far_end, name)
    if status == 400:
        assert error_of(reply)["code"] == code
    else:
        assert (reply.status_code, reply.headers.get("X-LLM-Fallback")) == (200, code)


def test_broken_stream(client: Any, far_end: FarEnd, log_lines: Log) -> None:
    """A runner that is killed ends the stream with Ollama's reason, for the client and in the log."""
    *begun, last = lines_of(ask_for(client, far_end, BROKEN))
    assert "".join(line["response"] for line in begun) == "The tale of"
    assert last["error"]["code"] == "server_error"
    assert "an error was encountered while running the model: unexpected EOF" in last["error"]["message"]
    assert log_lines()[-1]["error"]["message"] == last["error"]["message"]


def message_of_ours(said: Json) -> Json:
    """Return a message of the recording as a client of OpenAI's API sends it."""
    calls = [
        call | {"function": call["function"] | {"arguments": json.dumps(call["function"]["arguments"])}}
        for call in said.get("tool_calls", ())
    ]
    ours = {name: value for name, value in said.items() if name != "tool_name"}
    return ours | ({"tool_calls": calls} if calls else {})


def tools_request(body: Json) -> Json:
    """Return the fields for `/v1/chat/completions` that ask what `body` asks, with the parameters that it forces."""
    forced = body.get("format", {}).get("anyOf", [body["format"]] if "format" in body else [])
    schemas = {shape["properties"]["name"]["const"]: shape["properties"]["arguments"] for shape in forced}
    tools = body.get("tools") or [{"type": "function", "function": {"name": name}} for name in schemas]
    functions = [tool["function"] for tool in tools]
    parameters = [schemas.get(function["name"], function.get("parameters")) for function in functions]
    ours = [
        {"type": "function", "function": function | {"parameters": schema}}
        for function, schema in zip(functions, parameters, strict=True)
    ]
    options = {OURS[theirs]: value for theirs, value in body["options"].items()}
    return options | {
        "model": body["model"],
        "messages": list(map(message_of_ours, body["messages"])),
        "tools": ours,
        "tool_choice": "required" if forced else "auto",
    }


@pytest.mark.parametrize("name", sorted(CALLS))
def test_calls(client: Any, far_end: FarEnd, name: str) -> None:
    """Tools go out as recorded, a choice as the format that forces it; calls, counts and reason are what came.

    A model without tools is told them beside.
    """
    body, last = EXCHANGES[name]["request"]["body"], lines(name)[-1]
    replay(far_end, "show tools" if "tools" in body else "show")
    replay(far_end, name)
    fields = tools_request(body)
    reply = ask(
        client, "/v1/chat/completions", stream=is_stream(name), stream_options={"include_usage": True}, **fields
    )
    assert reply.status_code == 200, reply.data
    asked = sent(far_end)
    if "tools" not in body:
        assert fields["tools"][0]["function"]["name"] in asked["messages"].pop(0)["content"]
    assert asked.get("tools", []) == (fields["tools"] if "tools" in body else [])
    assert asked | body | {"tools": asked.get("tools")} == asked | {"tools": asked.get("tools")}
    said = read_answer(reply)
    assert [(name, arguments) for _, name, arguments in said["calls"]] == [call[1:] for call in CALLS[name]]
    for (our_id, *_), (their_id, *_) in zip(said["calls"], CALLS[name], strict=True):
        assert our_id == their_id or (their_id is None and our_id.startswith("call_"))
    text = "".join(line["message"]["content"] for line in lines(name))
    assert said["text"] == ("" if CALLS[name] else text)
    assert said["finish"] == ("tool_calls" if CALLS[name] and "cut" not in name else last["done_reason"])
    assert (said["input"], said["output"]) == (last["prompt_eval_count"], last["eval_count"])


def read_answer(reply: TestResponse) -> Json:
    """Return the text, calls, reason and counts of an answer of `/v1/chat/completions`, whole or streamed."""
    events = [reply.json] if reply.is_json else read_events(reply.data)[:-1]
    choices = [choice for event in events for choice in event["choices"]]
    messages = [choice.get("message") or choice["delta"] for choice in choices]
    calls: dict[int, list[str]] = {}
    for number, call in enumerate(call for message in messages for call in message.get("tool_calls") or ()):
        whole = calls.setdefault(call.get("index", number), [call.get("id"), call["function"].get("name"), ""])
        whole[2] += call["function"]["arguments"]
    usage = events[-1]["usage"]
    return {
        "text": "".join(message.get("content") or "" for message in messages),
        "thought": "".join(message.get("reasoning_content") or "" for message in messages),
        "calls": [tuple(call) for call in calls.values()],
        "finish": choices[-1]["finish_reason"],
        "input": usage["prompt_tokens"],
        "output": usage["completion_tokens"],
    }


@pytest.mark.parametrize("name", ["thinking", "thinking stream", "thinking only"])
def test_thoughts(far_end: FarEnd, name: str) -> None:
    """Thoughts go out where Ollama had them, and come apart from the text."""
    body = EXCHANGES[name]["request"]["body"]
    replay(far_end, name)
    request = GenerationRequest(
        tuple(map(message_with_thoughts, body["messages"])),
        model=body["model"],
        reasoning_effort="low",
        stream=is_stream(name),
    )
    chunks = list(backend().stream(request, Deadline(5)))
    assert (sent(far_end)["messages"], sent(far_end)["think"]) == (body["messages"], "low")
    said = [line["message"] for line in lines(name)]
    thought = "".join(message.get("thinking", "") for message in said)
    text = "".join(message["content"] for message in said)
    assert fold(chunks) == (Reasoning(thought, made_by="ollama"), *([Text(text)] if text else []))
    assert chunks[-1].finish_reason == lines(name)[-1]["done_reason"]


def message_with_thoughts(said: Json) -> Message:
    thoughts = (Reasoning(said["thinking"], made_by="ollama"),) if "thinking" in said else ()
    return Message(said["role"], (*thoughts, Text(said["content"])))


def test_model_that_cannot_think(client: Any, far_end: FarEnd, log_lines: Log) -> None:
    """It is asked again at once without, from then on too, and the log says so."""
    replay(far_end, "thinking refused")
    replay(far_end, "chat")
    for _ in range(2):
        reply = ask(client, CHAT, reasoning_effort="high", model="smol")
        assert read_answer(reply)["text"] == TEXTS["chat"]
    assert [sent(far_end, number)["think"] for number in range(3)] == ["high", False, False]
    assert log_lines()[-1]["attempts"][-1]["left_out"] == ["reasoning_effort"]


@pytest.mark.parametrize(("name", "more"), [("show", set()), ("show thinking", set()), ("show tools", {"tools"})])
def test_shown_abilities(far_end: FarEnd, name: str, more: set[str]) -> None:
    """What a model can do is what Ollama says of it: a picture that it can't see would be dropped without a word."""
    replay(far_end, name)
    assert backend().abilities("smol", Deadline(5)) == {"json_object", "json_schema", "tool_choice"} | more


def backend(**settings: Any) -> Backend:
    return make_backend("ollama", Settings(**settings))


@pytest.mark.parametrize("name", ["show", "show tools", "show thinking", "show by name"])
def test_shown_model(far_end: FarEnd, name: str) -> None:
    """A model that Ollama shows is there and can chat."""
    replay(far_end, name)
    model = EXCHANGES[name]["request"]["body"]["model"] or "smol"
    assert backend(ollama_model=model).has_model(Deadline(5)) is True
    assert sent(far_end) == {"model": model}


def test_unknown_model(far_end: FarEnd) -> None:
    """A model that it does not show isn't there, and those that are, are named."""
    replay(far_end, "show unknown")
    replay(far_end, "tags")
    with pytest.raises(ModelNotFound, match=r"ollama pull nope.*\(pulled: smolthink, smoljson, smoltools, smol\)"):
        backend(ollama_model="nope").check(Deadline(5))


def test_listed_models(far_end: FarEnd) -> None:
    """The list is read as names without the tag that goes without saying."""
    replay(far_end, "tags")
    assert backend().list_models(Deadline(5)) == ["smolthink", "smoljson", "smoltools", "smol"]


def test_version(far_end: FarEnd) -> None:
    """A server for OpenAI's wire that has Ollama's version is told to be one."""
    replay(far_end, "version")
    caveat = make_backend("openai", Settings(openai_base_url=f"{OLLAMA.base}/v1")).caveat(Deadline(5))
    assert "LLM_BACKEND=ollama" in (caveat or "")
