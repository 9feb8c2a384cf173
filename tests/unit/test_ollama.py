"""Ollama's chat API (providers.md, section 2), with its far end mocked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from providers import (
    CITY,
    OLLAMA,
    SCHEMA,
    FarEnd,
    Fault,
    Log,
    Make,
    check_fallback,
    check_fault,
    error_of,
    generate,
    lines_of,
    ollama_answer,
    ollama_line,
    ollama_stream,
    sent,
    texts_of,
)
from responses import RequestsMock

from llm_api import Settings
from llm_api.backends import make_backend
from llm_api.errors import InvalidAnswer, ModelNotFound, Unreachable
from llm_api.runtime.deadline import Deadline

TAGS = {"models": [{"name": "gemma4:latest", "model": "gemma4:latest"}, {"name": "llama3.2:1b"}]}
ALWAYS = {"model": "llama2", "stream": False, "think": False, "truncate": False}
USER = {"role": "user", "content": "Hi"}


@pytest.fixture
def far_end() -> Iterator[RequestsMock]:
    with FarEnd() as mock:
        yield mock


# The request


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, {}),
        ({"max_tokens": 7}, {"options": {"num_predict": 7}}),
        ({"temperature": 0}, {"options": {"temperature": 0}}),
        ({"temperature": 1.5}, {"options": {"temperature": 1.5}}),
        ({"top_p": 0.5}, {"options": {"top_p": 0.5}}),
        ({"seed": 0}, {"options": {"seed": 0}}),
        ({"stop": "END"}, {"options": {"stop": ["END"]}}),
        ({"stop": ["a", "b"]}, {"options": {"stop": ["a", "b"]}}),
        ({"stop": []}, {}),
        ({"model": "gemma4"}, {"model": "gemma4"}),
        ({"response_format": {"type": "json_object"}}, {"format": "json"}),
        ({"response_format": SCHEMA}, {"format": SCHEMA}),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, {"format": SCHEMA}),
        ({"system": "Be brief."}, {"messages": [{"role": "system", "content": "Be brief."}, USER]}),
        ({"system": ""}, {}),
        (
            {"max_tokens": 9, "temperature": 0.2, "top_p": 0.9, "seed": 3, "stop": "x"},
            {"options": {"num_predict": 9, "temperature": 0.2, "top_p": 0.9, "seed": 3, "stop": ["x"]}},
        ),
    ],
)
def test_request_body(make_client: Make, far_end: RequestsMock, said: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every parameter has its place in Ollama's words; think, truncate and stream are always said, no more is."""
    far_end.post(OLLAMA.url, json=ollama_answer(CITY))
    assert generate(make_client(**OLLAMA.settings), **said).status_code == 200
    assert sent(far_end) == ALWAYS | {"messages": [USER]} | expected


def test_streamed_request_body(make_client: Make, far_end: RequestsMock) -> None:
    """A streamed request differs from a whole one in `stream` alone."""
    far_end.post(OLLAMA.url, body=ollama_stream("Hello"))
    generate(make_client(**OLLAMA.settings), stream=True)
    assert sent(far_end) == ALWAYS | {"messages": [USER], "stream": True}


def test_request_headers(make_client: Make, far_end: RequestsMock) -> None:
    """Ollama gets no key of ours, and nothing else that it doesn't need."""
    far_end.post(OLLAMA.url, json=ollama_answer("Hello"))
    keys = {"openai_api_key": "test-key-1234567", "hf_api_key": "test-key-1234567", "claude_api_key": "test-key-123"}
    generate(make_client(**OLLAMA.settings, **keys))
    headers = {name.lower(): value for name, value in far_end.calls[0].request.headers.items()}
    expected = {"user-agent": "llm-api", "accept-encoding": "identity", "content-type": "application/json"}
    assert headers == expected


def test_configured_address_and_model(make_client: Make, far_end: RequestsMock) -> None:
    """OLLAMA_URL and OLLAMA_MODEL are what is asked; a path in the address is kept."""
    far_end.post("http://box.example:9/ollama/api/chat", json=ollama_answer("Hello"))
    settings = OLLAMA.settings | {"ollama_url": "http://box.example:9/ollama", "ollama_model": "llama3.2:1b"}
    assert generate(make_client(**settings)).status_code == 200
    assert sent(far_end)["model"] == "llama3.2:1b"


# The whole answer


