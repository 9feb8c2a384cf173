"""OpenAI's Chat Completions (providers.md, section 3), with its far end mocked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from providers import (
    CITY,
    OPENAI,
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
    openai_usage,
    outcomes,
    sent,
    texts_of,
)
from responses import RequestsMock

from llm_api import Settings
from llm_api.backends import make_backend
from llm_api.errors import BadCredentials, InvalidAnswer, NotConfigured, Unreachable
from llm_api.runtime.deadline import Deadline

USER = {"role": "user", "content": "Hi"}
CLUSTER = "http://vllm.example:8000/v1"
CLUSTER_URL = CLUSTER + "/chat/completions"


@pytest.fixture
def far_end() -> Iterator[RequestsMock]:
    with FarEnd() as mock:
        yield mock


def failure(
    code: str | None, message: str = "no", param: str | None = None, kind: str = "invalid_request_error"
) -> Any:
    """Return OpenAI's error envelope."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def refusal(param: str, code: str | None = "unsupported_parameter") -> dict[str, Any]:
    """Return the reply of a model that takes no `param`."""
    words = f"Unsupported parameter: '{param}' is not supported with this model."
    return {"status": 400, "json": failure(code, words, param)}


# The request


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, {}),
        ({"max_tokens": 7}, {"max_completion_tokens": 7}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"temperature": 2}, {"temperature": 2}),
        ({"top_p": 0.5}, {"top_p": 0.5}),
        ({"seed": 0}, {"seed": 0}),
        ({"stop": "END"}, {"stop": ["END"]}),
        ({"stop": ["a", "b", "c", "d"]}, {"stop": ["a", "b", "c", "d"]}),
        ({"stop": []}, {}),
        ({"model": "gpt-4.1"}, {"model": "gpt-4.1"}),
        ({"system": "Be brief."}, {"messages": [{"role": "system", "content": "Be brief."}, USER]}),
        ({"system": ""}, {}),
        ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
        (
            {"response_format": SCHEMA},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}},
        ),
        ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    ],
)
def test_request_body(make_client: Make, far_end: RequestsMock, said: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every parameter has its place in OpenAI's words, and nothing is sent that the caller didn't say."""
    body = {"body": openai_stream("x")} if said.get("stream") else {"json": openai_answer(CITY)}
    far_end.post(OPENAI.url, **body)
    assert generate(make_client(**OPENAI.settings, openai_model="gpt-4o"), **said).status_code == 200
    assert sent(far_end) == {"model": "gpt-4o", "stream": False, "messages": [USER]} | expected


def test_request_headers(make_client: Make, far_end: RequestsMock) -> None:
    """The key goes as a bearer token, and no header says more than is needed."""
    far_end.post(OPENAI.url, json=openai_answer("Hello"))
    generate(make_client(**OPENAI.settings))
    headers = {name.lower(): value for name, value in far_end.calls[0].request.headers.items()}
    expected = {"user-agent": "llm-api", "accept-encoding": "identity", "content-type": "application/json"}
    assert headers == expected | {"authorization": f"Bearer {OPENAI.key}"}


def test_default_model(make_client: Make, far_end: RequestsMock) -> None:
    """Without OPENAI_MODEL a living model is asked (providers.md, section 0)."""
    far_end.post(OPENAI.url, json=openai_answer("Hello"))
    generate(make_client(**OPENAI.settings))
    assert sent(far_end)["model"] == "gpt-6-luna"


@pytest.mark.parametrize(
    ("base", "model", "name"),
    [
        ("https://api.openai.com/v1", "gpt-6-luna", "max_completion_tokens"),
        ("https://api.openai.com/v1", "gpt-4o", "max_completion_tokens"),
        ("https://us.api.openai.com/v1", "gpt-4o", "max_completion_tokens"),
        ("https://API.openai.com/v1", "gpt-4o", "max_completion_tokens"),
        (CLUSTER, "gpt-4o", "max_tokens"),
        (CLUSTER, "qwen3", "max_tokens"),
        (CLUSTER, "openai/gpt-oss-20b", "max_tokens"),
        (CLUSTER, "gpt-5-mini", "max_completion_tokens"),
        (CLUSTER, "gpt-6.1-sol", "max_completion_tokens"),
        (CLUSTER, "o3", "max_completion_tokens"),
        (CLUSTER, "olmo-2", "max_tokens"),
        ("https://api.openai.com.example/v1", "gpt-4o", "max_tokens"),
        ("https://notapi.openai.com/v1", "gpt-4o", "max_tokens"),
        ("https://gateway.example/api.openai.com", "gpt-4o", "max_tokens"),
    ],
)
@pytest.mark.parametrize("by_caller", [False, True])
def test_name_of_max_tokens(
    make_client: Make, far_end: RequestsMock, base: str, model: str, name: str, by_caller: bool
) -> None:
    """OpenAI itself and its reasoning models anywhere get max_completion_tokens, all others max_tokens."""
    far_end.post(f"{base}/chat/completions".replace("API", "api"), json=openai_answer("x"))
    chosen = {} if by_caller else {"openai_model": model}
    client = make_client(**OPENAI.at(base), **chosen)
    said = {"model": model} if by_caller else {}
    assert generate(client, max_tokens=9, **said).status_code == 200
    assert {field: value for field, value in sent(far_end).items() if "tokens" in field} == {name: 9}


@pytest.mark.parametrize("said", [{"temperature": 0.2}, {"top_p": 0.5}, {"temperature": 1, "top_p": 1}])
@pytest.mark.parametrize("model", ["gpt-6-luna", "gpt-6-sol", "gpt-6.1-terra", "gpt-5.1", "gpt-5.4-mini"])
def test_sampling_needs_effort_none(
    make_client: Make, far_end: RequestsMock, model: str, said: dict[str, float]
) -> None:
    """Families that take sampling only with effort none get that (providers.md 3.3)."""
    far_end.post(OPENAI.url, json=openai_answer("x"))
    generate(make_client(**OPENAI.settings), model=model, **said)
    expected = {"model": model, "stream": False, "messages": [USER], "reasoning_effort": "none"}
    assert sent(far_end) == expected | said


@pytest.mark.parametrize("model", ["gpt-6-astra", "gpt-6.1-sol", "gpt-5", "gpt-5-mini", "gpt-4o", "o3"])
def test_no_effort_where_there_is_no_none(make_client: Make, far_end: RequestsMock, model: str) -> None:
    """Models without effort none, or without effort at all, are sent none."""
    far_end.post(OPENAI.url, json=openai_answer("x"))
    generate(make_client(**OPENAI.settings), model=model, temperature=0.2)
    assert "reasoning_effort" not in sent(far_end)


@pytest.mark.parametrize("said", [{}, {"max_tokens": 5}, {"seed": 1}, {"stop": "x"}])
def test_no_effort_without_sampling(make_client: Make, far_end: RequestsMock, said: dict[str, Any]) -> None:
    """A caller who says no temperature and no top_p keeps the model's own effort."""
    far_end.post(OPENAI.url, json=openai_answer("y"))
    generate(make_client(**OPENAI.settings), model="gpt-6-luna", **said)
    assert "reasoning_effort" not in sent(far_end)


# Parameters that a model refuses


@pytest.mark.parametrize(
    ("said", "reply", "left"),
    [
        ({"temperature": 0.3}, refusal("temperature"), {}),
        ({"temperature": 0.3}, refusal("temperature", "unsupported_value"), {}),
        ({"temperature": 0.3}, refusal("temperature", None), {}),
        ({"temperature": 0.3, "top_p": 0.5}, refusal("temperature"), {}),
        ({"temperature": 0.3, "top_p": 0.5}, refusal("top_p"), {}),
        ({"temperature": 0.3, "seed": 5}, refusal("temperature"), {"seed": 5}),
        ({"seed": 5, "max_tokens": 9}, refusal("seed"), {"max_tokens": 9}),
        ({"max_tokens": 9}, refusal("max_tokens"), {"max_completion_tokens": 9}),
    ],
)
def test_refused_parameter(
    make_client: Make,
    far_end: RequestsMock,
    log_lines: Log,
    said: dict[str, Any],
    reply: dict[str, Any],
    left: dict[str, Any],
) -> None:
    """It is dropped or renamed and the model asked again at once, without a retry being spent; then it is known."""
    far_end.post(CLUSTER_URL, **reply)
    far_end.post(CLUSTER_URL, json=openai_answer("Hello"))
    client = make_client(**OPENAI.at(CLUSTER), max_retries=0)
    plain = {"model": "new-model", "stream": False, "messages": [USER]}
    for _ in range(2):
        assert generate(client, model="new-model", **said).json == {"response": "Hello"}
        assert sent(far_end) == plain | left
    assert len(far_end.calls) == 3
    assert sent(far_end, 0) == plain | said
    assert outcomes(log_lines()[0]) == [("openai", "unsupported_parameter"), ("openai", "ok")]
    assert outcomes(log_lines()[1]) == [("openai", "ok")]


def test_refused_parameter_is_remembered_per_model(make_client: Make, far_end: RequestsMock) -> None:
    """What one model refuses, another one still gets."""
    far_end.post(CLUSTER_URL, **refusal("temperature"))
    far_end.post(CLUSTER_URL, json=openai_answer("Hello"))
    client = make_client(**OPENAI.at(CLUSTER))
    generate(client, model="one", temperature=0.3)
    generate(client, model="two", temperature=0.3)
    assert [(b["model"], b.get("temperature")) for b in (sent(far_end, n) for n in range(3))] == [
        ("one", 0.3),
        ("one", None),
        ("two", 0.3),
    ]


def test_refused_parameter_of_a_stream(make_client: Make, far_end: RequestsMock) -> None:
    """A stream learns in the same way."""
    far_end.post(OPENAI.url, **refusal("temperature"))
    far_end.post(OPENAI.url, body=openai_stream("Hel", "lo"))
    reply = generate(make_client(**OPENAI.settings), model="gpt-5", temperature=0.3, stream=True)
    assert texts_of(reply) == ["Hel", "lo"]


def test_several_refused_parameters(make_client: Make, far_end: RequestsMock) -> None:
    """A model may refuse one parameter after the other; each is dropped once."""
    for param in ("max_tokens", "temperature", "stop", "seed"):
        far_end.post(CLUSTER_URL, **refusal(param))
    far_end.post(CLUSTER_URL, json=openai_answer("Hello END of it"))
    said = {"max_tokens": 5, "temperature": 1, "stop": "END", "seed": 2}
    assert generate(make_client(**OPENAI.at(CLUSTER)), model="m", **said).json == {"response": "Hello "}
    assert sent(far_end) == {"model": "m", "stream": False, "messages": [USER], "max_completion_tokens": 5}
    assert len(far_end.calls) == 5


@pytest.mark.parametrize("base", [OPENAI.base, CLUSTER])
def test_both_names_of_max_tokens_refused(make_client: Make, far_end: RequestsMock, base: str) -> None:
    """A server that takes neither name is asked at most once for each, not until it gives in."""

    def refuse(request: Any) -> tuple[int, dict[str, str], str]:
        name = next((name for name in json.loads(request.body) if "tokens" in name), None)
        refused = name is not None and len(far_end.calls) < 10
        return (400 if refused else 200), {}, json.dumps(refusal(name)["json"] if refused else openai_answer("Hello"))

    far_end.add_callback("POST", f"{base}/chat/completions", refuse)
    reply = generate(make_client(**OPENAI.at(base)), model="m", max_tokens=5)
    assert (reply.status_code, len(far_end.calls) <= 3) == (400, True)
    assert error_of(reply)["param"] in ("max_tokens", "max_completion_tokens")


@pytest.mark.parametrize("said", [{"temperature": 0.3}, {"max_tokens": 5}])
def test_refused_of_two_requests_at_once(make_client: Make, far_end: RequestsMock, said: dict[str, Any]) -> None:
    """A request whose refusal comes after another one's, when it is known already, is asked again too."""
    client = make_client(**OPENAI.at(CLUSTER))
    (name,) = said
    others = []

    def reply(request: Any) -> tuple[int, dict[str, str], str]:
        if name not in json.loads(request.body):
            return 200, {}, json.dumps(openai_answer("Hello"))
        if not others:
            others.append(None)  # while this one is on its way
            others[0] = generate(client, model="m", **said)
        return 400, {}, json.dumps(refusal(name)["json"])

    far_end.add_callback("POST", CLUSTER_URL, reply)
    mine = generate(client, model="m", **said)
    assert [answer.json for answer in (others[0], mine)] == [{"response": "Hello"}] * 2


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ({"temperature": 0.3}, refusal("messages")),
        ({}, refusal("temperature")),
        ({"temperature": 0.3}, {"status": 400, "json": failure("invalid_value", "Too hot", "temperature")}),
        ({"temperature": 0.3}, {"status": 422, "json": refusal("temperature")["json"]}),
        ({"model": "x"}, refusal("model")),
        ({"response_format": SCHEMA}, refusal("response_format")),
    ],
    ids=["not a parameter", "not sent", "wrong value", "422", "model", "response_format"],
)
def test_refusals_that_stay(
    make_client: Make, far_end: RequestsMock, said: dict[str, Any], reply: dict[str, Any]
) -> None:
    """What can't be left out without changing the request's meaning is the client's 400, after one try."""
    far_end.post(OPENAI.url, **reply)
    answer = generate(make_client(**OPENAI.settings, openai_model="gpt-5", llm_fallback=("stub",)), **said)
    said_by_openai = reply["json"]["error"]
    assert answer.status_code == 400
    assert error_of(answer) == {
        "message": f"openai refused the request: {said_by_openai['message']}",
        "type": "invalid_request_error",
        "code": said_by_openai["code"],
        "param": said_by_openai["param"],
    }
    assert len(far_end.calls) == 1


