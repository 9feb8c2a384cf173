"""What is peculiar to Ollama's chat API (docs/providers.md, 2): models are pulled, and have tags."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import requests
from asking import GENERATE, Log, Serve, ask, error_of, lines_of, texts_of
from fakes import Clock
from flask import Flask
from jsonschema import Draft202012Validator
from providers import AT_ONCE, OLLAMA, FarEnd, check_fallback, ollama_answer, ollama_line, sent

from llm_api import LLMAPI, Settings
from llm_api.backends import Backend, make_backend
from llm_api.errors import InvalidAnswer, ModelNotFound, NotConfigured, RequestRefused
from llm_api.runtime.deadline import Deadline
from llm_api.types import (
    Chunk,
    GenerationRequest,
    Image,
    Message,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    fold,
)

CHAT = "/v1/chat/completions"
SHOW = f"{OLLAMA.base}/api/show"

TAGS = {"models": [{"name": "gemma4:latest", "model": "gemma4:latest"}, {"name": "llama3.2:1b"}]}


def test_stream_with_text_in_its_last_line(make_client: Serve, far_end: FarEnd) -> None:
    """Text that comes with the end of the stream is not lost."""
    far_end.post(OLLAMA.url, json=ollama_answer("Hello", done_reason="length"))
    reply = ask(make_client(**OLLAMA.settings), stream=True)
    assert texts_of(reply) == ["Hello"]
    assert lines_of(reply)[-1]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("said", "model", "tags", "pulled"),
    [
        ({}, "llama2", {"json": TAGS}, "gemma4, llama3.2:1b"),
        ({"model": "mine:7b"}, "mine:7b", {"json": TAGS}, "gemma4, llama3.2:1b"),
        ({}, "llama2", {"json": {"models": []}}, "none"),
        ({}, "llama2", {"status": 500}, "not known"),
        ({}, "llama2", {"json": {"wrong": 1}}, "not known"),
        ({}, "llama2", {"json": {"models": None}}, "not known"),
        ({}, "llama2", {"body": "<html>"}, "not known"),
    ],
)
def test_model_that_is_not_pulled(
    make_client: Serve,
    far_end: FarEnd,
    log_lines: Log,
    said: dict[str, str],
    model: str,
    tags: dict[str, Any],
    pulled: str,
) -> None:
    """A 404 names the command that pulls the model and the models that are there, as far as these are known."""
    far_end.post(OLLAMA.url, status=404, json={"error": f"model '{model}' not found"})
    far_end.get(OLLAMA.models_url, **tags)
    reply = ask(make_client(**OLLAMA.settings), **said)
    message = f"ollama has no model '{model}': pull it with `ollama pull {model}` (pulled: {pulled})"
    assert reply.status_code == 404
    assert error_of(reply) | {"type": None} == {
        "message": message,
        "type": None,
        "code": "model_not_found",
        "param": "model",
    }
    backed = ask(make_client(**OLLAMA.settings, llm_fallback=("stub",)), **said)
    check_fallback(backed, log_lines()[-1], "model_not_found", "ollama")


def backend(**settings: Any) -> Backend:
    return make_backend("ollama", Settings(**settings))


FORMS = ["SMOL", "smol", "smol:latest", "library/smol", "registry.example/library/smol:latest", "hf.co/org/name:Q4_K_M"]


def shown(*can: str) -> dict[str, Any]:
    """Return the answer of `/api/show` for a model with these abilities; an older Ollama names none."""
    return {"details": {"format": "gguf"}, "model_info": {}} | ({"capabilities": can} if can else {})


@pytest.mark.parametrize("can", [(), ("completion",), ("completion", "tools", "something new")], ids=str)
@pytest.mark.parametrize("model", FORMS)
def test_check_of_a_pulled_model(far_end: FarEnd, model: str, can: tuple[str, ...]) -> None:
    """Ollama is asked for the model by the name that is configured, whose forms it knows."""
    far_end.post(SHOW, json=shown(*can))
    assert backend(ollama_model=model).check(Deadline(5)) is None
    assert sent(far_end) == {"model": model}


@pytest.mark.parametrize("verb", ["check", "has_model"])
def test_check_of_a_model_that_is_not_pulled(far_end: FarEnd, verb: str) -> None:
    """It says how to pull it, and which are there."""
    far_end.post(SHOW, status=404, json={"error": "model 'llama2' not found"})
    far_end.get(OLLAMA.models_url, json=TAGS)
    with pytest.raises(ModelNotFound, match=r"ollama pull llama2`.*gemma4, llama3.2:1b"):
        getattr(backend(), verb)(Deadline(5))


@pytest.mark.parametrize("can", [("embedding",), ("image", "vision")], ids=str)
def test_check_of_a_model_that_cannot_chat(far_end: FarEnd, can: tuple[str, ...]) -> None:
    """One that is there for other work can't answer."""
    far_end.post(SHOW, json=shown(*can))
    with pytest.raises(NotConfigured, match=f"nomic can't chat, only {', '.join(can)}: set OLLAMA_MODEL"):
        backend(ollama_model="nomic").check(Deadline(5))