def test_whole_answer(make_client: Make, far_end: RequestsMock, log_lines: Log) -> None:
    """The text comes without its thinking; model, usage and finish reason reach header, details and log."""
    far_end.post(OLLAMA.url, json=ollama_answer("Hello"))
    reply = generate(make_client(**OLLAMA.settings), details=True)
    details = reply.json["details"]
    assert reply.json["response"] == "Hello"
    assert (details["backend"], details["model"], details["finish_reason"]) == ("ollama", "far-model-1", "stop")
    assert details["usage"] == {"input_tokens": 12, "output_tokens": 2}
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Model"]) == ("ollama", "far-model-1")
    line = log_lines()[-1]
    assert (line["model"], line["input_tokens"], line["output_tokens"]) == ("far-model-1", 12, 2)
    assert (line["response"], line["finish_reason"]) == ("Hello", "stop")


@pytest.mark.parametrize(
    ("changes", "finish"),
    [
        ({"done_reason": "stop"}, "stop"),
        ({"done_reason": "length"}, "length"),
        ({"done_reason": ""}, "stop"),
        ({"done_reason": "load"}, "stop"),
        ({"done_reason": "unload"}, "stop"),
        ({"done_reason": "something new"}, "stop"),
        ({"message": {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}}, "tool_calls"),
    ],
)
def test_finish_reason(make_client: Make, far_end: RequestsMock, changes: dict[str, Any], finish: str) -> None:
    """Ollama's done_reason is told in OpenAI's words (providers.md, table 1.3)."""
    far_end.post(OLLAMA.url, json=ollama_answer("") | changes)
    assert generate(make_client(**OLLAMA.settings), details=True).json["details"]["finish_reason"] == finish


@pytest.mark.parametrize("gone", [("prompt_eval_count",), ("eval_count",), ("prompt_eval_count", "eval_count")])
def test_usage_that_is_not_said(make_client: Make, far_end: RequestsMock, gone: tuple[str, ...]) -> None:
    """A count that Ollama leaves out is null, not 0 and not a failure."""
    far_end.post(OLLAMA.url, json={name: value for name, value in ollama_answer("x").items() if name not in gone})
    usage = generate(make_client(**OLLAMA.settings), details=True).json["details"]["usage"]
    assert usage["input_tokens"] == (None if "prompt_eval_count" in gone else 12)
    assert usage["output_tokens"] == (None if "eval_count" in gone else 2)


@pytest.mark.parametrize("text", ["", "a\u2028b\u2029c", "line\nline", "\U0001f600", "\x00"])
def test_odd_text(make_client: Make, far_end: RequestsMock, text: str) -> None:
    """Whatever text Ollama sends arrives as it was, an empty one too."""
    far_end.post(OLLAMA.url, json=ollama_answer(text))
    assert generate(make_client(**OLLAMA.settings)).json == {"response": text}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"error": "text"},
        {"message": {"content": "x"}},
        {"done": True},
        ollama_answer("x") | {"message": None},
        ollama_answer("x") | {"message": "x"},
        ollama_answer("x") | {"message": {}},
        ollama_answer("x") | {"done": False},
        ollama_answer("x") | {"message": {"content": None}},
        ollama_answer("x") | {"message": {"content": 5}},
        ollama_answer("x") | {"message": {"content": ["x"]}},
        ollama_answer("x") | {"model": {"name": "x"}},
        ollama_answer("x") | {"eval_count": {"a": 1}},
        ollama_answer("x") | {"eval_count": float("nan")},
    ],
)
def test_wrong_shape(make_client: Make, far_end: RequestsMock, log_lines: Log, body: dict[str, Any]) -> None:
    """A whole answer that isn't one is a failing backend: 502 invalid_answer and a line in the log."""
    far_end.post(OLLAMA.url, json=body)
    reply = generate(make_client(**OLLAMA.settings))
    assert (reply.status_code, error_of(reply)["code"]) == (502, "invalid_answer")
    assert [line["http_status"] for line in log_lines()] == [502]


# The stream


def test_stream(make_client: Make, far_end: RequestsMock, log_lines: Log) -> None:
    """The pieces arrive one by one, and the end has finish reason, usage and model."""
    far_end.post(OLLAMA.url, body=ollama_stream("Hel", "lo"))
    reply = generate(make_client(**OLLAMA.settings), stream=True, details=True)
    assert reply.mimetype == "application/x-ndjson"
    assert texts_of(reply) == ["Hel", "lo"]
    last = lines_of(reply)[-1]
    assert (last["finish_reason"], last["details"]["model"]) == ("stop", "far-model-1")
    assert last["details"]["usage"] == {"input_tokens": 12, "output_tokens": 2}
    assert (log_lines()[-1]["response"], log_lines()[-1]["status"]) == ("Hello", "ok")


