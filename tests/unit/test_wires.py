"""What holds for every provider's wire, each far end mocked: its request, its answer, its stream, its errors.

wires.py has what is peculiar to each; what has no equal elsewhere is in test_openai.py and its like.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests
from asking import Log, Serve, ask, error_of, lines_of, outcomes, texts_of
from providers import CITY, PROVIDERS, FarEnd, Fault, check_fallback, check_fault, sent
from wires import FAULTS, UNKNOWN_REASONS, WIRES, Json, Wire

from llm_api import Settings
from llm_api.backends import Backend, make_backend
from llm_api.errors import BadCredentials, InvalidAnswer, Unreachable
from llm_api.runtime.deadline import Deadline

COMMON_HEADERS = {"user-agent": "llm-api", "accept-encoding": "identity", "content-type": "application/json"}
KEYS = {provider.key_setting: provider.key for provider in PROVIDERS if provider.key_setting}
BOX = "http://box.example:9/far"

every_wire = pytest.mark.parametrize("wire", WIRES, ids=str)


def each(name: str, cases: Callable[[Wire], Any]) -> pytest.MarkDecorator:
    """Parametrise with each wire's cases: a dict's values under their names, or a list's items."""
    found = [
        pytest.param(wire, case, id=f"{wire}-{label}")
        for wire in WIRES
        for label, case in (cases(wire).items() if isinstance(cases(wire), dict) else enumerate(cases(wire)))
    ]
    return pytest.mark.parametrize(("wire", name), found)


def answered(wire: Wire, changes: Json) -> Json:
    """Return a whole answer with `changes`."""
    changed = wire.provider.answer("x") | changes
    return {name: value for name, value in changed.items() if value is not ...}


def told(far_end: FarEnd) -> dict[str, str]:
    """Return the headers that the far end got first."""
    return {name.lower(): value for name, value in far_end.calls[0].request.headers.items()}


# The request


@each("case", lambda wire: wire.parameters)
def test_request_body(make_client: Serve, far_end: FarEnd, wire: Wire, case: tuple[Json, Json]) -> None:
    """Every parameter has its place in the provider's words, and nothing is sent that the caller didn't say."""
    said, expected = case
    far_end.post(wire.provider.url, json=wire.provider.answer(CITY))
    client = make_client(**wire.provider.settings | {wire.model_setting: "gpt-4o"})
    assert ask(client, **said).status_code == 200
    assert sent(far_end) == {"model": "gpt-4o"} | wire.always | expected


@every_wire
def test_streamed_request_body(make_client: Serve, far_end: FarEnd, wire: Wire) -> None:
    """A streamed request says so and no more than it must; without a configured model a living one is asked."""
    far_end.post(wire.provider.url, body=wire.provider.stream("x"))
    assert ask(make_client(**wire.provider.settings), stream=True).status_code == 200
    assert sent(far_end) == {"model": wire.default_model} | wire.always | wire.streamed


@every_wire
def test_request_headers(make_client: Serve, far_end: FarEnd, wire: Wire) -> None:
    """The provider gets its own key where it has one, and no header says more than is needed."""
    far_end.post(wire.provider.url, json=wire.provider.answer("x"))
    ask(make_client(**KEYS | wire.provider.settings))
    assert told(far_end) == COMMON_HEADERS | wire.headers | wire.key_headers


@every_wire
def test_configured_address_and_model(make_client: Serve, far_end: FarEnd, wire: Wire) -> None:
    """Both are what is asked, a path in the address too; a server of one's own may need no key, and gets none."""
    far_end.post(BOX + wire.provider.path, json=wire.provider.answer("Hello"))
    chosen = {wire.provider.base_setting: BOX, wire.model_setting: "org/model:cheapest"}
    client = make_client(llm_backend=wire.provider.name, hf_mode="cloud", **chosen)
    assert ask(client).json == {"response": "Hello"}
    assert sent(far_end) == wire.always | {"model": "org/model:cheapest"}
    assert told(far_end) == COMMON_HEADERS | wire.headers


# The whole answer