@pytest.mark.parametrize("model", FORMS)
def test_health(make_client: Serve, far_end: FarEnd, model: str) -> None:
    """A service is healthy whichever of its forms the model's name has."""
    far_end.post(SHOW, json=shown("completion"))
    assert make_client(**OLLAMA.settings, ollama_model=model).get("/health").json["status"] == "healthy"


# Whose fault an error is, and why


def runners(status: int, message: str, kind: str = "invalid_request_error") -> str:
    """Return the text of an error as Ollama 0.34 and later pass it on from their runner."""
    return json.dumps({"error": {"code": status, "message": message, "type": kind}})


MEMORY = "model requires more system memory (9.9 GiB) than is available (7.6 GiB)"
OVERFLOW = "request (2622 tokens) exceeds the available context size (512 tokens), try increasing it"
BUSY = "server busy, please try again.  maximum pending requests exceeded"
# Its status and text; our status, code and param.
ERRORS = [
    (500, "invalid JSON schema in format", 400, "request_refused", "response_format"),
    (
        500,
        'invalid format: "\\"yaml\\""; expected "json" or a valid JSON Schema',
        400,
        "request_refused",
        "response_format",
    ),
    (500, runners(400, "Failed to parse grammar"), 400, "request_refused", "response_format"),
    *[
        (500, f'option "{name}" must be {what}', 400, "request_refused", None)
        for name, what in [
            ("temperature", "of type float32"),
            ("num_ctx", "of type integer"),
            ("use_mmap", "of type boolean"),
            ("stop", "of type array"),
            ("stop", "of an array of strings"),
        ]
    ],
    (400, "the input length exceeds the context length", 400, "context_length_exceeded", "prompt"),
    (500, "the input length exceeds the context length", 400, "context_length_exceeded", "prompt"),
    (400, runners(400, OVERFLOW, "exceed_context_size_error"), 400, "context_length_exceeded", "prompt"),
    (400, "invalid model name", 404, "model_not_found", "model"),
    (400, '"nomic-embed-text" does not support chat', 404, "model_not_found", "model"),
    (400, '"smol" does not support thinking', 400, "request_refused", None),
    (500, MEMORY, 502, "server_error", None),
    (500, "llama runner process has terminated: CUDA error: out of memory", 502, "server_error", None),
    (500, "timed out waiting for llama runner to start", 502, "server_error", None),
    (500, runners(500, "context was lost", "server_error"), 502, "server_error", None),
    (503, BUSY, 503, "overloaded", None),
    (502, "cloud unreachable", 502, "server_error", None),
]


@pytest.mark.parametrize("stream", [False, True])
def test_error_with_half_a_character(make_client: Serve, far_end: FarEnd, stream: bool) -> None:
    """What can't be encoded in an error's text changes nothing of whose fault it is."""
    far_end.post(OLLAMA.url, status=502, json={"error": "cloud \ud800"})
    reply = ask(make_client(**OLLAMA.settings), stream=stream)
    assert (reply.status_code, error_of(reply)["code"]) == (502, "server_error")


def words_of(text: str) -> str:
    """Return the words of an error's text, which may be an error itself, in one line."""
    words = json.loads(text)["error"]["message"] if text.startswith("{") else text
    return " ".join(words.split())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "text", "ours", "code", "param"), ERRORS)