@pytest.mark.parametrize(
    "body",
    [
        ollama_stream("Hel", "lo").replace(b"\n", b"\r\n"),
        ollama_stream("Hel", "lo").replace(b"\n", b"\n\n"),
        ollama_stream("Hel", "lo").rstrip(b"\n"),
        ollama_line("", message={"role": "assistant", "content": "", "thinking": "hm"}) + ollama_stream("Hel", "lo"),
        ollama_stream("Hel", "lo") + ollama_line("never read"),
    ],
    ids=["CRLF", "blank lines", "no last newline", "thinking first", "more after the end"],
)
def test_odd_stream(make_client: Make, far_end: RequestsMock, body: bytes) -> None:
    """A stream that is odd but legal is read all the same."""
    far_end.post(OLLAMA.url, body=body)
    assert texts_of(generate(make_client(**OLLAMA.settings), stream=True)) == ["Hel", "lo"]


def test_separators_in_a_stream(make_client: Make, far_end: RequestsMock) -> None:
    """U+2028, U+2029 and U+0085 inside a text end no line."""
    far_end.post(OLLAMA.url, body=ollama_stream("a\u2028b", "c\u2029d\u0085e"))
    assert texts_of(generate(make_client(**OLLAMA.settings), stream=True)) == ["a\u2028b", "c\u2029d\u0085e"]


def test_stream_with_text_in_its_last_line(make_client: Make, far_end: RequestsMock) -> None:
    """Text that comes with the end of the stream is not lost."""
    far_end.post(OLLAMA.url, json=ollama_answer("Hello", done_reason="length"))
    reply = generate(make_client(**OLLAMA.settings), stream=True)
    assert texts_of(reply) == ["Hello"]
    assert lines_of(reply)[-1]["finish_reason"] == "length"


def test_empty_stream(make_client: Make, far_end: RequestsMock) -> None:
    """An answer without any text is an answer."""
    far_end.post(OLLAMA.url, body=ollama_stream())
    assert texts_of(generate(make_client(**OLLAMA.settings), stream=True)) == []


@pytest.mark.parametrize(
    ("tail", "code"),
    [
        (b"", "invalid_answer"),
        (b"not JSON\n", "invalid_answer"),
        (b"[1]\n", "invalid_answer"),
        (b"{}\n", "invalid_answer"),
        (b'{"message":{"content":5},"done":false}\n', "invalid_answer"),
        (b'{"message":{"content":null},"done":false}\n', "invalid_answer"),
        (b'{"error":"an error was encountered while running the model"}\n', "server_error"),
    ],
    ids=["cut", "not JSON", "array", "empty", "number", "null", "error"],
)
def test_stream_that_breaks(make_client: Make, far_end: RequestsMock, log_lines: Log, tail: bytes, code: str) -> None:
    """After the first piece a failure is the last line, in the log too, and never the stub's text."""
    far_end.post(OLLAMA.url, body=ollama_line("Hel") + tail)
    reply = generate(make_client(**OLLAMA.settings, llm_fallback=("stub",)), stream=True)
    first, last = lines_of(reply)
    assert first == {"response": "Hel"}
    assert (last["done"], last["error"]["code"]) == (True, code)
    line = log_lines()[-1]
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("error", 200, code)
    assert (line["response"], line["backend"], line["fallback"]) == ("Hel", "ollama", False)


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", "invalid_answer"), (b"<html>", "invalid_answer"), (b'{"error":"CUDA out of memory"}\n', "server_error")],
)
def test_stream_that_never_begins(
    make_client: Make, far_end: RequestsMock, log_lines: Log, body: bytes, code: str
) -> None:
    """Before the first piece a failing stream has a true status, and can fall back."""
    far_end.post(OLLAMA.url, body=body)
    reply = generate(make_client(**OLLAMA.settings), stream=True)
    assert (reply.status_code, error_of(reply)["code"]) == (502, code)
    backed = generate(make_client(**OLLAMA.settings, llm_fallback=("stub",)), stream=True)
    assert backed.headers["X-LLM-Fallback"] == code
    assert "".join(texts_of(backed)).startswith("[stub]")


# Errors

