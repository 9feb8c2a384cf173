"""Hugging Face's router (providers.md, section 5), its far end mocked. Its wire is OpenAI's: see test_openai.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from providers import (
    CITY,
    HUGGING_FACE,
    SCHEMA,
    FarEnd,
    Fault,
    Log,
    Make,
    check_fault,
    delta,
    error_of,
    event,
    generate,
    lines_of,
    openai_answer,
    openai_stream,
    outcomes,
    sent,
    texts_of,
)
from responses import RequestsMock

from llm_api import Settings
from llm_api.backends import make_backend
from llm_api.errors import BadCredentials, InvalidAnswer, Unreachable
from llm_api.runtime.deadline import Deadline

USER = {"role": "user", "content": "Hi"}
TGI = "http://tgi.example:8080/v1"


@pytest.fixture
def far_end() -> Iterator[RequestsMock]:
    with FarEnd() as mock:
        yield mock


# The request


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, {}),
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 2}, {"temperature": 2}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"seed": 0}, {"seed": 0}),
        ({"stop": "END"}, {"stop": ["END"]}),
        ({"stop": ["a", "b", "c", "d"]}, {"stop": ["a", "b", "c", "d"]}),
        ({"model": "Qwen/Qwen3-4B:groq"}, {"model": "Qwen/Qwen3-4B:groq"}),
        ({"model": "org/gpt-5-like", "max_tokens": 3}, {"model": "org/gpt-5-like", "max_tokens": 3}),
        ({"system": "Be brief."}, {"messages": [{"role": "system", "content": "Be brief."}, USER]}),
        ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
        (
            {"response_format": SCHEMA},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}},
        ),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    ],
)
def test_request_body(make_client: Make, far_end: RequestsMock, said: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every parameter has its place in the router's words: max_tokens, and nothing that the caller didn't say."""
    body = {"body": openai_stream("x")} if said.get("stream") else {"json": openai_answer(CITY)}
    far_end.post(HUGGING_FACE.url, **body)
    assert generate(make_client(**HUGGING_FACE.settings), **said).status_code == 200
    assert sent(far_end) == {"model": "openai/gpt-oss-20b", "stream": False, "messages": [USER]} | expected


def test_request_headers(make_client: Make, far_end: RequestsMock) -> None:
    """The key goes as a bearer token, and no header says more than is needed."""
    far_end.post(HUGGING_FACE.url, json=openai_answer("Hello"))
    generate(make_client(**HUGGING_FACE.settings))
    headers = {name.lower(): value for name, value in far_end.calls[0].request.headers.items()}
    expected = {"user-agent": "llm-api", "accept-encoding": "identity", "content-type": "application/json"}
    assert headers == expected | {"authorization": f"Bearer {HUGGING_FACE.key}"}


def test_configured_model(make_client: Make, far_end: RequestsMock) -> None:
    """HF_MODEL is what is asked where the caller names none, with its provider's suffix."""
    far_end.post(HUGGING_FACE.url, json=openai_answer("Hello"))
    generate(make_client(**HUGGING_FACE.settings, hf_model="openai/gpt-oss-120b:cheapest"))
    assert sent(far_end)["model"] == "openai/gpt-oss-120b:cheapest"


# The answer


def test_whole_answer(make_client: Make, far_end: RequestsMock, log_lines: Log) -> None:
    """Text, model, usage and finish reason reach the answer, the headers and the log."""
    far_end.post(HUGGING_FACE.url, json=openai_answer("Hello"))
    reply = generate(make_client(**HUGGING_FACE.settings), details=True)
    details = reply.json["details"]
    assert reply.json["response"] == "Hello"
    assert (details["backend"], details["model"], details["finish_reason"]) == ("huggingface", "far-model-1", "stop")
    assert details["usage"] == {"input_tokens": 12, "output_tokens": 2}
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Model"]) == ("huggingface", "far-model-1")
    assert (log_lines()[-1]["response"], log_lines()[-1]["backend"]) == ("Hello", "huggingface")


