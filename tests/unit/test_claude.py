"""What is peculiar to Anthropic's Messages (docs/providers.md, 4)."""

from __future__ import annotations

from typing import Any

import pytest
from asking import Log, Serve, ask, error_of, texts_of
from providers import CLAUDE, FarEnd, claude_answer, claude_error, claude_stream, sent

from llm_api import Settings
from llm_api.backends import make_backend
from llm_api.runtime.deadline import Deadline
from llm_api.types import GenerationRequest, Message


def test_configured_version(make_client: Serve, far_end: FarEnd) -> None:
    """CLAUDE_VERSION is the API version that is asked for."""
    far_end.post(CLAUDE.url, json=claude_answer("Hello"))
    ask(make_client(**CLAUDE.settings, claude_version="2026-10-21"))
    assert far_end.calls[0].request.headers["anthropic-version"] == "2026-10-21"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chain", [(), ("stub",)])
def test_json_object(make_client: Serve, log_lines: Log, stream: bool, chain: tuple[str, ...]) -> None:
    """Anthropic knows schemas only: json_object is refused before it is asked, and nobody else is."""
    client = make_client(**CLAUDE.settings, llm_fallback=chain)
    reply = ask(client, response_format={"type": "json_object"}, stream=stream)
    error = error_of(reply)
    assert reply.status_code == 400
    assert (error["param"], error["code"]) == ("response_format", "unsupported_parameter")
    assert "schema" in error["message"]
    assert log_lines()[-1]["http_status"] == 400