@every_wire
def test_whole_answer(make_client: Serve, far_end: FarEnd, log_lines: Log, wire: Wire) -> None:
    """Text, model, usage and finish reason reach the answer, the headers and the log; thinking doesn't."""
    far_end.post(wire.provider.url, json=wire.provider.answer("Hello"))
    reply = ask(make_client(**wire.provider.settings), details=True)
    details, line, name = reply.json["details"], log_lines()[-1], wire.provider.name
    assert reply.json["response"] == line["response"] == "Hello"
    for place in (details, line):
        assert (place["backend"], place["model"], place["finish_reason"]) == (name, "far-model-1", "stop")
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Model"]) == (name, "far-model-1")
    assert details["usage"].items() >= {"input_tokens": 12, "output_tokens": 2}.items()
    assert (line["input_tokens"], line["output_tokens"]) == (12, 2)


@each("reason", lambda wire: wire.finish_reasons)
@pytest.mark.parametrize("stream", [False, True])
def test_finish_reason(
    make_client: Serve, far_end: FarEnd, wire: Wire, reason: tuple[str | None, str], stream: bool
) -> None:
    """The provider's words are told in OpenAI's four (docs/providers.md, 1.3)."""
    said, ours = reason
    changes, body = wire.ended(said)
    far_end.post(wire.provider.url, **({"body": body} if stream else {"json": answered(wire, changes)}))
    reply = ask(make_client(**wire.provider.settings), stream=stream, details=True)
    last = lines_of(reply)[-1] if stream else reply.json
    assert last["details"]["finish_reason"] == ours


@each("said", lambda wire: UNKNOWN_REASONS)
def test_unknown_reason(make_client: Serve, far_end: FarEnd, log_lines: Log, wire: Wire, said: str | None) -> None:
    """An answer that ends for no reason that is known may be a part of one: the backend fails, the next is asked."""
    changes, _ = wire.ended(said)
    far_end.post(wire.provider.url, json=answered(wire, changes))
    reply = ask(make_client(**wire.provider.settings))
    assert (reply.status_code, error_of(reply)["code"]) == (502, "invalid_answer")
    check_fallback(
        ask(make_client(**wire.provider.settings, llm_fallback=("stub",))),
        log_lines()[-1],
        "invalid_answer",
        wire.provider.name,
    )


@each("said", lambda wire: UNKNOWN_REASONS)
def test_unknown_reason_of_a_stream(
    make_client: Serve, far_end: FarEnd, log_lines: Log, wire: Wire, said: str | None
) -> None:
    """After the first text it is an error event, in the log and in the attempt too."""
    far_end.post(wire.provider.url, body=wire.ended(said)[1])
    first, last = lines_of(ask(make_client(**wire.provider.settings, llm_fallback=("stub",)), stream=True))
    assert (first["response"], last["done"], last["error"]["code"]) == ("x", True, "invalid_answer")
    assert (log_lines()[-1]["status"], outcomes(log_lines()[-1])) == (
        "error",
        [(wire.provider.name, "invalid_answer")],
    )


@each("case", lambda wire: wire.usages)
def test_usage(
    make_client: Serve, far_end: FarEnd, wire: Wire, case: tuple[Json, tuple[int | None, int | None]]
) -> None:
    """Counts are told as far as they are there (docs/providers.md, 1.4)."""
    far_end.post(wire.provider.url, json=answered(wire, case[0]))
    usage = ask(make_client(**wire.provider.settings), details=True).json["details"]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == case[1]


@each("case", lambda wire: wire.texts)
def test_odd_text(make_client: Serve, far_end: FarEnd, wire: Wire, case: tuple[Json, str]) -> None:
    """Empty, null, refused and odd contents are answers; reasoning is no part of them."""
    far_end.post(wire.provider.url, json=answered(wire, case[0]))
    assert ask(make_client(**wire.provider.settings)).json == {"response": case[1]}


@each("body", lambda wire: wire.wrong)
def test_wrong_shape(make_client: Serve, far_end: FarEnd, log_lines: Log, wire: Wire, body: Json) -> None:
    """A whole answer that isn't one is a failing backend: 502 invalid_answer and a line in the log."""
    far_end.post(wire.provider.url, json=body)
    reply = ask(make_client(**wire.provider.settings))
    assert (reply.status_code, error_of(reply)["code"]) == (502, "invalid_answer")
    assert [line["http_status"] for line in log_lines()] == [502]