FAULTS = {
    "400 string": Fault(400, {"error": '"m" does not support thinking'}, 400, "request_refused", falls_back=False),
    "400 HTML": Fault(400, "<html>Bad Request</html>", 400, "request_refused", falls_back=False),
    "401": Fault(401, {"error": "unauthorized", "signin_url": "https://o"}, 502, "bad_credentials"),
    "403": Fault(403, {"error": "cloud is disabled"}, 502, "bad_credentials"),
    "403 empty": Fault(403, "", 502, "bad_credentials"),
    "404 HTML": Fault(404, "<html>404 page not found</html>", 502, "invalid_answer"),
    "429": Fault(429, {"error": "too many requests"}, 429, "rate_limited"),
    "499": Fault(499, {"error": "request cancelled"}, 502, "invalid_answer"),
    "500": Fault(500, {"error": "model runner has unexpectedly stopped"}, 502, "server_error"),
    "500 object": Fault(500, {"error": {"message": "no"}}, 502, "server_error"),
    "500 empty": Fault(500, "", 502, "server_error"),
    "502": Fault(502, {"error": "cloud unreachable"}, 502, "server_error"),
    "503": Fault(503, {"error": "server busy, please try again.  maximum pending requests"}, 503, "overloaded"),
    "504": Fault(504, "<html>Gateway Time-out</html>", 504, "timeout"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_error(make_client: Make, far_end: RequestsMock, log_lines: Log, fault: Fault) -> None:
    """Each documented error has its status and code (providers.md 2.4), and falls back where design.md says so."""
    check_fault(fault, OLLAMA, make_client, far_end, log_lines)


def test_refusal_says_why(make_client: Make, far_end: RequestsMock) -> None:
    """A refused request comes with Ollama's reason in one line."""
    far_end.post(OLLAMA.url, status=400, json={"error": "invalid\n  format"})
    assert error_of(generate(make_client(**OLLAMA.settings)))["message"] == "ollama refused the request: invalid format"


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
    make_client: Make,
    far_end: RequestsMock,
    log_lines: Log,
    said: dict[str, str],
    model: str,
    tags: dict[str, Any],
    pulled: str,
) -> None:
    """A 404 names the command that pulls the model and the models that are there, as far as these are known."""
    far_end.post(OLLAMA.url, status=404, json={"error": f"model '{model}' not found"})
    far_end.get(OLLAMA.models_url, **tags)
    reply = generate(make_client(**OLLAMA.settings), **said)
    message = f"ollama has no model '{model}': pull it with `ollama pull {model}` (pulled: {pulled})"
    assert reply.status_code == 404
    assert error_of(reply) | {"type": None} == {
        "message": message,
        "type": None,
        "code": "model_not_found",
        "param": "model",
    }
    backed = generate(make_client(**OLLAMA.settings, llm_fallback=("stub",)), **said)
    check_fallback(backed, log_lines()[-1], "model_not_found", "ollama")


# Checks and lists


def backend(**settings: Any) -> Any:
    return make_backend("ollama", Settings(**settings))


@pytest.mark.parametrize("model", ["gemma4", "gemma4:latest", "llama3.2:1b"])
def test_check_of_a_pulled_model(far_end: RequestsMock, model: str) -> None:
    """A name without a tag means `:latest`, for the configured model as for the pulled ones."""
    far_end.get(OLLAMA.models_url, json=TAGS)
    assert backend(ollama_model=model).check(Deadline(5)) is None


@pytest.mark.parametrize("model", ["llama2", "gemma4:27b", "llama3.2", "gemma", "other/gemma4"])
def test_check_of_a_model_that_is_not_pulled(far_end: RequestsMock, model: str) -> None:
    """Another tag, another namespace or the beginning of a name is another model."""
    far_end.get(OLLAMA.models_url, json=TAGS)
    with pytest.raises(ModelNotFound, match=rf"ollama pull {model}`.*gemma4, llama3.2:1b"):
        backend(ollama_model=model).check(Deadline(5))


@pytest.mark.parametrize(
    ("model", "pulled"),
    [
        ("hf.co/org/name", "hf.co/org/name:latest"),
        ("hf.co/org/name:Q4_K_M", "hf.co/org/name:Q4_K_M"),
        ("host:5000/name", "host:5000/name:latest"),
        ("name:latest", "name"),
    ],
)
def test_tags_of_long_names(far_end: RequestsMock, model: str, pulled: str) -> None:
    """The port of a registry is no tag."""
    far_end.get(OLLAMA.models_url, json={"models": [{"name": pulled}]})
    assert backend(ollama_model=model).check(Deadline(5)) is None


def test_list_of_models(far_end: RequestsMock) -> None:
    """The pulled models are listed by name, without the tag that a name without one means."""
    far_end.get(OLLAMA.models_url, json=TAGS)
    assert backend().list_models(Deadline(5)) == ["gemma4", "llama3.2:1b"]


@pytest.mark.parametrize("verb", ["check", "list_models"])
@pytest.mark.parametrize("body", [{}, {"models": ["x"]}, {"models": 5}])
def test_list_of_a_wrong_shape(far_end: RequestsMock, verb: str, body: dict[str, Any]) -> None:
    """A list of models that isn't one is an InvalidAnswer (base.Backend: they raise a BackendError)."""
    far_end.get(OLLAMA.models_url, json=body)
    with pytest.raises(InvalidAnswer):
        getattr(backend(), verb)(Deadline(5))


def test_check_of_a_server_that_is_down(far_end: RequestsMock) -> None:
    """Nobody listens: unreachable."""
    far_end.get(OLLAMA.models_url, body=requests.ConnectionError("refused"))
    with pytest.raises(Unreachable, match="ollama can't be reached"):
        backend().check(Deadline(5))