# Stop texts for models that take none


@pytest.mark.parametrize("model", ["gpt-5", "gpt-5.1", "o3", "o4-mini"])
def test_stop_is_cut_here(make_client: Make, far_end: RequestsMock, model: str) -> None:
    """Models that take no stop aren't sent one; the answer ends before it all the same."""
    far_end.post(OPENAI.url, json=openai_answer("Hello END of it", finish_reason="length"))
    reply = generate(make_client(**OPENAI.settings), model=model, stop=["it", "END"], details=True)
    assert "stop" not in sent(far_end)
    assert reply.json["response"] == "Hello "
    assert reply.json["details"]["finish_reason"] == "stop"
    assert reply.json["details"]["usage"] == {"input_tokens": 12, "output_tokens": 2}


@pytest.mark.parametrize(
    ("pieces", "stop", "text"),
    [
        (["Hello E", "ND of it"], "END", "Hello "),
        (["Hello ", "E", "N", "D", " of it"], "END", "Hello "),
        (["END"], "END", ""),
        (["a", "b", "c"], "c", "ab"),
        (["Hello E", "N"], "END", "Hello EN"),
        (["Hello EN", "EN", "D!"], "END", "Hello EN"),
        (["one two", " three"], ["three", "two"], "one "),
        (["caf\u00e9", "\U0001f600stop"], "\U0001f600", "caf\u00e9"),
        (["Hello"], "END", "Hello"),
        ([], "END", ""),
    ],
)
def test_stop_in_a_stream(make_client: Make, far_end: RequestsMock, pieces: list[str], stop: Any, text: str) -> None:
    """A stop text is found however the stream cuts it, nothing after it comes out, and nothing before it is lost."""
    far_end.post(OPENAI.url, body=openai_stream(*pieces))
    reply = generate(make_client(**OPENAI.settings), model="gpt-5", stop=stop, stream=True)
    assert "".join(texts_of(reply)) == text
    assert lines_of(reply)[-1]["finish_reason"] == "stop"