# The stream


@each("body", lambda wire: wire.streams)
def test_stream(make_client: Serve, far_end: FarEnd, log_lines: Log, wire: Wire, body: bytes) -> None:
    """A stream that is odd but legal is read as its text, piece by piece."""
    far_end.post(wire.provider.url, body=body, content_type="text/event-stream")
    reply = ask(make_client(**wire.provider.settings), stream=True)
    assert texts_of(reply) == ["Hel", "lo"]
    assert lines_of(reply)[-1] == {"response": "", "done": True, "finish_reason": "stop"}
    assert (log_lines()[-1]["response"], log_lines()[-1]["status"]) == ("Hello", "ok")


@every_wire
def test_end_of_a_stream(make_client: Serve, far_end: FarEnd, wire: Wire) -> None:
    """Finish reason, model and usage are told at the end, wherever the provider says them."""
    body, input_tokens, output_tokens = wire.long
    far_end.post(wire.provider.url, body=body)
    last = lines_of(ask(make_client(**wire.provider.settings), stream=True, details=True))[-1]
    assert (last["finish_reason"], last["details"]["model"]) == ("length", "far-model-1")
    assert last["details"]["usage"].items() >= {"input_tokens": input_tokens, "output_tokens": output_tokens}.items()


@every_wire
def test_separators_in_a_stream(make_client: Serve, far_end: FarEnd, wire: Wire) -> None:
    """U+2028, U+2029 and U+0085 end no line, and UTF-8 is not taken for Latin-1."""
    texts = ["a\u2028b", "\u2029\u0085\u00e9"]
    far_end.post(wire.provider.url, body=wire.provider.stream(*texts), content_type="text/event-stream")
    assert texts_of(ask(make_client(**wire.provider.settings), stream=True)) == texts


@each("body", lambda wire: wire.empty)
def test_empty_stream(make_client: Serve, far_end: FarEnd, wire: Wire, body: bytes) -> None:
    """An answer without any text is an answer."""
    far_end.post(wire.provider.url, body=body)
    assert texts_of(ask(make_client(**wire.provider.settings), stream=True)) == []


@each("tail", lambda wire: wire.tails)
def test_stream_that_breaks(
    make_client: Serve, far_end: FarEnd, log_lines: Log, wire: Wire, tail: tuple[bytes, str]
) -> None:
    """After the first piece a failure is the last line, in the log too, and never the stub's text."""
    code = tail[1]
    far_end.post(wire.provider.url, body=wire.provider.cut("Hel") + tail[0])
    reply = ask(make_client(**wire.provider.settings, llm_fallback=("stub",), max_retries=2), stream=True)
    first, last = lines_of(reply)
    assert (reply.status_code, first) == (200, {"response": "Hel"})
    assert (last["done"], last["error"]["code"]) == (True, code)
    line = log_lines()[-1]
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("error", 200, code)
    assert (line["response"], line["backend"], line["fallback"]) == ("Hel", wire.provider.name, False)
    assert outcomes(line) == [(wire.provider.name, code)]
    assert len(far_end.calls) == 1


@each("tail", lambda wire: wire.tails)
def test_stream_that_never_begins(
    make_client: Serve, far_end: FarEnd, log_lines: Log, wire: Wire, tail: tuple[bytes, str]
) -> None:
    """Before the first piece a failing stream has a true status, and falls back."""
    code = tail[1]
    far_end.post(wire.provider.url, body=wire.head + tail[0])
    reply = ask(make_client(**wire.provider.settings), stream=True)
    assert (reply.status_code, error_of(reply)["code"]) == (503 if code == "overloaded" else 502, code)
    backed = ask(make_client(**wire.provider.settings, llm_fallback=("stub",)), stream=True)
    assert backed.headers["X-LLM-Fallback"] == code
    assert "".join(texts_of(backed)).startswith("[stub]")
    assert (log_lines()[-1]["fallback_reason"], log_lines()[-1]["backend"]) == (code, "stub")


# Errors


