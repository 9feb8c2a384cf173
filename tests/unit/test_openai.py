"""What is peculiar to OpenAI's Chat Completions (docs/providers.md, 3): parameters that models refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asking import USER, Log, Serve, ask, error_of, lines_of, outcomes, read_events, texts_of
from providers import (
    CLAUDE,
    OPENAI,
    SCHEMA,
    FarEnd,
    delta,
    event,
    openai_answer,
    openai_error,
    openai_stream,
    sent,
)

CLUSTER = "http://vllm.example:8000/v1"
CLUSTER_URL = CLUSTER + "/chat/completions"


def refusal(param: str, code: str | None = "unsupported_parameter") -> dict[str, Any]:
    """Return the reply of a model that takes no `param`."""
    words = f"Unsupported parameter: '{param}' is not supported with this model."
    return {"status": 400, "json": openai_error(code, words, param)}


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
    make_client: Serve, far_end: FarEnd, base: str, model: str, name: str, by_caller: bool
) -> None:
    """OpenAI itself and its reasoning models anywhere get max_completion_tokens, all others max_tokens."""
    far_end.post(f"{base}/chat/completions".replace("API", "api"), json=openai_answer("x"))
    chosen = {} if by_caller else {"openai_model": model}
    client = make_client(**OPENAI.at(base), **chosen)
    said = {"model": model} if by_caller else {}
    assert ask(client, max_tokens=9, **said).status_code == 200
    assert {field: value for field, value in sent(far_end).items() if "tokens" in field} == {name: 9}


@pytest.mark.parametrize("said", [{"temperature": 0.2}, {"top_p": 0.5}, {"temperature": 1, "top_p": 1}])
@pytest.mark.parametrize("model", ["gpt-6-luna", "gpt-6-sol", "gpt-6.1-terra", "gpt-5.1", "gpt-5.4-mini"])
def test_sampling_needs_effort_none(make_client: Serve, far_end: FarEnd, model: str, said: dict[str, float]) -> None:
    """Families that take sampling only with effort none get that (docs/providers.md, 3.3)."""
    far_end.post(OPENAI.url, json=openai_answer("x"))
    ask(make_client(**OPENAI.settings), model=model, **said)
    expected = {"model": model, "stream": False, "messages": [USER], "reasoning_effort": "none"}
    assert sent(far_end) == expected | said


@pytest.mark.parametrize("model", ["gpt-6-astra", "gpt-6.1-sol", "gpt-5", "gpt-5-mini", "gpt-4o", "o3"])
def test_no_effort_where_there_is_no_none(make_client: Serve, far_end: FarEnd, model: str) -> None:
    """Models without effort none, or without effort at all, are sent none."""
    far_end.post(OPENAI.url, json=openai_answer("x"))
    ask(make_client(**OPENAI.settings), model=model, temperature=0.2)
    assert "reasoning_effort" not in sent(far_end)


@pytest.mark.parametrize("said", [{}, {"max_tokens": 5}, {"seed": 1}, {"stop": "x"}])
def test_no_effort_without_sampling(make_client: Serve, far_end: FarEnd, said: dict[str, Any]) -> None:
    """A caller who says no temperature and no top_p keeps the model's own effort."""
    far_end.post(OPENAI.url, json=openai_answer("y"))
    ask(make_client(**OPENAI.settings), model="gpt-6-luna", **said)
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
    make_client: Serve,
    far_end: FarEnd,
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
        assert ask(client, model="new-model", **said).json == {"response": "Hello"}
        assert sent(far_end) == plain | left
    assert len(far_end.calls) == 3
    assert sent(far_end, 0) == plain | said
    assert outcomes(log_lines()[0]) == [("openai", "unsupported_parameter"), ("openai", "ok")]
    assert outcomes(log_lines()[1]) == [("openai", "ok")]


def test_refused_parameter_is_remembered_per_model(make_client: Serve, far_end: FarEnd) -> None:
    """What one model refuses, another one still gets."""
    far_end.post(CLUSTER_URL, **refusal("temperature"))
    far_end.post(CLUSTER_URL, json=openai_answer("Hello"))
    client = make_client(**OPENAI.at(CLUSTER))
    ask(client, model="one", temperature=0.3)
    ask(client, model="two", temperature=0.3)
    assert [(b["model"], b.get("temperature")) for b in (sent(far_end, n) for n in range(3))] == [
        ("one", 0.3),
        ("one", None),
        ("two", 0.3),
    ]


def test_refused_parameter_of_a_stream(make_client: Serve, far_end: FarEnd) -> None:
    """A stream learns in the same way."""
    far_end.post(OPENAI.url, **refusal("temperature"))
    far_end.post(OPENAI.url, body=openai_stream("Hel", "lo"))
    reply = ask(make_client(**OPENAI.settings), model="gpt-5", temperature=0.3, stream=True)
    assert texts_of(reply) == ["Hel", "lo"]


