"""Anthropic's Messages (providers.md, section 4), with its far end mocked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from providers import (
    CITY,
    CLAUDE,
    SCHEMA,
    FarEnd,
    Fault,
    Log,
    Make,
    check_fault,
    claude_answer,
    claude_end,
    claude_event,
    claude_start,
    claude_stream,
    claude_text,
    error_of,
    event,
    generate,
    lines_of,
    outcomes,
    sent,
    texts_of,
)
from responses import RequestsMock, matchers

from llm_api import Settings
from llm_api.backends import make_backend
from llm_api.errors import BadCredentials, InvalidAnswer, Unreachable
from llm_api.runtime.deadline import Deadline

USER = {"role": "user", "content": "Hi"}
ALWAYS = {"model": "claude-haiku-5-5", "max_tokens": 4096, "messages": [USER], "stream": False}


@pytest.fixture
def far_end() -> Iterator[RequestsMock]:
    with FarEnd() as mock:
        yield mock


def failure(kind: str, message: str = "no", **details: Any) -> dict[str, Any]:
    """Return Anthropic's error envelope."""
    error = {"type": kind, "message": message} | ({"details": details} if details else {})
    return {"type": "error", "error": error, "request_id": "req_1"}


# The request


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, {}),
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 0.7}, {"temperature": 0.7}),
        ({"temperature": 1}, {"temperature": 1}),
        ({"temperature": 1.01}, {"temperature": 1}),
        ({"temperature": 2}, {"temperature": 1}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"seed": 5}, {}),
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"stop": []}, {}),
        ({"model": "claude-sonnet-5-5"}, {"model": "claude-sonnet-5-5"}),
        ({"system": "Be brief."}, {"system": "Be brief."}),
        ({"system": ""}, {}),
        ({"response_format": SCHEMA}, {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
        ({"stream": True}, {"stream": True}),
    ],
)
def test_request_body(make_client: Make, far_end: RequestsMock, said: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every parameter has its place in Anthropic's words; max_tokens is always said, and no more that wasn't asked."""
    body = {"body": claude_stream("x")} if said.get("stream") else {"json": claude_answer(CITY)}
    far_end.post(CLAUDE.url, **body)
    assert generate(make_client(**CLAUDE.settings), **said).status_code == 200
    assert sent(far_end) == ALWAYS | expected


@pytest.mark.parametrize("settings", [{}, {"claude_version": "2026-10-21"}])
def test_request_headers(make_client: Make, far_end: RequestsMock, settings: dict[str, str]) -> None:
    """The key goes as x-api-key, beside the API version that is configured."""
    far_end.post(CLAUDE.url, json=claude_answer("Hello"))
    generate(make_client(**CLAUDE.settings, **settings))
    headers = {name.lower(): value for name, value in far_end.calls[0].request.headers.items()}
    assert headers == {
        "user-agent": "llm-api",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "x-api-key": CLAUDE.key,
        "anthropic-version": settings.get("claude_version", "2023-06-01"),
    }


def test_configured_model(make_client: Make, far_end: RequestsMock) -> None:
    """CLAUDE_MODEL is what is asked where the caller names none."""
    far_end.post(CLAUDE.url, json=claude_answer("Hello"))
    generate(make_client(**CLAUDE.settings, claude_model="claude-opus-5-5"))
    assert sent(far_end)["model"] == "claude-opus-5-5"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chain", [(), ("stub",)])
def test_json_object(make_client: Make, log_lines: Log, stream: bool, chain: tuple[str, ...]) -> None:
    """Anthropic knows schemas only: json_object is refused before it is asked, and nobody else is."""
    client = make_client(**CLAUDE.settings, llm_fallback=chain)
    reply = generate(client, response_format={"type": "json_object"}, stream=stream)
    error = error_of(reply)
    assert reply.status_code == 400
    assert (error["param"], error["code"]) == ("response_format", "unsupported_parameter")
    assert "schema" in error["message"]
    assert log_lines()[-1]["http_status"] == 400


# The whole answer


def test_whole_answer(make_client: Make, far_end: RequestsMock, log_lines: Log) -> None:
    """Text, model, usage and finish reason reach the answer, the headers and the log; thinking doesn't."""
    far_end.post(CLAUDE.url, json=claude_answer("Hello"))
    reply = generate(make_client(**CLAUDE.settings), details=True)
    details = reply.json["details"]
    assert reply.json["response"] == "Hello"
    assert (details["backend"], details["model"], details["finish_reason"]) == ("claude", "far-model-1", "stop")
    assert details["usage"] == {"input_tokens": 12, "output_tokens": 2}
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Model"]) == ("claude", "far-model-1")
    line = log_lines()[-1]
    said = ("Hello", "far-model-1", 12, 2)
    assert (line["response"], line["model"], line["input_tokens"], line["output_tokens"]) == said


@pytest.mark.parametrize(
    ("said", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("pause_turn", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        ("something_new", "stop"),
        (None, "stop"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_finish_reason(make_client: Make, far_end: RequestsMock, said: str | None, finish: str, stream: bool) -> None:
    """Stop reasons are told in OpenAI's words (providers.md, table 1.3), in a stream too."""
    body = claude_start() + claude_text("x") + claude_end(said)
    far_end.post(CLAUDE.url, **({"body": body} if stream else {"json": claude_answer("x", stop_reason=said)}))
    reply = generate(make_client(**CLAUDE.settings), stream=stream, details=True)
    last = lines_of(reply)[-1] if stream else reply.json
    assert last["details"]["finish_reason"] == finish


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([], ""),
        ([{"type": "text", "text": ""}], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "thinking", "thinking": "hm"}], ""),
        ([{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "a"}], "a"),
        ([{"type": "text", "text": "a"}, {"type": "tool_use", "id": "t", "name": "f", "input": {}}], "a"),
        ([{"type": "something_new"}, {"type": "text", "text": "a\u2028b", "citations": None}], "a\u2028b"),
    ],
)
def test_content_blocks(make_client: Make, far_end: RequestsMock, content: list[Any], text: str) -> None:
    """The text is the join of the text blocks, wherever they stand and if there are none."""
    far_end.post(CLAUDE.url, json=claude_answer("", content=content))
    assert generate(make_client(**CLAUDE.settings)).json == {"response": text}


def test_refusal(make_client: Make, far_end: RequestsMock) -> None:
    """A refusal without any text is an answer whose finish reason says so."""
    stopped = {"stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "x", "explanation": "y"}}
    far_end.post(CLAUDE.url, json=claude_answer("", content=[], **stopped))
    reply = generate(make_client(**CLAUDE.settings), details=True)
    assert (reply.status_code, reply.json["response"]) == (200, "")
    assert reply.json["details"]["finish_reason"] == "content_filter"


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input_tokens": 5, "output_tokens": 3}, (5, 3)),
        ({"input_tokens": 5, "cache_creation_input_tokens": 70, "cache_read_input_tokens": 600}, (675, None)),
        ({"input_tokens": 5, "cache_creation_input_tokens": None, "cache_read_input_tokens": None}, (5, None)),
        ({"input_tokens": 0, "output_tokens": 0}, (0, 0)),
        ({"output_tokens": 3}, (None, 3)),
        ({}, (None, None)),
    ],
)
def test_usage(make_client: Make, far_end: RequestsMock, usage: dict[str, Any], expected: tuple[Any, Any]) -> None:
    """What was read from and written to the cache counts as input (providers.md, table 1.4)."""
    far_end.post(CLAUDE.url, json=claude_answer("x", usage=usage))
    said = generate(make_client(**CLAUDE.settings), details=True).json["details"]["usage"]
    assert (said["input_tokens"], said["output_tokens"]) == expected