def test_refused_stop_is_cut_here(make_client: Make, far_end: RequestsMock) -> None:
    """A model found to take no stop has its answers cut from then on."""
    far_end.post(CLUSTER_URL, **refusal("stop"))
    far_end.post(CLUSTER_URL, json=openai_answer("Hello END of it"))
    client = make_client(**OPENAI.at(CLUSTER))
    for _ in range(2):
        assert generate(client, model="m", stop="END").json == {"response": "Hello "}


def test_sent_stop_is_not_cut_again(make_client: Make, far_end: RequestsMock) -> None:
    """Where the server stops by itself its answer is left alone."""
    far_end.post(OPENAI.url, json=openai_answer("Hello END"))
    assert generate(make_client(**OPENAI.settings), model="gpt-4o", stop="END").json == {"response": "Hello END"}


# The whole answer


def test_whole_answer(make_client: Make, far_end: RequestsMock, log_lines: Log) -> None:
    """Text, model, usage and finish reason reach the answer, the headers and the log."""
    far_end.post(OPENAI.url, json=openai_answer("Hello"))
    reply = generate(make_client(**OPENAI.settings), details=True)
    details = reply.json["details"]
    assert reply.json["response"] == "Hello"
    assert (details["backend"], details["model"], details["finish_reason"]) == ("openai", "far-model-1", "stop")
    assert details["usage"] == {"input_tokens": 12, "output_tokens": 2}
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Model"]) == ("openai", "far-model-1")
    line = log_lines()[-1]
    assert (line["response"], line["model"], line["input_tokens"], line["output_tokens"]) == (
        "Hello",
        "far-model-1",
        12,
        2,
    )