def test_several_refused_parameters(make_client: Serve, far_end: FarEnd) -> None:
    """A model may refuse one parameter after the other; each is dropped once."""
    for param in ("max_tokens", "temperature", "stop", "seed"):
        far_end.post(CLUSTER_URL, **refusal(param))
    far_end.post(CLUSTER_URL, json=openai_answer("Hello END of it"))
    said = {"max_tokens": 5, "temperature": 1, "stop": "END", "seed": 2}
    assert ask(make_client(**OPENAI.at(CLUSTER)), model="m", **said).json == {"response": "Hello "}
    assert sent(far_end) == {"model": "m", "stream": False, "messages": [USER], "max_completion_tokens": 5}
    assert len(far_end.calls) == 5


@pytest.mark.parametrize("base", [OPENAI.base, CLUSTER])
def test_both_names_of_max_tokens_refused(make_client: Serve, far_end: FarEnd, base: str) -> None:
    """A server that takes neither name is asked at most once for each, and not again and again."""
    asked = []

    def refuse(request: Any) -> tuple[int, dict[str, str], str]:
        name = next((name for name in json.loads(request.body) if "tokens" in name), None)
        asked.append(name)
        taken = name is None or len(asked) > 3  # then a loop has been seen
        return (200 if taken else 400), {}, json.dumps(openai_answer("Hello") if taken else refusal(name)["json"])

    far_end.add_callback("POST", f"{base}/chat/completions", refuse)
    reply = ask(make_client(**OPENAI.at(base)), model="m", max_tokens=5)
    assert (reply.status_code, len(asked) <= 3) == (400, True)
    assert error_of(reply)["param"] in ("max_tokens", "max_completion_tokens")


@pytest.mark.parametrize("said", [{"temperature": 0.3}, {"max_tokens": 5}])
def test_refused_of_two_requests_at_once(make_client: Serve, far_end: FarEnd, said: dict[str, Any]) -> None:
    """A request whose refusal comes after another one's, when it is known already, is asked again too."""
    client = make_client(**OPENAI.at(CLUSTER))
    (name,) = said
    others = []

    def reply(request: Any) -> tuple[int, dict[str, str], str]:
        if name not in json.loads(request.body):
            return 200, {}, json.dumps(openai_answer("Hello"))
        if not others:
            others.append(None)  # while this one is on its way
            others[0] = ask(client, model="m", **said)
        return 400, {}, json.dumps(refusal(name)["json"])

    far_end.add_callback("POST", CLUSTER_URL, reply)
    mine = ask(client, model="m", **said)
    assert [answer.json for answer in (others[0], mine)] == [{"response": "Hello"}] * 2


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ({"temperature": 0.3}, refusal("messages")),
        ({}, refusal("temperature")),
        ({"temperature": 0.3}, {"status": 400, "json": openai_error("invalid_value", "Too hot", "temperature")}),
        ({"model": "x"}, refusal("model")),
        ({"response_format": SCHEMA}, refusal("response_format")),
    ],
    ids=["not a parameter", "not sent", "wrong value", "model", "response_format"],
)
def test_refusals_that_stay(make_client: Serve, far_end: FarEnd, said: dict[str, Any], reply: dict[str, Any]) -> None:
    """What can't be left out without changing the request's meaning is the client's 400, after one try."""
    far_end.post(OPENAI.url, **reply)
    answer = ask(make_client(**OPENAI.settings, openai_model="gpt-5", llm_fallback=("stub",)), **said)
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
def test_stop_is_cut_here(make_client: Serve, far_end: FarEnd, model: str) -> None:
    """Models that take no stop aren't sent one; the answer ends before it all the same."""
    far_end.post(OPENAI.url, json=openai_answer("Hello END of it", finish_reason="length"))
    reply = ask(make_client(**OPENAI.settings), model=model, stop=["it", "END"], details=True)
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
def test_stop_in_a_stream(make_client: Serve, far_end: FarEnd, pieces: list[str], stop: Any, text: str) -> None:
    """A stop text is found however the stream cuts it, nothing after it comes out, and nothing before it is lost."""
    far_end.post(OPENAI.url, body=openai_stream(*pieces))
    reply = ask(make_client(**OPENAI.settings), model="gpt-5", stop=stop, stream=True)
    assert "".join(texts_of(reply)) == text
    assert lines_of(reply)[-1]["finish_reason"] == "stop"


def test_refused_stop_is_cut_here(make_client: Serve, far_end: FarEnd) -> None:
    """A model found to take no stop has its answers cut from then on."""
    far_end.post(CLUSTER_URL, **refusal("stop"))
    far_end.post(CLUSTER_URL, json=openai_answer("Hello END of it"))
    client = make_client(**OPENAI.at(CLUSTER))
    for _ in range(2):
        assert ask(client, model="m", stop="END").json == {"response": "Hello "}