WRONG = {
    "empty": {},
    "error": failure("api_error"),
    "null content": claude_answer("x", content=None),
    "text as content": claude_answer("x", content="x"),
    "null block": claude_answer("x", content=[None]),
    "block without type": claude_answer("x", content=[{"text": "x"}]),
    "block without text": claude_answer("x", content=[{"type": "text"}]),
    "number as text": claude_answer("x", content=[{"type": "text", "text": 5}]),
    "list as stop reason": claude_answer("x", stop_reason=["end_turn"]),
    "text as usage": claude_answer("x", usage="none"),
    "text as count": claude_answer("x", usage={"input_tokens": "12"}),
    "NaN as count": claude_answer("x", usage={"input_tokens": float("nan")}),
    "list as output count": claude_answer("x", usage={"input_tokens": 1, "output_tokens": [1]}),
    "number as model": claude_answer("x", model=5),
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_wrong_shape(make_client: Make, far_end: RequestsMock, log_lines: Log, body: dict[str, Any]) -> None:
    """A whole answer that isn't one is a failing backend: 502 invalid_answer and a line in the log."""
    far_end.post(CLAUDE.url, json=body)
    reply = generate(make_client(**CLAUDE.settings))
    assert (reply.status_code, error_of(reply)["code"]) == (502, "invalid_answer")
    assert [line["http_status"] for line in log_lines()] == [502]


# The stream

START, END = claude_start(), claude_end()
PING = claude_event("ping")


def other_delta(kind: str, **fields: Any) -> bytes:
    """Return a delta that carries no text of the answer."""
    return claude_event("content_block_delta", index=0, delta={"type": kind, **fields})


HEL, LO = claude_text("Hel"), claude_text("lo")
THINKING = (
    claude_event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""})
    + other_delta("thinking_delta", thinking="hm")
    + other_delta("signature_delta", signature="s")
    + claude_event("content_block_stop", index=0)
)
ODD_STREAMS = {
    "plain": claude_stream("Hel", "lo"),
    "CRLF": claude_stream("Hel", "lo").replace(b"\n", b"\r\n"),
    "pings": PING + START + PING + HEL + PING + PING + LO + PING + END,
    "thinking": START + THINKING + HEL + LO + END,
    "other deltas": START
    + HEL
    + other_delta("citations_delta", citation={})
    + other_delta("input_json_delta", partial_json="{")
    + other_delta("something_new")
    + LO
    + END,
    "unknown events": START + HEL + claude_event("something_new", x=1) + LO + END,
    "comments": b": hello\n\n" + START + HEL + b":\n" + LO + END,
    "empty data": START + HEL + b"event: ping\ndata:\n\n" + LO + END,
    "no event names": claude_stream("Hel", "lo").replace(b"event: ", b": "),
    "no blank after colon": claude_stream("Hel", "lo").replace(b": {", b":{"),
    "more after the end": claude_stream("Hel", "lo") + claude_text("never read"),
    "empty delta": START + HEL + claude_text("") + LO + END,
}