def test_error(
    make_client: Serve,
    far_end: FarEnd,
    log_lines: Log,
    status: int,
    text: str,
    ours: int,
    code: str,
    param: str | None,
    stream: bool,
) -> None:
    """Its text says whose fault an error is where its status doesn't, and reaches the client and the log."""
    far_end.post(OLLAMA.url, status=status, json={"error": text})
    reply = ask(make_client(**OLLAMA.settings, llm_fallback=("stub",)), stream=stream, fallback=False)
    error = error_of(reply)
    assert (reply.status_code, error["code"], error["param"]) == (ours, code, param)
    assert words_of(text) in error["message"]
    assert log_lines()[-1]["error"]["message"] == error["message"]
    backed = ask(make_client(**OLLAMA.settings, llm_fallback=("stub",)), stream=stream)
    assert (backed.headers.get("X-LLM-Fallback") == code) is (ours != 400)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("an error was encountered while running the model: unexpected EOF", "server_error"),
        (MEMORY, "server_error"),
        (runners(500, "slot lost", "server_error"), "server_error"),
        ("invalid JSON schema in format", "request_refused"),
        ("the input length exceeds the context length", "context_length_exceeded"),
    ],
)
def test_error_in_a_stream(make_client: Serve, far_end: FarEnd, log_lines: Log, text: str, code: str) -> None:
    """An error after the first piece is read in the same way, for the event and the log; before it, it has a status."""
    line = json.dumps({"error": text}).encode() + b"\n"
    client = make_client(**OLLAMA.settings, max_retries=2)
    far_end.post(OLLAMA.url, body=ollama_line("Hel") + line)
    first, last = lines_of(ask(client, stream=True))
    assert (first["response"], last["error"]["code"]) == ("Hel", code)
    assert words_of(text) in last["error"]["message"]
    assert log_lines()[-1]["error"]["message"] == last["error"]["message"]
    far_end.replace("POST", OLLAMA.url, body=line)
    reply = ask(client, stream=True)
    assert (reply.status_code, error_of(reply)["code"]) == (502 if code == "server_error" else 400, code)
    assert words_of(text) in error_of(reply)["message"]
    assert len(far_end.calls) == 2  # it has begun, so it is not asked again


def test_a_call_that_is_nested_too_deeply(make_client: Serve, far_end: FarEnd) -> None:
    """A text that is no call, however it is none, is the model's failure and not the service's."""
    far_end.post(SHOW, json=shown("completion", "tools"))
    far_end.post(OLLAMA.url, json=ollama_answer('{"name": "f", "arguments": ' + "[" * 100_000))
    tool = {"type": "function", "function": {"name": "f"}}
    reply = ask(make_client(**OLLAMA.settings), tools=[tool], tool_choice="required", fallback=False)
    assert (reply.status_code, error_of(reply)["code"]) == (502, "invalid_answer")


def test_a_tool_whose_parameters_are_refused(make_client: Serve, far_end: FarEnd) -> None:
    """A call is forced by a format, which the client did not send: the error names the field that it did."""
    far_end.post(SHOW, json=shown("completion", "tools"))
    far_end.post(OLLAMA.url, status=500, json={"error": "invalid JSON schema in format"})
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}
    reply = ask(make_client(**OLLAMA.settings), tools=[tool], tool_choice="required")
    assert (reply.status_code, error_of(reply)["param"]) == (400, "tools")


@pytest.mark.parametrize("path", GENERATE)
@pytest.mark.parametrize("text", ["the input length exceeds the context length", runners(400, OVERFLOW)])
def test_prompt_over_the_context(make_client: Serve, far_end: FarEnd, path: str, text: str) -> None:
    """It names the setting that raises the context, there and here."""
    far_end.post(OLLAMA.url, status=400, json={"error": text})
    error = error_of(ask(make_client(**OLLAMA.settings), path))
    assert error["code"] == "context_length_exceeded"
    assert {"OLLAMA_CONTEXT_LENGTH", "num_ctx", "OLLAMA_EXTRA_BODY"} <= set(re.findall(r"\w+", error["message"]))