@pytest.mark.parametrize(
    ("said", "finish"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
        (None, "stop"),
        ("", "stop"),
        ("something_new", "stop"),
    ],
)
def test_finish_reason(make_client: Make, far_end: RequestsMock, said: str | None, finish: str) -> None:
    """Finish reasons are told in the four words of table 1.3, unknown ones as stop."""
    far_end.post(OPENAI.url, json=openai_answer("x", finish_reason=said))
    assert generate(make_client(**OPENAI.settings), details=True).json["details"]["finish_reason"] == finish


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "Hello"}, "Hello"),
        ({"content": ""}, ""),
        ({"content": None}, ""),
        ({}, ""),
        ({"content": None, "refusal": "I can't."}, "I can't."),
        ({"content": None, "tool_calls": [{"id": "1"}]}, ""),
        ({"content": "a\u2028b\x00", "reasoning_content": "hm"}, "a\u2028b\x00"),
    ],
)
def test_odd_message(make_client: Make, far_end: RequestsMock, message: dict[str, Any], text: str) -> None:
    """Empty, null and refused contents are answers; reasoning is no part of them."""
    far_end.post(OPENAI.url, json=openai_answer("", message={"role": "assistant"} | message))
    assert generate(make_client(**OPENAI.settings)).json == {"response": text}


