"""Each of 79 exchanges recorded from Ollama 0.24 (recorded/ollama.jsonl), with what must become of its answer here.

A request of the recording that the service can make is made, and goes out as it was recorded. Of the others only the
answer is replayed, to a request for text: what it was asked for by (tools, thinking, pictures) the service doesn't ask.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from asking import Log, Serve, ask, error_of, lines_of
from providers import OLLAMA, FarEnd, sent
from werkzeug.test import TestResponse

from llm_api import Settings
from llm_api.backends import Backend, make_backend
from llm_api.errors import ModelNotFound
from llm_api.runtime.deadline import Deadline

Json = dict[str, Any]
RECORDED = Path(__file__).parents[1] / "recorded" / "ollama.jsonl"
EXCHANGES: dict[str, Json] = {said["name"]: said for said in map(json.loads, RECORDED.read_text().splitlines())}
OURS = {"num_predict": "max_tokens", "temperature": "temperature", "stop": "stop"}

# Their requests are made; those of the others can't be, or are no answer to (JSON that is cut: test_structured.py).
MADE = {
    "chat", "chat stream", "chat length", "chat stream length", "chat stop", "chat system", "chat emoji stream",
    "json schema", "json schema stream", "forced without tools", "forced without tools stream", "thinking off",
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
CALLED = (*NO_ANSWER, "called a tool, and none was offered")
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


def test_none_is_forgotten() -> None:
    """All 79 are replayed or left for later, and ten are left."""
    assert len(EXCHANGES) == 79
    assert EXCHANGES.keys() >= {*LATER, *LISTS, *REFUSED, *MADE, *TEXTS}
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