@pytest.mark.parametrize("body", ODD_STREAMS.values(), ids=ODD_STREAMS)
def test_stream(make_client: Make, far_end: RequestsMock, log_lines: Log, body: bytes) -> None:
    """A stream that is odd but legal is read as its text, piece by piece."""
    far_end.post(CLAUDE.url, body=body, content_type="text/event-stream")
    reply = generate(make_client(**CLAUDE.settings), stream=True)
    assert texts_of(reply) == ["Hel", "lo"]
    assert lines_of(reply)[-1] == {"response": "", "done": True, "finish_reason": "stop"}
    assert (log_lines()[-1]["response"], log_lines()[-1]["status"]) == ("Hello", "ok")


def test_end_of_a_stream(make_client: Make, far_end: RequestsMock) -> None:
    """Input tokens are told at the start, output tokens cumulatively: the last count is the count."""
    usage = {"input_tokens": 5, "cache_creation_input_tokens": 70, "cache_read_input_tokens": 600, "output_tokens": 1}
    start = claude_event("message_start", message={"model": "far-model-1", "usage": usage})
    early = claude_event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 4})
    far_end.post(CLAUDE.url, body=start + HEL + early + LO + claude_end("max_tokens", 9))
    last = lines_of(generate(make_client(**CLAUDE.settings), stream=True, details=True))[-1]
    assert (last["finish_reason"], last["details"]["model"]) == ("length", "far-model-1")
    assert last["details"]["usage"] == {"input_tokens": 675, "output_tokens": 9}


def test_separators_in_a_stream(make_client: Make, far_end: RequestsMock) -> None:
    """U+2028, U+2029 and U+0085 end no line, and UTF-8 is not taken for Latin-1."""
    far_end.post(CLAUDE.url, body=claude_stream("a\u2028b", "\u2029\u0085\u00e9"), content_type="text/event-stream")
    assert texts_of(generate(make_client(**CLAUDE.settings), stream=True)) == ["a\u2028b", "\u2029\u0085\u00e9"]


@pytest.mark.parametrize("body", [START + END, START + THINKING + END], ids=["no text", "only thinking"])
def test_empty_stream(make_client: Make, far_end: RequestsMock, body: bytes) -> None:
    """An answer without any text is an answer."""
    far_end.post(CLAUDE.url, body=body)
    assert texts_of(generate(make_client(**CLAUDE.settings), stream=True)) == []