def test_refusal(make_client: Serve, far_end: FarEnd) -> None:
    """A refusal without any text is an answer whose finish reason says so."""
    stopped = {"stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "x", "explanation": "y"}}
    far_end.post(CLAUDE.url, json=claude_answer("", content=[], **stopped))
    reply = ask(make_client(**CLAUDE.settings), details=True)
    assert (reply.status_code, reply.json["response"]) == (200, "")
    assert reply.json["details"]["finish_reason"] == "content_filter"


def test_unknown_model_says_which(make_client: Serve, far_end: FarEnd) -> None:
    """A retired model is named in the answer."""
    far_end.post(CLAUDE.url, status=404, json=claude_error("not_found_error", "model: claude-3-sonnet-20240229"))
    error = error_of(ask(make_client(**CLAUDE.settings)))
    assert error["message"] == "claude does not have this model: model: claude-3-sonnet-20240229"
    assert error["param"] == "model"


# What other providers take


@pytest.mark.parametrize(
    ("said", "sampling", "left_out"),
    [
        ({"temperature": 0.3, "top_p": 0.5}, {"temperature": 0.3}, ["top_p"]),
        ({"temperature": 0.3, "top_p": 1}, {"temperature": 0.3}, ["top_p"]),
        ({"temperature": 1, "top_p": 0.5}, {"top_p": 0.5}, ["temperature"]),
        ({"temperature": 1, "top_p": 1}, {"temperature": 1}, ["top_p"]),
        ({"temperature": 0, "top_p": 0.1}, {"temperature": 0}, ["top_p"]),
        ({"temperature": 1.7, "top_p": 0.5}, {"temperature": 1}, ["top_p"]),
        ({"top_p": 0.5, "seed": 3}, {"top_p": 0.5}, ["seed"]),
        ({"temperature": 0.3}, {"temperature": 0.3}, None),
    ],
)
def test_temperature_or_top_p(
    make_client: Serve,
    far_end: FarEnd,
    log_lines: Log,
    said: dict[str, float],
    sampling: dict[str, float],
    left_out: list[str] | None,
) -> None:
    """Several models refuse both: one goes, which says less, and the log says so."""
    far_end.post(CLAUDE.url, json=claude_answer("x"))
    assert ask(make_client(**CLAUDE.settings), **said).status_code == 200
    assert {name: value for name, value in sent(far_end).items() if name in ("temperature", "top_p")} == sampling
    assert log_lines()[-1]["attempts"][0].get("left_out") == left_out


@pytest.mark.parametrize(
    ("stop", "sent_stops", "text"),
    [
        (["\n"], None, "one"),
        ("\n\n", None, "one\ntwo"),
        ([" "], None, "one\ntwo\n\nthree"),
        (["\t", "END"], ["END"], "one\ntwo\n\nthree END"),
        (["\u00a0\n", "\n", "x"], ["x"], "one"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_blank_stops(
    make_client: Serve, far_end: FarEnd, stop: Any, sent_stops: list[str] | None, text: str, stream: bool
) -> None:
    """Anthropic refuses stop texts without a visible character, so the answer is cut at them here."""
    whole = "one\ntwo\n\nthree END"
    pieces = claude_stream(*whole)
    far_end.post(CLAUDE.url, **({"body": pieces} if stream else {"json": claude_answer(whole)}))
    reply = ask(make_client(**CLAUDE.settings), stop=stop, stream=stream)
    assert sent(far_end).get("stop_sequences") == sent_stops
    assert ("".join(texts_of(reply)) if stream else reply.json["response"]) == text


USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([USER, {"role": "assistant", "content": ""}, USER], {"messages": [USER, USER]}),
        ([USER, ASSISTANT, {"role": "user", "content": " \n"}, USER], {"messages": [USER, ASSISTANT, USER]}),
        ([{"role": "system", "content": "  "}, USER], {"messages": [USER]}),
        (
            [{"role": "system", "content": "Be brief."}, {"role": "assistant", "content": ""}, USER],
            {"messages": [USER], "system": "Be brief."},
        ),
    ],
)
def test_empty_turns(
    make_client: Serve, far_end: FarEnd, messages: list[dict[str, str]], expected: dict[str, Any]
) -> None:
    """Turns without text are refused there, and mean nothing."""
    far_end.post(CLAUDE.url, json=claude_answer("x"))
    reply = ask(make_client(**CLAUDE.settings), "/v1/chat/completions", messages=messages)
    assert reply.status_code == 200, reply.json
    assert {name: value for name, value in sent(far_end).items() if name in ("messages", "system")} == expected


def test_max_tokens_above_the_models(make_client: Serve, far_end: FarEnd, log_lines: Log) -> None:
    """The most that the model allows is asked for, at once and from then on, and the log says so."""
    words = "max_tokens: 200000 > 8192, which is the maximum allowed number of output tokens for claude-x"
    far_end.post(CLAUDE.url, status=400, json=claude_error("invalid_request_error", words))
    far_end.post(CLAUDE.url, json=claude_answer("Hello"))
    client = make_client(**CLAUDE.settings, max_retries=0)
    for asked in (200_000, 100_000, 5):
        assert ask(client, max_tokens=asked, model="claude-x").json == {"response": "Hello"}
    assert [sent(far_end, n)["max_tokens"] for n in range(4)] == [200_000, 8192, 8192, 5]
    first, second = log_lines()[0]["attempts"]
    assert (first["outcome"], second["outcome"]) == ("unsupported_parameter", "ok")
    assert "8,192" in first["message"]


def test_a_limit_that_is_none(make_client: Serve, far_end: FarEnd) -> None:
    """A server that refuses what it says it allows is asked once."""
    words = "max_tokens: 5 > 8192, which is the maximum allowed number of output tokens for claude-x"
    far_end.post(CLAUDE.url, status=400, json=claude_error("invalid_request_error", words))
    assert ask(make_client(**CLAUDE.settings), max_tokens=5).status_code == 400
    assert len(far_end.calls) == 1


@pytest.mark.parametrize("system", ["Be brief.", " "])
def test_a_system_message_alone(far_end: FarEnd, system: str) -> None:
    """A conversation needs a turn there, so the system message becomes one."""
    far_end.post(CLAUDE.url, json=claude_answer("x"))
    request = GenerationRequest((Message.of("system", system),))
    chunks = make_backend("claude", Settings(**CLAUDE.settings)).stream(request, Deadline(5))
    assert [chunk.text for chunk in chunks] == ["x"]
    assert sent(far_end)["messages"] == [{"role": "user", "content": system}]
    assert "system" not in sent(far_end)