@pytest.mark.parametrize(
    ("changes", "usage"),
    [
        ({"usage": None}, (None, None)),
        ({"usage": {}}, (None, None)),
        ({"usage": {"prompt_tokens": 3}}, (3, None)),
        ({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, (0, 0)),
    ],
)
def test_usage(
    make_client: Make, far_end: RequestsMock, changes: dict[str, Any], usage: tuple[int | None, int | None]
) -> None:
    """Counts are told as far as they are there."""
    far_end.post(OPENAI.url, json=openai_answer("x") | changes)
    said = generate(make_client(**OPENAI.settings), details=True).json["details"]["usage"]
    assert (said["input_tokens"], said["output_tokens"]) == usage


WRONG = {
    "empty": {},
    "error": failure(None),
    "no choices": {"choices": []},
    "null choices": {"choices": None},
    "null choice": {"choices": [None]},
    "no message": {"choices": [{}]},
    "null message": openai_answer("x", message=None),
    "text message": openai_answer("x", message="x"),
    "number as content": openai_answer("x", message={"content": 5}),
    "list as content": openai_answer("x", message={"content": [{"type": "text", "text": "x"}]}),
    "number as finish reason": openai_answer("x", finish_reason={"a": 1}),
    "text as usage": openai_answer("x") | {"usage": "none"},
    "list as count": openai_answer("x") | {"usage": {"prompt_tokens": [1]}},
    "NaN as count": openai_answer("x") | {"usage": {"prompt_tokens": float("nan")}},
    "number as model": openai_answer("x") | {"model": 5},
}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_wrong_shape(make_client: Make, far_end: RequestsMock, log_lines: Log, body: dict[str, Any]) -> None:
    """A whole answer that isn't one is a failing backend: 502 invalid_answer and a line in the log."""
    far_end.post(OPENAI.url, json=body)
    reply = generate(make_client(**OPENAI.settings))
    assert (reply.status_code, error_of(reply)["code"]) == (502, "invalid_answer")
    assert [line["http_status"] for line in log_lines()] == [502]


# The stream

HEAD, TAIL = delta(""), delta(None, "stop")
DONE = event("[DONE]")
ODD_STREAMS = {
    "plain": openai_stream("Hel", "lo"),
    "CRLF": openai_stream("Hel", "lo").replace(b"\n", b"\r\n"),
    "no [DONE]": openai_stream("Hel", "lo").removesuffix(DONE),
    "no usage": delta("Hel") + delta("lo") + TAIL + DONE,
    "no head": delta("Hel") + delta("lo") + TAIL + openai_usage() + DONE,
    "comments": b": keep-alive\n\n" + delta("Hel") + b":\n\n: more\n" + delta("lo") + TAIL + DONE,
    "empty data": HEAD + b"data:\n\n" + delta("Hel") + b"data: \n\n" + delta("lo") + TAIL + DONE,
    "named events": b"".join(b"event: chunk\nid: 1\nretry: 10\n" + e for e in (delta("Hel"), delta("lo"), TAIL)),
    "no blank after colon": openai_stream("Hel", "lo").replace(b"data: ", b"data:"),
    "data in two lines": b'data: {"choices": [{"delta":\ndata: {"content": "Hel"}}]}\n\n' + delta("lo") + TAIL,
    "null choices": event({"choices": None}) + delta("Hel") + event({"choices": []}) + delta("lo") + TAIL,
    "null content": event({"choices": [{"delta": {"content": None}}]}) + delta("Hel") + delta("lo") + TAIL,
    "null delta": event({"choices": [{"delta": None}]}) + delta("Hel") + delta("lo") + TAIL,
    "reasoning": event({"choices": [{"delta": {"reasoning": "hm"}}]}) + delta("Hel") + delta("lo") + TAIL,
    "finish with the last text": delta("Hel") + delta("lo", "stop") + DONE,
    "obfuscation": delta("Hel", obfuscation="xyz") + delta("lo", service_tier="flex") + TAIL,
    "no error": delta("Hel", error=None) + delta("lo") + TAIL,
    "after [DONE]": openai_stream("Hel", "lo") + delta("never read"),
}


@pytest.mark.parametrize("body", ODD_STREAMS.values(), ids=ODD_STREAMS)
def test_stream(make_client: Make, far_end: RequestsMock, log_lines: Log, body: bytes) -> None:
    """A stream that is odd but legal is read as its text, piece by piece."""
    far_end.post(OPENAI.url, body=body, content_type="text/event-stream")
    reply = generate(make_client(**OPENAI.settings), stream=True)
    assert texts_of(reply) == ["Hel", "lo"]
    assert lines_of(reply)[-1] == {"response": "", "done": True, "finish_reason": "stop"}
    assert (log_lines()[-1]["response"], log_lines()[-1]["status"]) == ("Hello", "ok")


def test_end_of_a_stream(make_client: Make, far_end: RequestsMock) -> None:
    """The usage, which comes after the finish reason and without choices, and the model are told at the end."""
    far_end.post(OPENAI.url, body=openai_stream("Hello", finish="length"))
    last = lines_of(generate(make_client(**OPENAI.settings), stream=True, details=True))[-1]
    assert (last["finish_reason"], last["details"]["model"]) == ("length", "far-model-1")
    assert last["details"]["usage"] == {"input_tokens": 12, "output_tokens": 2}


def test_separators_in_a_stream(make_client: Make, far_end: RequestsMock) -> None:
    """U+2028, U+2029 and U+0085 end no line, and UTF-8 is not taken for Latin-1."""
    far_end.post(OPENAI.url, body=openai_stream("a\u2028b", "\u2029\u0085\u00e9"), content_type="text/event-stream")
    assert texts_of(generate(make_client(**OPENAI.settings), stream=True)) == ["a\u2028b", "\u2029\u0085\u00e9"]


def test_refusal_in_a_stream(make_client: Make, far_end: RequestsMock) -> None:
    """A refusal is streamed as text."""
    far_end.post(OPENAI.url, body=event({"choices": [{"delta": {"refusal": "I can't."}}]}) + TAIL)
    assert texts_of(generate(make_client(**OPENAI.settings), stream=True)) == ["I can't."]


@pytest.mark.parametrize("body", [HEAD + TAIL + DONE, TAIL], ids=["whole", "only its end"])
def test_empty_stream(make_client: Make, far_end: RequestsMock, body: bytes) -> None:
    """An answer without any text is an answer."""
    far_end.post(OPENAI.url, body=body)
    assert texts_of(generate(make_client(**OPENAI.settings), stream=True)) == []


BREAKS = {
    "cut": (b"", "invalid_answer"),
    "cut in an event": (b'data: {"choices": [{"delta": {"con', "invalid_answer"),
    "unfinished last event": (TAIL.rstrip(b"\n"), "invalid_answer"),
    "not JSON": (event("oops"), "invalid_answer"),
    "array": (event("[1]"), "invalid_answer"),
    "wrong choices": (event({"choices": [5]}), "invalid_answer"),
    "number as content": (event({"choices": [{"delta": {"content": 5}}]}) + TAIL, "invalid_answer"),
    "list as content": (event({"choices": [{"delta": {"content": ["x"]}}]}) + TAIL, "invalid_answer"),
    "NaN as count": (TAIL + event('{"choices": [], "usage": {"prompt_tokens": NaN}}'), "invalid_answer"),
    "error": (event(failure(None, kind="server_error")), "server_error"),
    "named error": (event(failure("x"), "error"), "server_error"),
    "error as text": (event({"error": "no"}), "server_error"),
    "overloaded": (event(failure(None, kind="overloaded_error")), "overloaded"),
}


@pytest.mark.parametrize(("tail", "code"), BREAKS.values(), ids=BREAKS)
def test_stream_that_breaks(make_client: Make, far_end: RequestsMock, log_lines: Log, tail: bytes, code: str) -> None:
    """After the first piece a failure is the last line, in the log too, and never the stub's text."""
    far_end.post(OPENAI.url, body=HEAD + delta("Hel") + tail)
    reply = generate(make_client(**OPENAI.settings, llm_fallback=("stub",), max_retries=2), stream=True)
    first, last = lines_of(reply)
    assert (reply.status_code, first) == (200, {"response": "Hel"})
    assert (last["done"], last["error"]["code"]) == (True, code)
    line = log_lines()[-1]
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("error", 200, code)
    assert (line["response"], line["backend"], line["fallback"]) == ("Hel", "openai", False)
    assert len(far_end.calls) == 1


@pytest.mark.parametrize(("tail", "code"), BREAKS.values(), ids=BREAKS)
def test_stream_that_never_begins(
    make_client: Make, far_end: RequestsMock, log_lines: Log, tail: bytes, code: str
) -> None:
    """Before the first piece a failing stream has a true status, and falls back."""
    far_end.post(OPENAI.url, body=HEAD + tail)
    reply = generate(make_client(**OPENAI.settings), stream=True)
    assert (reply.status_code, error_of(reply)["code"]) == (503 if code == "overloaded" else 502, code)
    backed = generate(make_client(**OPENAI.settings, llm_fallback=("stub",)), stream=True)
    assert backed.headers["X-LLM-Fallback"] == code
    assert "".join(texts_of(backed)).startswith("[stub]")
    assert (log_lines()[-1]["fallback_reason"], log_lines()[-1]["backend"]) == (code, "stub")


# Errors

TOO_LONG = failure("context_length_exceeded", "too long", "messages")
FAULTS = {
    "400 value": Fault(400, failure("unsupported_value", param="messages"), 400, "unsupported_value", False),
    "400 too long": Fault(400, TOO_LONG, 400, "context_length_exceeded", False),
    "400 policy": Fault(400, failure("content_policy_violation"), 400, "content_policy_violation", False),
    "400 no code": Fault(400, failure(None), 400, "invalid_request_error", False),
    "400 string": Fault(400, {"error": "no"}, 400, "request_refused", False),
    "400 HTML": Fault(400, "<html>Bad Request</html>", 400, "request_refused", False),
    "400 empty": Fault(400, "", 400, "request_refused", False),
    "413": Fault(413, "<html>Too Large</html>", 400, "context_length_exceeded", False),
    "422": Fault(422, {"detail": [{"loc": ["body"]}]}, 400, "request_refused", False),
    "401": Fault(401, failure("invalid_api_key"), 502, "bad_credentials"),
    "401 HTML": Fault(401, "<html>Unauthorized</html>", 502, "bad_credentials"),
    "403": Fault(403, failure("unsupported_country_region_territory"), 502, "bad_credentials"),
    "404": Fault(404, failure("model_not_found", param="model"), 404, "model_not_found"),
    "404 HTML": Fault(404, "<html>Not Found</html>", 502, "invalid_answer"),
    "405": Fault(405, "", 502, "invalid_answer"),
    "408": Fault(408, "", 502, "server_error"),
    "409": Fault(409, failure(None), 502, "server_error"),
    "429": Fault(429, failure("rate_limit_exceeded", kind="requests"), 429, "rate_limited"),
    "429 quota": Fault(429, failure("insufficient_quota", kind="insufficient_quota"), 503, "rate_limited"),
    "429 quota as type": Fault(429, failure(None, kind="insufficient_quota"), 503, "rate_limited"),
    "429 HTML": Fault(429, "<html>slow down</html>", 429, "rate_limited"),
    "500": Fault(500, failure(None, kind="server_error"), 502, "server_error"),
    "500 string": Fault(500, {"error": "no"}, 502, "server_error"),
    "502 HTML": Fault(502, "<html>Bad Gateway</html>", 502, "server_error"),
    "503": Fault(503, failure(None, "Slow Down"), 503, "overloaded"),
    "503 empty": Fault(503, "", 503, "overloaded"),
    "504": Fault(504, "", 504, "timeout"),
    "520": Fault(520, "<html>", 502, "server_error"),
    "204": Fault(204, "", 502, "invalid_answer"),
    "201": Fault(201, openai_answer("x"), 502, "invalid_answer"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_error(make_client: Make, far_end: RequestsMock, log_lines: Log, fault: Fault) -> None:
    """Each documented error has its status and code (providers.md 3.4), and falls back where design.md says so."""
    check_fault(fault, OPENAI, make_client, far_end, log_lines)


def test_refusal_says_why(make_client: Make, far_end: RequestsMock) -> None:
    """A refused request comes with OpenAI's reason and the field it blames."""
    far_end.post(OPENAI.url, status=400, json=failure("invalid_value", "no such role", "messages"))
    assert error_of(generate(make_client(**OPENAI.settings))) == {
        "message": "openai refused the request: no such role",
        "type": "invalid_request_error",
        "code": "invalid_value",
        "param": "messages",
    }


# Keys, checks and lists


def backend(**settings: Any) -> Any:
    return make_backend("openai", Settings(**settings))


def test_no_key_for_a_server_of_ones_own(make_client: Make, far_end: RequestsMock) -> None:
    """Behind OPENAI_BASE_URL a server may need no key, and gets no header for it."""
    far_end.post(CLUSTER_URL, json=openai_answer("Hello"))
    assert generate(make_client(llm_backend="openai", openai_base_url=CLUSTER)).json == {"response": "Hello"}
    assert "Authorization" not in far_end.calls[0].request.headers


def test_key_is_needed_in_every_region(far_end: RequestsMock) -> None:
    """OpenAI's regional hosts need the key as well."""
    with pytest.raises(NotConfigured, match="OPENAI_API_KEY"):
        backend(openai_base_url="https://eu.api.openai.com/v1").check(Deadline(5))


def test_check(far_end: RequestsMock) -> None:
    """A check lists the models, which validates the key and costs nothing."""
    far_end.get(OPENAI.models_url, json={"object": "list", "data": []})
    assert backend(openai_api_key=OPENAI.key).check(Deadline(5)) is None
    assert far_end.calls[0].request.headers["Authorization"] == f"Bearer {OPENAI.key}"
    assert not far_end.calls[0].request.body


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ({"status": 401, "json": failure("invalid_api_key")}, BadCredentials),
        ({"body": requests.ConnectionError("refused")}, Unreachable),
        ({"body": "<html>"}, InvalidAnswer),
    ],
)
def test_check_that_fails(far_end: RequestsMock, reply: dict[str, Any], error: type[Exception]) -> None:
    """A bad key, a dead server and a page of somebody else's are told apart."""
    far_end.get(OPENAI.models_url, **reply)
    with pytest.raises(error):
        backend(openai_api_key=OPENAI.key).check(Deadline(5))


def test_list_of_models(far_end: RequestsMock) -> None:
    """The models are listed by id."""
    far_end.get(OPENAI.models_url, json={"data": [{"id": "gpt-6-luna", "shutdown_date": None}, {"id": "gpt-4o"}]})
    assert backend(openai_api_key=OPENAI.key).list_models(Deadline(5)) == ["gpt-6-luna", "gpt-4o"]


@pytest.mark.parametrize("body", [{}, {"data": ["x"]}, {"data": None}])
def test_list_of_a_wrong_shape(far_end: RequestsMock, body: dict[str, Any]) -> None:
    """A list of models that isn't one is an InvalidAnswer (base.Backend: it raises a BackendError)."""
    far_end.get(OPENAI.models_url, json=body)
    with pytest.raises(InvalidAnswer):
        backend(openai_api_key=OPENAI.key).list_models(Deadline(5))