def test_sent_stop_is_not_cut_again(make_client: Serve, far_end: FarEnd) -> None:
    """Where the server stops by itself its answer is left alone."""
    far_end.post(OPENAI.url, json=openai_answer("Hello END"))
    assert ask(make_client(**OPENAI.settings), model="gpt-4o", stop="END").json == {"response": "Hello END"}


# Other


EXTRAS = {
    "presence_penalty": 1.5,
    "frequency_penalty": -0.5,
    "logit_bias": {"5": -100},
    "user": "me",
    "safety_identifier": "me-2",
    "prompt_cache_key": "k",
}
OF_CHAT = {"reasoning_effort": "high", "verbosity": "low"}


@pytest.mark.parametrize(
    ("path", "said"), [("/v1/chat/completions", EXTRAS | OF_CHAT), ("/v1/completions", EXTRAS)], ids=["chat", "text"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_only_this_dialect_says(
    make_client: Serve, far_end: FarEnd, path: str, said: dict[str, Any], stream: bool
) -> None:
    """Front and back speak the same dialect: what the others have no word for arrives as it was sent."""
    far_end.post(OPENAI.url, **({"body": openai_stream("Hi")} if stream else {"json": openai_answer("Hi")}))
    assert ask(make_client(**OPENAI.settings), path, stream=stream, **said).status_code == 200
    body = sent(far_end)
    assert {name: body.get(name) for name in said} == said


def test_names_of_messages(make_client: Serve, far_end: FarEnd) -> None:
    """They arrive too; a message without one has no such field."""
    far_end.post(OPENAI.url, json=openai_answer("Hi"))
    messages = [{"role": "user", "content": "Hi", "name": "Ada"}, {"role": "user", "content": "Hi"}]
    ask(make_client(**OPENAI.settings), "/v1/chat/completions", messages=messages)
    assert sent(far_end)["messages"] == messages


def test_effort_that_was_said_stays(make_client: Serve, far_end: FarEnd) -> None:
    """The effort `none`, which sampling needs, is put in only where the client named none."""
    far_end.post(OPENAI.url, json=openai_answer("Hi"))
    ask(
        make_client(**OPENAI.settings), "/v1/chat/completions",
        model="gpt-5.1", temperature=0.5, reasoning_effort="low",
    )  # fmt: skip
    body = sent(far_end)
    assert (body["reasoning_effort"], body["temperature"]) == ("low", 0.5)


@pytest.mark.parametrize("name", [*EXTRAS, *OF_CHAT])
def test_extras_that_a_model_refuses(make_client: Serve, far_end: FarEnd, name: str) -> None:
    """They are asked for without, as the temperature is."""
    far_end.post(OPENAI.url, **refusal(name))
    far_end.post(OPENAI.url, json=openai_answer("Hi"))
    said = EXTRAS | OF_CHAT
    reply = ask(make_client(**OPENAI.settings), "/v1/chat/completions", **{name: said[name]})
    assert (reply.status_code, [name in json.loads(call.request.body) for call in far_end.calls]) == (
        200,
        [True, False],
    )


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_extras_on_another_wire(make_client: Serve, far_end: FarEnd, path: str) -> None:
    """A backend with another dialect is not told what it has no word for."""
    far_end.post(CLAUDE.url, json=CLAUDE.answer("Hi"))
    messages = {"messages": [{"role": "user", "content": "Hi", "name": "Ada"}]} if "chat" in path else {}
    assert ask(make_client(**CLAUDE.settings), path, **EXTRAS, **messages).status_code == 200
    body = sent(far_end)
    assert body.keys() & {*EXTRAS, "name"} == set()
    assert body["messages"] == [{"role": "user", "content": "Hi"}]


def test_system_message_alone_on_another_wire(make_client: Serve, far_end: FarEnd) -> None:
    """Claude needs a user's turn; OpenAI's wire has the message as it came."""
    far_end.post(CLAUDE.url, json=CLAUDE.answer("Hi"))
    far_end.post(OPENAI.url, json=openai_answer("Hi"))
    alone = [{"role": "system", "content": "Say hi."}]
    for provider in (CLAUDE, OPENAI):
        assert ask(make_client(**provider.settings), "/v1/chat/completions", messages=alone).status_code == 200
    claude, openai = (json.loads(call.request.body) for call in far_end.calls)
    assert (claude["messages"], "system" in claude) == ([{"role": "user", "content": "Say hi."}], False)
    assert openai["messages"] == alone


@pytest.mark.parametrize("stream", [False, True])
def test_refusal_has_its_own_field(make_client: Serve, far_end: FarEnd, stream: bool) -> None:
    """What OpenAI says in `refusal` reaches its clients there, unchecked, though JSON was asked for."""
    streamed = event({"choices": [{"delta": {"refusal": "I can't."}}]}) + delta(None, "stop")
    whole = openai_answer("x", message={"role": "assistant", "content": None, "refusal": "I can't."})
    far_end.post(OPENAI.url, **({"body": streamed} if stream else {"json": whole}))
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
    path = "/v1/chat/completions"
    reply = ask(make_client(**OPENAI.settings), path, response_format=wanted, stream=stream)
    choices = [body["choices"][0] for body in (read_events(reply.data)[:-1] if stream else [reply.json])]
    said = [choice.get("message") or choice["delta"] for choice in choices]
    assert [part["refusal"] for part in said if part.get("refusal")] == ["I can't."]
    assert not any(part.get("content") for part in said)


def test_refusal_in_a_stream(make_client: Serve, far_end: FarEnd) -> None:
    """A refusal is streamed as text."""
    far_end.post(OPENAI.url, body=event({"choices": [{"delta": {"refusal": "I can't."}}]}) + delta(None, "stop"))
    assert texts_of(ask(make_client(**OPENAI.settings), stream=True)) == ["I can't."]


def test_key_is_needed_in_every_region(make_client: Serve, far_end: FarEnd) -> None:
    """OpenAI's regional hosts need the key as well."""
    reply = ask(make_client(llm_backend="openai", openai_base_url="https://eu.api.openai.com/v1"))
    assert (reply.status_code, error_of(reply)["code"]) == (503, "not_configured")
    assert "OPENAI_API_KEY" in error_of(reply)["message"]


LIMITS = [
    "max_tokens is too large: 100000. This model supports at most 16384 completion tokens, whereas you asked more.",
    "Invalid max_tokens value, the valid range of max_tokens is [1, 16384]",
    "Range of max_tokens should be [1, 16384]",
    "max_tokens (100000) exceeds model's maximum output tokens (16384)",
    "`max_completion_tokens` must be less than or equal to `16384`, the maximum value for this model",
]


@pytest.mark.parametrize("words", LIMITS)
@pytest.mark.parametrize("base", [OPENAI.base, CLUSTER])
def test_max_tokens_above_the_models(make_client: Serve, far_end: FarEnd, base: str, words: str) -> None:
    """The most that the model allows is asked for, whatever the field is called."""
    far_end.post(f"{base}/chat/completions", status=400, json=openai_error("invalid_value", words, "max_tokens"))
    far_end.post(f"{base}/chat/completions", json=openai_answer("Hello"))
    client = make_client(**OPENAI.at(base), max_retries=0)
    for _ in range(2):
        assert ask(client, max_tokens=100_000).json == {"response": "Hello"}
    asked = [next(value for name, value in sent(far_end, n).items() if "tokens" in name) for n in range(3)]
    assert asked == [100_000, 16384, 16384]


@pytest.mark.parametrize(("name", "value"), [("temperature", 0.3), ("reasoning_effort", "low")])
def test_what_is_left_out_is_logged(
    make_client: Serve, far_end: FarEnd, log_lines: Log, name: str, value: object
) -> None:
    """Once a model is known to refuse a parameter, the log says that it was not sent."""
    far_end.post(CLUSTER_URL, **refusal(name))
    far_end.post(CLUSTER_URL, json=openai_answer("Hello"))
    client = make_client(**OPENAI.at(CLUSTER))
    for _ in range(2):
        ask(client, seed=1, **{name: value})
    assert [attempt.get("left_out") for line in log_lines() for attempt in line["attempts"]] == [None, [name], [name]]


def test_a_server_that_does_not_stream(make_client: Serve, far_end: FarEnd) -> None:
    """A whole answer to a streamed request is a stream of one piece."""
    far_end.post(CLUSTER_URL, json=openai_answer("Hello"))
    assert texts_of(ask(make_client(**OPENAI.at(CLUSTER)), stream=True)) == ["Hello"]


@pytest.mark.parametrize("stream", [False, True])
def test_error_in_a_choice(make_client: Serve, far_end: FarEnd, stream: bool) -> None:
    """OpenRouter says in a choice what its provider met: that is the error, whole and streamed."""
    error = {"code": 401, "message": "the provider does not know this key"}
    choice = {"index": 0, "message": {"content": ""}, "delta": {}, "finish_reason": "error", "error": error}
    body = {"choices": [choice]}
    far_end.post(OPENAI.url, **({"body": event(body)} if stream else {"json": body}))
    reply = ask(make_client(**OPENAI.settings), stream=stream)
    assert error_of(reply)["code"] == "bad_credentials"