@pytest.mark.parametrize(
    ("said", "finish"),
    [
        ("stop", "stop"),
        ("eos_token", "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("stop_sequence", "stop"),
        (None, "stop"),
    ],
)
def test_finish_reason(make_client: Make, far_end: RequestsMock, said: str | None, finish: str) -> None:
    """The words of TGI are told in OpenAI's (providers.md, table 1.3)."""
    far_end.post(HUGGING_FACE.url, json=openai_answer("x", finish_reason=said))
    assert generate(make_client(**HUGGING_FACE.settings), details=True).json["details"]["finish_reason"] == finish


def chunk(**said: Any) -> bytes:
    """Return a chunk with another delta than text."""
    return event({"choices": [{"index": 0, "delta": said, "finish_reason": None}], "usage": None})


END = delta("", "stop")
ODD_STREAMS = {
    "plain": openai_stream("Hel", "lo"),
    "as documented": delta("Hel") + delta("lo") + END + event("[DONE]"),
    "no [DONE]": delta("Hel") + delta("lo") + END,
    "reasoning": chunk(reasoning="hm") + chunk(reasoning_content="hm") + delta("Hel") + delta("lo") + END,
    "CRLF": openai_stream("Hel", "lo").replace(b"\n", b"\r\n"),
    "null error": delta("Hel", error=None) + delta("lo") + END,
    "eos_token": delta("Hel") + delta("lo") + delta("", "eos_token"),
    "comments": b": ping\n\n" + openai_stream("Hel", "lo"),
}


@pytest.mark.parametrize("body", ODD_STREAMS.values(), ids=ODD_STREAMS)
def test_stream(make_client: Make, far_end: RequestsMock, body: bytes) -> None:
    """A stream of any of the router's providers is read as its text; reasoning is no part of it."""
    far_end.post(HUGGING_FACE.url, body=body, content_type="text/event-stream")
    reply = generate(make_client(**HUGGING_FACE.settings), stream=True)
    assert texts_of(reply) == ["Hel", "lo"]
    assert lines_of(reply)[-1] == {"response": "", "done": True, "finish_reason": "stop"}


BREAKS = {
    "cut": (b"", "invalid_answer"),
    "generation": (event({"error": "failed", "error_type": "generation"}), "server_error"),
    "incomplete": (event({"error": "failed", "error_type": "incomplete_generation"}), "server_error"),
    "overloaded": (event({"error": "busy", "error_type": "overloaded"}), "overloaded"),
    "object": (event({"error": {"message": "failed"}}), "server_error"),
}


@pytest.mark.parametrize(("tail", "code"), BREAKS.values(), ids=BREAKS)
def test_stream_that_breaks(make_client: Make, far_end: RequestsMock, log_lines: Log, tail: bytes, code: str) -> None:
    """After the first piece a failure is the last line, in the log too, and never the stub's text."""
    far_end.post(HUGGING_FACE.url, body=delta("Hel") + tail)
    reply = generate(make_client(**HUGGING_FACE.settings, llm_fallback=("stub",)), stream=True)
    first, last = lines_of(reply)
    assert first == {"response": "Hel"}
    assert (last["done"], last["error"]["code"]) == (True, code)
    line = log_lines()[-1]
    assert (line["status"], line["error"]["code"], line["backend"]) == ("error", code, "huggingface")


@pytest.mark.parametrize(("tail", "code"), BREAKS.values(), ids=BREAKS)
def test_stream_that_never_begins(make_client: Make, far_end: RequestsMock, tail: bytes, code: str) -> None:
    """Before the first piece a failing stream has a true status, and falls back."""
    far_end.post(HUGGING_FACE.url, body=delta("") + tail)
    reply = generate(make_client(**HUGGING_FACE.settings), stream=True)
    assert (reply.status_code, error_of(reply)["code"]) == (503 if code == "overloaded" else 502, code)
    backed = generate(make_client(**HUGGING_FACE.settings, llm_fallback=("stub",)), stream=True)
    assert backed.headers["X-LLM-Fallback"] == code


@pytest.mark.parametrize("chain", [(), ("stub",)])
def test_stream_that_is_refused(make_client: Make, far_end: RequestsMock, chain: tuple[str, ...]) -> None:
    """TGI's error_type validation says that the request is wrong: 400, and nobody else is asked."""
    far_end.post(HUGGING_FACE.url, body=event({"error": "`inputs` must be shorter", "error_type": "validation"}))
    assert generate(make_client(**HUGGING_FACE.settings, llm_fallback=chain), stream=True).status_code == 400


# Errors

UNSUPPORTED = "The requested model 'x' is not supported by any provider you have enabled."
SPENT = {"error": "You have depleted your monthly included credits."}
FAULTS = {
    "400 string": Fault(400, {"error": "no"}, 400, "request_refused", False),
    "400 object": Fault(400, {"error": {"message": "no", "code": "bad_thing"}}, 400, "bad_thing", False),
    "400 HTML": Fault(400, "<html>", 400, "request_refused", False),
    "400 model": Fault(400, {"error": {"message": UNSUPPORTED, "code": "model_not_supported"}}, 404, "model_not_found"),
    "422": Fault(422, {"error": "Input validation error", "error_type": "validation"}, 400, "request_refused", False),
    "401": Fault(401, {"error": "Invalid username or password."}, 502, "bad_credentials"),
    "401 empty": Fault(401, "", 502, "bad_credentials"),
    "402": Fault(402, SPENT, 503, "rate_limited"),
    "403": Fault(403, {"error": {"message": "This token can't call providers"}}, 502, "bad_credentials"),
    "404": Fault(404, {"error": "Model x does not exist"}, 404, "model_not_found"),
    "404 text": Fault(404, "Not Found", 502, "invalid_answer"),
    "410": Fault(410, {"error": "use router.huggingface.co"}, 502, "invalid_answer"),
    "429": Fault(429, {"error": "rate limit"}, 429, "rate_limited", headers={"ratelimit": '"api";r=0;t=55'}),
    "500": Fault(500, {"error": {"message": "no", "type": "server_error"}}, 502, "server_error"),
    "502 HTML": Fault(502, "<html>Bad Gateway</html>", 502, "server_error"),
    "503": Fault(503, {"error": "Model is overloaded", "error_type": "overloaded"}, 503, "overloaded"),
    "504": Fault(504, "<html>Gateway Time-out</html>", 504, "timeout"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_error(make_client: Make, far_end: RequestsMock, log_lines: Log, fault: Fault) -> None:
    """Each documented error has its status and code (providers.md 5), and falls back where design.md says so."""
    check_fault(fault, HUGGING_FACE, make_client, far_end, log_lines)


def test_spent_credit_is_not_retried(make_client: Make, far_end: RequestsMock, log_lines: Log) -> None:
    """Waiting doesn't fill an account (providers.md 1.5): one try."""
    far_end.post(HUGGING_FACE.url, status=402, json=SPENT)
    assert generate(make_client(**HUGGING_FACE.settings, max_retries=2)).status_code == 503
    assert outcomes(log_lines()[-1]) == [("huggingface", "rate_limited")]


@pytest.mark.parametrize("error", [UNSUPPORTED, {"message": UNSUPPORTED, "code": "model_not_supported"}])
def test_reason_of_a_refusal(make_client: Make, far_end: RequestsMock, error: Any) -> None:
    """The router's own words reach the client, whether its error is a string or an object."""
    far_end.post(HUGGING_FACE.url, status=400, json={"error": error})
    assert error_of(generate(make_client(**HUGGING_FACE.settings)))["message"].endswith(f": {UNSUPPORTED}")


# Keys, checks and lists


def backend(**settings: Any) -> Any:
    return make_backend("huggingface", Settings(hf_mode="cloud", hf_api_key=HUGGING_FACE.key, **settings))


def test_no_key_for_a_server_of_ones_own(make_client: Make, far_end: RequestsMock) -> None:
    """Behind HF_BASE_URL a server may need no key, and gets no header for it."""
    far_end.post(f"{TGI}/chat/completions", json=openai_answer("Hello"))
    client = make_client(llm_backend="huggingface", hf_mode="cloud", hf_base_url=TGI)
    assert generate(client).json == {"response": "Hello"}
    assert "Authorization" not in far_end.calls[0].request.headers


def test_check(far_end: RequestsMock) -> None:
    """A check lists the models, which costs nothing."""
    far_end.get(HUGGING_FACE.models_url, json={"object": "list", "data": []})
    assert backend().check(Deadline(5)) is None


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ({"status": 401, "json": {"error": "Invalid username or password."}}, BadCredentials),
        ({"body": requests.ConnectionError("refused")}, Unreachable),
        ({"body": "<html>"}, InvalidAnswer),
    ],
)
def test_check_that_fails(far_end: RequestsMock, reply: dict[str, Any], error: type[Exception]) -> None:
    """A bad key, a dead server and a page of somebody else's are told apart."""
    far_end.get(HUGGING_FACE.models_url, **reply)
    with pytest.raises(error):
        backend().check(Deadline(5))


def test_list_of_models(far_end: RequestsMock) -> None:
    """The models are listed by id."""
    body = {"data": [{"id": "openai/gpt-oss-20b", "providers": []}, {"id": "Qwen/Qwen3-4B"}]}
    far_end.get(HUGGING_FACE.models_url, json=body)
    assert backend().list_models(Deadline(5)) == ["openai/gpt-oss-20b", "Qwen/Qwen3-4B"]