def test_busy_is_asked_again(make_client: Serve, far_end: FarEnd) -> None:
    """A full queue is no more than that."""
    far_end.post(OLLAMA.url, status=503, json={"error": BUSY}, headers=AT_ONCE)
    far_end.post(OLLAMA.url, json=ollama_answer("Hello"))
    assert ask(make_client(**OLLAMA.settings, max_retries=1)).json == {"response": "Hello"}


# An Ollama behind OpenAI's wire


@pytest.mark.parametrize(
    ("address", "version", "is_told"),
    [
        ("http://box.example:9/v1", {"json": {"version": "0.24.0"}}, True),
        ("http://box.example:9/far/v1", {"json": {"version": "0.24.0"}}, True),
        ("http://box.example:9/v1", {"json": {"version": 1}}, False),
        ("http://box.example:9/v1", {"json": {"detail": "Not Found"}}, False),
        ("http://box.example:9/v1", {"status": 404, "json": {"error": "no"}}, False),
        ("http://box.example:9/v1", {"body": "<html>"}, False),
        ("http://box.example:9/v1", {"body": requests.ConnectionError("refused")}, False),
    ],
    ids=str,
)
@pytest.mark.usefixtures("clock")
def test_ollama_behind_openai(
    make_app: Callable[..., Flask],
    far_end: FarEnd,
    caplog: pytest.LogCaptureFixture,
    address: str,
    version: dict[str, Any],
    is_told: bool,
) -> None:
    """A start warns of a server that cuts prompts silently, once, and names the backend that doesn't."""
    far_end.get(f"{address}/models", json={"data": [{"id": "gpt-6-luna"}]})
    far_end.get(f"{address.removesuffix('/v1')}/api/version", **version)
    service = LLMAPI.of(make_app(llm_backend="openai", openai_base_url=address, openai_api_key="canary"))
    service.health.begin(warns=True)
    service.health.report()
    assert [("LLM_BACKEND=ollama" in said.getMessage(), said.levelname) for said in caplog.records] == (
        [(True, "WARNING")] if is_told else []
    )
    (call,) = [call for call in far_end.calls if "version" in str(call.request.url)]
    assert "canary" not in str(call.request.headers)


@pytest.mark.parametrize(
    "settings",
    [
        {"llm_backend": "openai"},
        {"llm_backend": "openai", "openai_base_url": "http://box.example:9"},
        {"llm_backend": "claude"},
        OLLAMA.settings,
    ],
    ids=str,
)
@pytest.mark.usefixtures("clock")
def test_nobody_else_is_asked(make_app: Callable[..., Flask], far_end: FarEnd, settings: dict[str, Any]) -> None:
    """Only where an Ollama may be, it is looked for."""
    health = LLMAPI.of(make_app(**settings)).health
    health.begin(warns=True)
    health.report()
    assert [call for call in far_end.calls if "version" in str(call.request.url)] == []


# Tools