BREAKS = {
    "cut": (b"", "invalid_answer"),
    "no message_stop": (END.removesuffix(claude_event("message_stop")), "invalid_answer"),
    "unfinished message_stop": (END.rstrip(b"\n"), "invalid_answer"),
    "not JSON": (event("oops"), "invalid_answer"),
    "array": (event("[1]"), "invalid_answer"),
    "no type": (event({"delta": {}}), "invalid_answer"),
    "no delta": (claude_event("content_block_delta"), "invalid_answer"),
    "number as text": (other_delta("text_delta", text=5) + END, "invalid_answer"),
    "list as count": (claude_end(output_tokens=[1]), "invalid_answer"),  # type: ignore[arg-type]
    "NaN as count": (claude_end(output_tokens=float("nan")), "invalid_answer"),  # type: ignore[arg-type]
    "api_error": (CLAUDE.broken, "server_error"),
    "overloaded": (claude_event("error", error={"type": "overloaded_error", "message": "x"}), "overloaded"),
    "error without more": (claude_event("error"), "server_error"),
}


@pytest.mark.parametrize(("tail", "code"), BREAKS.values(), ids=BREAKS)
def test_stream_that_breaks(make_client: Make, far_end: RequestsMock, log_lines: Log, tail: bytes, code: str) -> None:
    """After the first piece a failure is the last line, in the log too, and never the stub's text."""
    far_end.post(CLAUDE.url, body=START + HEL + tail)
    reply = generate(make_client(**CLAUDE.settings, llm_fallback=("stub",), max_retries=2), stream=True)
    first, last = lines_of(reply)
    assert (reply.status_code, first) == (200, {"response": "Hel"})
    assert (last["done"], last["error"]["code"]) == (True, code)
    line = log_lines()[-1]
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("error", 200, code)
    assert (line["response"], line["backend"], line["fallback"]) == ("Hel", "claude", False)
    assert len(far_end.calls) == 1


@pytest.mark.parametrize(("tail", "code"), BREAKS.values(), ids=BREAKS)
def test_stream_that_never_begins(
    make_client: Make, far_end: RequestsMock, log_lines: Log, tail: bytes, code: str
) -> None:
    """Before the first piece a failing stream has a true status, and falls back."""
    far_end.post(CLAUDE.url, body=START + tail)
    reply = generate(make_client(**CLAUDE.settings), stream=True)
    assert (reply.status_code, error_of(reply)["code"]) == (503 if code == "overloaded" else 502, code)
    backed = generate(make_client(**CLAUDE.settings, llm_fallback=("stub",)), stream=True)
    assert backed.headers["X-LLM-Fallback"] == code
    assert "".join(texts_of(backed)).startswith("[stub]")
    assert (log_lines()[-1]["fallback_reason"], log_lines()[-1]["backend"]) == (code, "stub")


# Errors