@each("fault", lambda wire: FAULTS | wire.faults)
def test_error(make_client: Serve, far_end: FarEnd, log_lines: Log, wire: Wire, fault: Fault) -> None:
    """Each documented error has its status and code, and falls back where docs/api.md says so."""
    check_fault(fault, wire.provider, make_client, far_end, log_lines)


@each("name", lambda wire: wire.spent)
def test_spent_budget_is_not_retried(
    make_client: Serve, far_end: FarEnd, log_lines: Log, wire: Wire, name: str
) -> None:
    """Waiting doesn't fill an account (docs/providers.md, 1.5): one try."""
    far_end.post(wire.provider.url, **wire.faults[name].reply())
    assert ask(make_client(**wire.provider.settings, max_retries=2)).status_code == 503
    assert outcomes(log_lines()[-1]) == [(wire.provider.name, "rate_limited")]


@every_wire
def test_refusal_says_why(make_client: Serve, far_end: FarEnd, wire: Wire) -> None:
    """A refused request comes with the provider's reason in one line, and with the field it blames."""
    body, expected = wire.refusal
    far_end.post(wire.provider.url, status=400, json=body)
    message = f"{wire.provider.name} refused the request: no such role"
    error = error_of(ask(make_client(**wire.provider.settings)))
    assert error == {"message": message, "type": "invalid_request_error"} | expected


# Checks and lists


def backend(wire: Wire) -> Backend:
    return make_backend(wire.provider.name, Settings(**wire.provider.settings | {wire.model_setting: "one"}))


@every_wire
def test_check(far_end: FarEnd, wire: Wire) -> None:
    """A check asks for models, which validates the key and costs nothing."""
    method, url = wire.provider.check
    far_end.add(method, url, json=wire.listing(wire.listed))
    assert backend(wire).check(Deadline(5)) is None
    request = far_end.calls[0].request
    assert request.url == url + wire.check_query
    assert (wire.headers | wire.key_headers).items() <= told(far_end).items()
    assert json.loads(request.body or "null") == ({"model": "one"} if method == "POST" else None)


@every_wire
@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        ({"status": 401, "json": {"error": "bad key"}}, BadCredentials, "did not accept the key"),
        ({"body": requests.ConnectionError("refused")}, Unreachable, "can't be reached"),
        ({"body": "<html>"}, InvalidAnswer, "is not JSON"),
    ],
)
def test_check_that_fails(far_end: FarEnd, wire: Wire, reply: Json, error: type[Exception], words: str) -> None:
    """A bad key, a dead server and a page of another server are told apart."""
    far_end.add(*wire.provider.check, **reply)
    with pytest.raises(error):
        backend(wire).check(Deadline(5))


@every_wire
def test_list_of_models(far_end: FarEnd, wire: Wire) -> None:
    """The models are listed by name, as many as one page can hold."""
    far_end.get(wire.provider.models_url, json=wire.listing(wire.listed))
    assert backend(wire).list_models(Deadline(5)) == ["one", "org/two"]
    assert far_end.calls[0].request.url == wire.provider.models_url + wire.list_query


@pytest.mark.parametrize(
    ("wire", "verb"),
    [(wire, "list_models") for wire in WIRES]
    + [(wire, verb) for wire in WIRES if wire.provider.checked[0] == "GET" for verb in ("check", "has_model")],
    ids=str,
)
@pytest.mark.parametrize("models", [..., None, 5, ["x"]], ids=["none", "null", "number", "texts"])
def test_list_of_a_wrong_shape(far_end: FarEnd, wire: Wire, verb: str, models: Any) -> None:
    """A list of models that isn't one is an InvalidAnswer (base.Backend: they raise a BackendError)."""
    far_end.get(wire.provider.models_url, json={} if models is ... else wire.listing(models))
    with pytest.raises(InvalidAnswer):
        getattr(backend(wire), verb)(Deadline(5))


@every_wire
def test_own_model(far_end: FarEnd, wire: Wire) -> None:
    """A backend says whether its server has its model."""
    far_end.add(*wire.provider.check, json=wire.listing(wire.listed))
    assert backend(wire).has_model(Deadline(5)) is True