def tool(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a tool as a client sends it."""
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


CITY_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
NOTHING = {"type": "object", "properties": {}}
WEATHER, NOW = tool("get_weather", CITY_SCHEMA), {"type": "function", "function": {"name": "now", "description": "d"}}
SENT_NOW = {"type": "function", "function": {"name": "now", "description": "d", "parameters": NOTHING}}


def call_format(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that only a call of `name` fits."""
    properties = {"name": {"const": name}, "arguments": arguments}
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


FORCED = {"anyOf": [call_format("get_weather", CITY_SCHEMA), call_format("now", NOTHING)]}
NAMED = {"type": "function", "function": {"name": "now"}}


@pytest.mark.parametrize(
    ("said", "can", "expected"),
    [
        ({}, ("tools",), {"tools": [WEATHER, SENT_NOW]}),
        ({"tool_choice": "auto"}, ("tools",), {"tools": [WEATHER, SENT_NOW]}),
        ({"tool_choice": "none"}, None, {}),
        ({"tool_choice": "required"}, ("tools",), {"tools": [WEATHER, SENT_NOW], "format": FORCED}),
        ({"tool_choice": "required"}, (), {"format": FORCED}),
        ({"tool_choice": NAMED}, ("tools",), {"tools": [SENT_NOW], "format": call_format("now", NOTHING)}),
        ({"tool_choice": NAMED}, ("vision",), {"format": call_format("now", NOTHING)}),
    ],
    ids=str,
)
def test_choice(
    make_client: Serve, far_end: FarEnd, said: dict[str, Any], can: tuple[str, ...] | None, expected: dict[str, Any]
) -> None:
    """There is no choice on the wire: none sends no tools, and a forced call is forced by the format."""
    if can is not None:
        far_end.post(SHOW, json=shown("completion", *can))
    answer = ollama_answer("", message=called("now") if said.get("tool_choice", "auto") != "none" else {"content": "x"})
    far_end.post(OLLAMA.url, json=answer)
    reply = ask(make_client(**OLLAMA.settings), CHAT, tools=[WEATHER, NOW], **said)
    assert reply.status_code == 200, reply.data
    assert {name: value for name, value in sent(far_end).items() if name in ("tools", "format")} == expected


def called(*names: str, **more: Any) -> dict[str, Any]:
    """Return a message that calls, without ids, as before Ollama 0.12.10."""
    calls = [{"function": {"name": name, "arguments": {"n": number}}} | more for number, name in enumerate(names)]
    return {"role": "assistant", "content": "", "tool_calls": calls}


@pytest.mark.parametrize(("can", "said"), [((), {}), (("vision",), {}), (("tools",), {"response_format": CITY_SCHEMA})])
def test_what_it_cannot_do(make_client: Serve, far_end: FarEnd, can: tuple[str, ...], said: dict[str, Any]) -> None:
    """A model that has no tools, or doesn't say so, isn't asked; nor is one to call or to answer in a format."""
    far_end.post(SHOW, json=shown("completion", *can) if can else shown())
    reply = ask(make_client(**OLLAMA.settings), tools=[WEATHER], **said)
    assert (reply.status_code, error_of(reply)["code"]) == (400, "unsupported_parameter")
    backed = ask(make_client(**OLLAMA.settings, llm_fallback=("stub",)), tools=[WEATHER], **said)
    assert said or backed.headers["X-LLM-Fallback"] == "unsupported"
    assert error_of(reply)["param"] == ("response_format" if said else "tools")
    assert {call.request.url for call in far_end.calls} == {SHOW}


def test_abilities_are_remembered(far_end: FarEnd, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """What Ollama says of a model holds for a minute, for that model; one that it doesn't have, it may have next."""
    monkeypatch.setattr("llm_api.backends.http.base.time", clock)
    ollama, less = backend(), frozenset({"json_object", "json_schema", "tool_choice"})
    far_end.post(SHOW, json=shown("completion", "vision"))
    for _ in range(2):
        assert ollama.abilities("a", Deadline(5)) == less | {"images"}
    far_end.replace("POST", SHOW, json=shown("completion"))
    assert (ollama.abilities("a", Deadline(5)), ollama.abilities("b", Deadline(5))) == (less | {"images"}, less)
    clock.now += 61
    assert ollama.abilities("a", Deadline(5)) == less
    assert [json.loads(call.request.body)["model"] for call in far_end.calls] == ["a", "b", "a"]


def test_remembered_abilities_are_bounded(far_end: FarEnd) -> None:
    """A client chooses names, of which one model has many: they don't fill the memory."""
    far_end.post(SHOW, json=shown("completion"))
    ollama = backend()
    for number in range(250):
        ollama.abilities(f"name-{number}", Deadline(5))
    assert len(ollama._shown) <= 100  # type: ignore[attr-defined]


def chunks_of(request: GenerationRequest) -> list[Chunk]:
    """Return the answer of a backend without an exchange around it."""
    return list(backend().stream(request, Deadline(5)))


HI = Message.of("user", "Hi")
TOOL = Tool("now", parameters={"type": "object", "properties": {"n": {"type": "integer"}}})


def test_calls_over_several_lines(far_end: FarEnd) -> None:
    """Calls of all lines are counted here, whatever index they have; text and thoughts may come before."""
    lines = [
        {"role": "assistant", "content": "", "thinking": "hm"},
        {"role": "assistant", "content": "Wait."},
        called("now", "now"),
        called("later", id="call_1"),
    ]
    said = b"".join(ollama_line("", message=line) for line in lines)
    far_end.post(OLLAMA.url, body=said + json.dumps(ollama_answer("")).encode())
    chunks = chunks_of(GenerationRequest((HI,), tools=(TOOL,), stream=True))
    assert fold(chunks)[:-1] == (
        Reasoning("hm", made_by="ollama"),
        Text("Wait."),
        *(ToolCall("", "now", json.dumps({"n": number})) for number in (0, 1)),
        ToolCall("call_1", "later", '{"n": 0}'),
    )
    assert [piece.index for chunk in chunks for piece in chunk.calls] == [0, 1, 2]


@pytest.mark.parametrize("arguments", ['{"n": 1}', ""])
def test_arguments_that_are_a_text(far_end: FarEnd, arguments: str) -> None:
    """What some models' parsers write is the arguments all the same."""
    message = {"content": "", "tool_calls": [{"function": {"name": "now", "arguments": arguments}}]}
    far_end.post(OLLAMA.url, json=ollama_answer("", message=message))
    assert fold(chunks_of(GenerationRequest((HI,), tools=(TOOL,)))) == (ToolCall("", "now", arguments),)


@pytest.mark.parametrize("arguments", ['{"n": ', "[1]", "now", None, [1], ..., float("nan")], ids=str)
def test_calls_of_a_wrong_shape(far_end: FarEnd, arguments: Any) -> None:
    """Arguments that are no object, and no text of one, are no call of Ollama's."""
    function = {"name": "now"} | ({} if arguments is ... else {"arguments": arguments})
    function |= {"arguments": {"n": arguments}} if isinstance(arguments, float) else {}
    body = ollama_answer("", message={"content": "", "tool_calls": [{"function": function}]})
    far_end.post(OLLAMA.url, body=json.dumps(body))
    with pytest.raises(InvalidAnswer):
        chunks_of(GenerationRequest((HI,), tools=(TOOL,)))


FORCE = ToolChoice("required")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("text", "finish", "arguments"),
    [
        ('{"name":"now","arguments":{"n":1}}', "stop", '{"n":1}'),
        (' { "name" : "now" , "arguments" : { "n" : 1 } }\n', "stop", '{ "n" : 1 }'),
        ('{"name": "now", "arguments": {"n": 1}}', "length", '{"n": 1}'),
        ('{"name": "now", "arguments": {"n": 1', "length", '{"n": 1'),
        ('{"name": "now", "arg', "length", ""),
        ('{"name": "now"', "length", ""),
        ('{"name": "no', "length", None),
        ('{"name": "gone", "arguments": {}}', "stop", None),
        ('{"name": "now", "arguments": {"n": 1', "stop", None),
        ("It is late.", "stop", None),
        ("", "length", None),
    ],
)
def test_call_that_comes_as_text(far_end: FarEnd, text: str, finish: str, arguments: str | None, stream: bool) -> None:
    """From a model without tools, and cut: it is held back, and given as the call, or the beginning, that it is."""
    far_end.post(SHOW, json=shown("completion"))
    end = ollama_answer("" if stream else text, message={"content": "" if stream else text}, done_reason=finish)
    body = b"".join(map(ollama_line, text)) if stream else b""
    far_end.post(OLLAMA.url, body=body + json.dumps(end).encode())
    chunks = chunks_of(GenerationRequest((HI,), tools=(TOOL,), tool_choice=FORCE, stream=stream))
    assert chunks[-1].finish_reason == finish
    expected = (Text(text),) if text else ()
    assert fold(chunks) == (expected if arguments is None else (ToolCall("", "now", arguments),))


def test_no_call_where_one_has_to_be(make_client: Serve, far_end: FarEnd) -> None:
    """Words in place of a call are no answer, but a reason to ask the next backend."""
    far_end.post(SHOW, json=shown("completion", "tools"))
    far_end.post(OLLAMA.url, json=ollama_answer("It is late."))
    client = make_client(**OLLAMA.settings, llm_fallback=("stub",))
    reply = ask(client, CHAT, tools=[WEATHER], tool_choice="required")
    assert (reply.headers["X-LLM-Fallback"], reply.status_code) == ("invalid_answer", 200)


def test_forced_schema_with_references(far_end: FarEnd) -> None:
    """References of a tool's schema to its own parts still find them, those of two tools apart."""
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}, "top": {"$ref": "#"}}}
    schema = {"type": "object", "properties": {"list": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": node}}
    tools = (TOOL, Tool("keep", parameters=schema), Tool("drop", parameters=schema))
    far_end.post(SHOW, json=shown("completion", "tools"))
    far_end.post(OLLAMA.url, json=ollama_answer("", message=called("now")))
    chunks_of(GenerationRequest((HI,), tools=tools, tool_choice=FORCE))
    form = sent(far_end)["format"]
    validator = Draft202012Validator(form)
    for name in ("keep", "drop"):
        assert validator.is_valid({"name": name, "arguments": {"list": {"next": {"next": {}}, "top": {"list": {}}}}})
        assert not validator.is_valid({"name": name, "arguments": {"list": {"next": {"next": 5}}}})
        assert not validator.is_valid({"name": name, "arguments": {"list": {"top": {"list": 5}}}})
    assert list(form["$defs"]) == ["1", "2"]
    assert "$ref" not in json.dumps(form["anyOf"][0])


PICTURE = Image("image/png", data="aGk=")


def test_history(far_end: FarEnd) -> None:
    """Calls go as objects with their ids, results with id and tool, images as base64, and thoughts of its own only."""
    calls = (
        ToolCall("a", "now", '{"n": 1}'),
        ToolCall("b", "later", ""),
        ToolCall("c", "cut", '{"n": '),
        ToolCall("d", "list", "[1]"),
    )
    messages = (
        Message("user", (Text("Look: "), PICTURE, Text("this"))),
        Message("assistant", (Reasoning("hm", made_by="ollama"), Reasoning("x", "sig", made_by="claude"), *calls)),
        Message("tool", (ToolResult("b", (Text("late"),)), ToolResult("a", (Text("12:00"), PICTURE), is_error=True))),
        Message("tool", (ToolResult("lost", (Text("?"),)),)),
        Message("assistant", (Reasoning("y"), Text("Noon."), ToolCall("a", "again", "{}"))),
        Message("tool", (ToolResult("a", (Text("ok"),)),)),
    )
    far_end.post(OLLAMA.url, json=ollama_answer("x"))
    chunks_of(GenerationRequest(messages))

    def function(call_id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}

    assert sent(far_end)["messages"] == [
        {"role": "user", "content": "Look: this", "images": ["aGk="]},
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [
                function("a", "now", {"n": 1}),
                function("b", "later", {}),
                function("c", "cut", {"INVALID_JSON": '{"n": '}),
                function("d", "list", {"INVALID_JSON": "[1]"}),
            ],
        },
        {"role": "tool", "content": "late", "tool_name": "later", "tool_call_id": "b"},
        {"role": "tool", "content": "Error: 12:00", "images": ["aGk="], "tool_name": "now", "tool_call_id": "a"},
        {"role": "tool", "content": "?", "tool_call_id": "lost"},
        {"role": "assistant", "content": "Noon.", "tool_calls": [function("a", "again", {})]},
        {"role": "tool", "content": "ok", "tool_name": "again", "tool_call_id": "a"},
    ]


@pytest.mark.parametrize("place", ["user", "tool"])
def test_image_by_address(place: str) -> None:
    """Ollama would take the address for base64, or drop it."""
    parts = (Text("Look"), Image(url="https://box.example/a.png"))
    message = Message("user", parts) if place == "user" else Message("tool", (ToolResult("a", parts),))
    with pytest.raises(RequestRefused, match="FETCH_IMAGES=true"):
        chunks_of(GenerationRequest((HI, message)))


@pytest.mark.parametrize(
    ("effort", "think"),
    [
        *((None, False), ("none", False), ("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high")),
        *(("xhigh", "max"), ("max", "max")),
    ],
)
def test_effort(far_end: FarEnd, effort: str | None, think: Any) -> None:
    """An effort is Ollama's level; without one a model doesn't think."""
    far_end.post(OLLAMA.url, json=ollama_answer("x"))
    chunks_of(GenerationRequest((HI,), reasoning_effort=effort))
    assert sent(far_end)["think"] == think