LATER = {"retry-after": "7"}
FAULTS = {
    "400": Fault(400, failure("invalid_request_error"), 400, "invalid_request_error", False),
    "400 empty": Fault(400, "", 400, "request_refused", False),
    # providers.md, table 1.6: too long is context_length_exceeded, and 413 says that by its status
    "400 too long": Fault(
        400, failure("invalid_request_error", "prompt is too long: 9 > 8"), 400, "context_length_exceeded", False
    ),
    "413": Fault(413, failure("request_too_large"), 400, "context_length_exceeded", False),
    "413 HTML": Fault(413, "<html>cloudflare</html>", 400, "context_length_exceeded", False),
    "401": Fault(401, failure("authentication_error"), 502, "bad_credentials"),
    "402": Fault(402, failure("billing_error"), 503, "rate_limited"),
    "403": Fault(403, failure("permission_error"), 502, "bad_credentials"),
    "404": Fault(404, failure("not_found_error", "model: claude-3-sonnet-20240229"), 404, "model_not_found"),
    "404 HTML": Fault(404, "<html>Not Found</html>", 502, "invalid_answer"),
    "408": Fault(408, "", 502, "server_error"),
    "409": Fault(409, failure("conflict_error"), 502, "server_error"),
    "429": Fault(429, failure("rate_limit_error"), 429, "rate_limited", headers=LATER),
    "429 HTML": Fault(429, "<html>", 429, "rate_limited", headers=LATER),
    "429 spent": Fault(429, failure("rate_limit_error"), 503, "rate_limited"),
    "429 contract": Fault(
        429, failure("rate_limit_error", error_code="contract_spend_limit_reached"), 503, "rate_limited", headers=LATER
    ),
    "429 enforced": Fault(
        429, failure("rate_limit_error", error_code="enforced_spend_limit_reached"), 503, "rate_limited", headers=LATER
    ),
    "429 odd details": Fault(429, {"error": {"details": "x"}}, 429, "rate_limited", headers=LATER),
    "500": Fault(500, failure("api_error"), 502, "server_error"),
    "500 string": Fault(500, {"error": "no"}, 502, "server_error"),
    "502 HTML": Fault(502, "<html>Bad Gateway</html>", 502, "server_error"),
    "503": Fault(503, "", 503, "overloaded"),
    "504": Fault(504, failure("timeout_error"), 504, "timeout"),
    "529": Fault(529, failure("overloaded_error"), 503, "overloaded"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_error(make_client: Make, far_end: RequestsMock, log_lines: Log, fault: Fault) -> None:
    """Each documented error has its status and code (providers.md 4.5), and falls back where design.md says so."""
    check_fault(fault, CLAUDE, make_client, far_end, log_lines)


@pytest.mark.parametrize("name", ["429 spent", "429 contract", "429 enforced", "402"])
def test_spent_budget_is_not_retried(make_client: Make, far_end: RequestsMock, log_lines: Log, name: str) -> None:
    """Waiting doesn't fill a budget (providers.md 1.5): one try."""
    far_end.post(CLAUDE.url, **FAULTS[name].reply())
    assert generate(make_client(**CLAUDE.settings, max_retries=2)).status_code == 503
    assert outcomes(log_lines()[-1]) == [("claude", "rate_limited")]


def test_refusal_says_why(make_client: Make, far_end: RequestsMock) -> None:
    """A refused request comes with Anthropic's reason."""
    far_end.post(CLAUDE.url, status=400, json=failure("invalid_request_error", "no such role"))
    message = error_of(generate(make_client(**CLAUDE.settings)))["message"]
    assert message == "claude refused the request: no such role"


def test_unknown_model_says_which(make_client: Make, far_end: RequestsMock) -> None:
    """A retired model is named in the answer."""
    far_end.post(CLAUDE.url, status=404, json=failure("not_found_error", "model: claude-3-sonnet-20240229"))
    error = error_of(generate(make_client(**CLAUDE.settings)))
    assert error["message"] == "claude does not have this model: model: claude-3-sonnet-20240229"
    assert error["param"] == "model"


# Keys, checks and lists


def backend(**settings: Any) -> Any:
    return make_backend("claude", Settings(claude_api_key=CLAUDE.key, **settings))


def test_no_key_for_a_server_of_ones_own(make_client: Make, far_end: RequestsMock) -> None:
    """Behind CLAUDE_BASE_URL a server may need no key, and gets no header for it."""
    far_end.post("http://box.example/v1/messages", json=claude_answer("Hello"))
    client = make_client(llm_backend="claude", claude_base_url="http://box.example")
    assert generate(client).json == {"response": "Hello"}
    assert "x-api-key" not in far_end.calls[0].request.headers


def test_check(far_end: RequestsMock) -> None:
    """A check lists one model, which validates the key and costs nothing."""
    limit = [matchers.query_param_matcher({"limit": "1"})]
    far_end.get(CLAUDE.models_url, json={"data": []}, match=limit)
    assert backend().check(Deadline(5)) is None
    headers = far_end.calls[0].request.headers
    assert (headers["x-api-key"], headers["anthropic-version"]) == (CLAUDE.key, "2023-06-01")


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ({"status": 401, "json": failure("authentication_error")}, BadCredentials),
        ({"body": requests.ConnectionError("refused")}, Unreachable),
        ({"body": "<html>"}, InvalidAnswer),
    ],
)
def test_check_that_fails(far_end: RequestsMock, reply: dict[str, Any], error: type[Exception]) -> None:
    """A bad key, a dead server and a page of somebody else's are told apart."""
    far_end.get(CLAUDE.models_url, **reply)
    with pytest.raises(error):
        backend().check(Deadline(5))


def test_list_of_models(far_end: RequestsMock) -> None:
    """The models are listed by id, as many as one page can hold."""
    limit = [matchers.query_param_matcher({"limit": "1000"})]
    body = {"data": [{"type": "model", "id": "claude-haiku-5-5"}, {"id": "claude-opus-5-5"}], "has_more": False}
    far_end.get(CLAUDE.models_url, json=body, match=limit)
    assert backend().list_models(Deadline(5)) == ["claude-haiku-5-5", "claude-opus-5-5"]


@pytest.mark.parametrize("body", [{}, {"data": ["x"]}, {"data": None}])
def test_list_of_a_wrong_shape(far_end: RequestsMock, body: dict[str, Any]) -> None:
    """A list of models that isn't one is an InvalidAnswer (base.Backend: it raises a BackendError)."""
    far_end.get(CLAUDE.models_url, json=body)
    with pytest.raises(InvalidAnswer):
        backend().list_models(Deadline(5))
