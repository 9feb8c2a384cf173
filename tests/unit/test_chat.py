"""OpenAI's dialect under /v1, as the clients of docs/providers.md, 8, need it."""

from __future__ import annotations

import functools
import hashlib
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import asking
import pytest
from asking import USER, Log, Serve, error_of, read_events
from fakes import ANSWER, END, PATIENCE, Fake, message
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder, TestResponse

from llm_api.errors import (
    BackendError,
    BadCredentials,
    ModelNotFound,
    Overloaded,
    QuotaExhausted,
    RateLimited,
    RequestRefused,
    ServerError,
    TimedOut,
    Unreachable,
)
from llm_api.types import Chunk, Extras, GenerationRequest, Usage

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
BODIES = {path: asking.GENERATE[path][0] for path in (CHAT, TEXT)}
BOTH = pytest.mark.parametrize("path", BODIES)
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
ask = functools.partial(asking.ask, headers={"X-Request-ID": "id-1"})


def pieces_of(reply: TestResponse) -> list[str]:
    """Return the texts of a stream that ended well, without the empty ones."""
    *events, done = read_events(reply.data)
    assert done == "[DONE]"
    choices = [choice for event in events for choice in event["choices"]]
    texts = [choice.get("text") or choice.get("delta", {}).get("content") for choice in choices]
    return [text for text in texts if text]


# Whole answers


def usage(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


WHOLE = {
    CHAT: (
        {"id": "chatcmpl-id-1", "object": "chat.completion"},
        {"message": {"role": "assistant", "content": "Hi there", "refusal": None}},
    ),
    TEXT: ({"id": "cmpl-id-1", "object": "text_completion"}, {"text": "Hi there"}),
}


@BOTH
def test_whole_answer(serve: Serve, log_lines: Log, path: str) -> None:
    """Every field of an answer, since OpenAI's own client lets a missing one through to the application."""
    reply = ask(serve(Fake("one", *ANSWER)), path)
    head, choice = WHOLE[path]
    (line,) = log_lines()
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, "application/json")
    assert type(reply.json["created"]) is int
    assert reply.json == head | {
        "created": int(line["timestamp"]),
        "model": "one/model-it-named",
        "choices": [{"index": 0, **choice, "logprobs": None, "finish_reason": "stop"}],
        "usage": usage(3, 2),
    }
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Model"]) == ("one", "model-it-named")
    assert "X-LLM-Fallback" not in reply.headers
    assert reply.headers["X-Request-ID"] == "id-1"


def test_an_entry_that_is_no_object(make_client: Serve) -> None:
    """The error names the client's place, and nothing of the library that reads the body."""
    reply = ask(make_client(), CHAT, messages=["Hello"])
    assert error_of(reply)["message"] == "messages[0]: Invalid input type."


@pytest.mark.parametrize(
    ("counted", "expected"),
    [(Usage(0, 0), usage(0, 0)), (Usage(3, None), None), (Usage(None, 2), None), (Usage(), None)],
)
@BOTH
def test_usage(serve: Serve, path: str, counted: Usage, expected: dict[str, int] | None) -> None:
    """All three numbers or no `usage` and no chunk of it: a null breaks clients; never a guess, nor half of them."""
    client = serve(Fake("one", Chunk("x", "length", counted)))
    whole = ask(client, path).json
    *events, done = read_events(ask(client, path, stream=True, stream_options={"include_usage": True}).data)
    assert done == "[DONE]"
    assert [body["usage"] for body in [whole] if "usage" in body] == [expected] * (expected is not None)
    assert [event["usage"] for event in events if not event["choices"]] == [expected] * (expected is not None)
    assert [event["usage"] for event in events if event["choices"]] == [None] * len(PIECES[path][1][1:])


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
@BOTH
def test_finish_reason(serve: Serve, path: str, reason: str) -> None:
    """Why the answer ended is told as the backend said it, streamed or not."""
    client = serve(Fake("one", Chunk("x", reason)))
    assert ask(client, path).json["choices"][0]["finish_reason"] == reason
    *_, last, done = read_events(ask(client, path, stream=True).data)
    assert (last["choices"][0]["finish_reason"], done) == (reason, "[DONE]")


@pytest.mark.parametrize("offered", [{}, {"tools": []}, {"tools": None, "tool_choice": "auto"}])
@pytest.mark.parametrize("begun", [False, True])
@STREAMED
def test_a_tool_that_was_not_offered(
    serve: Serve, log_lines: Log, offered: dict[str, Any], begun: bool, stream: bool
) -> None:
    """A call that nobody could make is no answer: the next one is asked, or the stream ends with an error."""
    called = [Chunk("Hi ")] * begun + [Chunk("", "tool_calls")]
    reply = ask(serve(Fake("one", *called), Fake("two", *ANSWER)), CHAT, stream=stream, **offered)
    (line,) = log_lines()
    if begun and stream:
        assert read_events(reply.data)[-1]["error"]["code"] == "invalid_answer"
        assert (line["status"], line["error"]["code"]) == ("error", "invalid_answer")
    else:
        assert (reply.status_code, reply.headers["X-LLM-Fallback"]) == (200, "invalid_answer")
        assert (line["status"], line["response"]) == ("ok", "Hi there")


REFUSED = (Chunk(refusal="I "), Chunk(refusal="can't."), Chunk("", "stop"))


def test_model_that_refuses(serve: Serve, log_lines: Log) -> None:
    """What it says stands in `refusal`, as OpenAI has it, and is no content; the log has it as the answer."""
    reply = ask(serve(Fake("one", *REFUSED)), CHAT)
    message = {"role": "assistant", "content": None, "refusal": "I can't."}
    assert reply.json["choices"][0] == {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    assert [line["response"] for line in log_lines()] == ["I can't."]


def test_model_that_refuses_in_a_stream(serve: Serve) -> None:
    """Its pieces have a field of their own as well."""
    *events, done = read_events(ask(serve(Fake("one", *REFUSED)), CHAT, stream=True).data)
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas == [{"role": "assistant", "content": ""}, {"refusal": "I "}, {"refusal": "can't."}, {}]
    assert done == "[DONE]"


@STREAMED
def test_completion_that_refuses(serve: Serve, stream: bool) -> None:
    """Completions have one field for words."""
    reply = ask(serve(Fake("one", *REFUSED)), TEXT, stream=stream)
    said = "".join(pieces_of(reply)) if stream else reply.json["choices"][0]["text"]
    assert said == "I can't."


# Streams

PIECES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    CHAT: (
        {"id": "chatcmpl-id-1", "object": "chat.completion.chunk"},
        [
            {"delta": {"role": "assistant", "content": ""}},
            {"delta": {"content": "Hi "}},
            {"delta": {"content": "there"}},
            {"delta": {}},
        ],
    ),
    TEXT: (
        {"id": "cmpl-id-1", "object": "text_completion"},
        [{"text": "Hi "}, {"text": "there"}, {"text": ""}],
    ),
}


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, False),
        ({"stream_options": None}, False),
        ({"stream_options": {}}, False),
        ({"stream_options": {"include_usage": None}}, False),
        ({"stream_options": {"include_usage": False}}, False),
        ({"stream_options": {"include_usage": True, "include_obfuscation": False}}, True),
    ],
)
@BOTH
def test_stream(serve: Serve, log_lines: Log, path: str, options: dict[str, Any], asked: bool) -> None:
    """Every event: the role, the pieces, the reason, the usage only where it was asked for, and the end mark."""
    reply = ask(serve(Fake("one", *ANSWER)), path, stream=True, **options)
    head, contents = PIECES[path]
    (line,) = log_lines()
    same = head | {"created": int(line["timestamp"]), "model": "one/one-model"}
    reasons = [None] * (len(contents) - 1) + ["stop"]
    choices = [
        [{"index": 0, **content, "logprobs": None, "finish_reason": reason}]
        for content, reason in zip(contents, reasons, strict=True)
    ]
    none, counted = ({"usage": None}, [same | {"choices": [], "usage": usage(3, 2)}]) if asked else ({}, [])
    assert read_events(reply.data) == [*(same | {"choices": c} | none for c in choices), *counted, "[DONE]"]


@BOTH
def test_headers_of_a_stream(serve: Serve, path: str) -> None:
    """The type that Open WebUI looks for, and what keeps a proxy from holding the events back."""
    headers = ask(serve(Fake("one", *ANSWER)), path, stream=True).headers
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert (headers["X-Accel-Buffering"], headers["Cache-Control"]) == ("no", "no-cache")
    assert (headers["X-LLM-Backend"], headers["X-LLM-Model"]) == ("one", "one-model")
    assert headers["X-Request-ID"] == "id-1"


@BOTH
def test_odd_characters_in_a_stream(serve: Serve, path: str) -> None:
    """Line breaks of every kind stay inside their event."""
    text = "a\nb\r\n\u2028\u0085\x00é"
    reply = ask(serve(Fake("one", Chunk(text), END)), path, stream=True)
    assert reply.data.isascii()
    assert pieces_of(reply) == [text]


def test_what_the_official_client_sends(serve: Serve) -> None:
    """Its Accept asks for JSON even where it wants a stream, and its key means nothing here."""
    headers = {
        "Accept": "application/json",
        "Authorization": "Bearer sk-x",
        "User-Agent": "OpenAI/Python 3.54.0",
        "X-Stainless-Read-Timeout": "600",
    }
    client = serve(Fake("one", *ANSWER))
    reply = client.post(CHAT, json=BODIES[CHAT] | {"stream": True}, headers=headers)
    assert (reply.mimetype, read_events(reply.data)[-1]) == ("text/event-stream", "[DONE]")


# What may be said

UNSAID = GenerationRequest((message("user", "Hi"),))
SAID = {
    "plain": ({}, {}),
    "model": ({"model": "gpt-x"}, {"model": "gpt-x"}),
    "dummy": ({"model": "dummy"}, {}),
    "max_tokens": ({"max_tokens": 5}, {"max_tokens": 5}),
    "temperature 0": ({"temperature": 0}, {"temperature": 0}),
    "temperature 2": ({"temperature": 2}, {"temperature": 2}),
    "top_p": ({"top_p": 0.5}, {"top_p": 0.5}),
    "top_p 0": ({"top_p": 0}, {"top_p": 0}),
    "stop as text": ({"stop": "END"}, {"stop": ("END",)}),
    "stop as list": ({"stop": ["a", "b", "c", "d"]}, {"stop": ("a", "b", "c", "d")}),
    "stop empty": ({"stop": []}, {}),
    "seed": ({"seed": -1}, {"seed": -1}),
    "stream": ({"stream": True}, {"stream": True}),
    "no fallback": ({"fallback": False}, {"fallback": False}),
    "n": ({"n": 1}, {}),
    "unknown": ({"metadata": {"a": "b"}, "top_k": 3, "x": None}, {}),
    **{
        name: ({name: value}, {"extras": Extras("openai", {name: value})})
        for name, value in {
            "presence_penalty": 1.5,
            "frequency_penalty": -2,
            "logit_bias": {"50256": -100, "7": 1.5},
            "user": "me",
            "safety_identifier": "me",
            "prompt_cache_key": "k",
        }.items()
    },
    "extras": (
        {"user": "", "logit_bias": {}, "presence_penalty": 0},
        {"extras": Extras("openai", {"user": "", "logit_bias": {}, "presence_penalty": 0})},
    ),
    "format text": ({"response_format": {"type": "text"}}, {}),
}
SAID_BY_CHAT = {
    "max_completion_tokens": ({"max_completion_tokens": 7}, {"max_tokens": 7}),
    "both counts": ({"max_tokens": 5, "max_completion_tokens": 7}, {"max_tokens": 7}),
    "no tools": ({"tools": [], "functions": [], "tool_choice": "none", "parallel_tool_calls": True}, {}),
    "effort": ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
    "verbosity": ({"verbosity": "high"}, {"extras": Extras("openai", {"verbosity": "high"})}),
    "no tool to choose": ({"tool_choice": "auto", "function_call": "none"}, {}),
    "no logprobs": ({"logprobs": False, "top_logprobs": 3}, {}),
    "modalities": ({"modalities": ["text"]}, {}),
    "many messages": ({"messages": [{"role": "assistant", "content": None}] * 9_999 + [USER]}, None),
}
SAID_BY_TEXT = {
    "a prompt in a list": ({"prompt": ["Hi"]}, {}),
    "echo": ({"echo": False, "suffix": "", "best_of": 1}, {}),
    "no max_completion_tokens": ({"max_completion_tokens": "not a field here"}, {}),
}
OPTIONAL = (
    *("max_tokens", "temperature", "top_p", "stop", "seed", "stream", "fallback", "response_format"),
    *("stream_options", "n", "user", "presence_penalty", "frequency_penalty", "logit_bias"),
)
OPTIONAL_OF_CHAT = (
    *("max_completion_tokens", "tools", "functions", "logprobs", "modalities", "tool_choice", "function_call"),
    *("reasoning_effort", "verbosity"),
)
OPTIONAL_OF_TEXT = ("best_of", "echo", "suffix", "logprobs")


@pytest.mark.parametrize(
    ("path", "said", "expected"),
    [(path, *case) for path in BODIES for case in SAID.values()]
    + [(CHAT, *case) for case in SAID_BY_CHAT.values()]
    + [(TEXT, *case) for case in SAID_BY_TEXT.values()],
)
def test_parameters(serve: Serve, path: str, said: dict[str, Any], expected: dict[str, Any] | None) -> None:
    """Each has its place in the request that the backend gets; what nobody knows is ignored."""
    fake = Fake("one", *ANSWER)
    assert ask(serve(fake), path, **said).status_code == 200
    assert expected is None or fake.asked == [replace(UNSAID, **expected)]


@pytest.mark.parametrize(
    ("path", "names"),
    [(CHAT, OPTIONAL + OPTIONAL_OF_CHAT), (TEXT, OPTIONAL + OPTIONAL_OF_TEXT)],
)
def test_null_means_not_said(serve: Serve, path: str, names: tuple[str, ...]) -> None:
    """Clients send every field they know, with null where nothing was said."""
    fake = Fake("one", *ANSWER)
    assert ask(serve(fake), path, **dict.fromkeys(names)).status_code == 200
    assert fake.asked == [UNSAID]


def part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text, "cache_control": None}


NO_PART = {"type": "refusal", "refusal": "No."}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ([USER], [("user", "Hi")]),
        ([{"role": "system", "content": "s"}, USER], [("system", "s"), ("user", "Hi")]),
        ([{"role": "developer", "content": "s"}, USER], [("system", "s"), ("user", "Hi")]),
        ([USER, {"role": "assistant", "content": "a"}], [("user", "Hi"), ("assistant", "a")]),
        ([USER, {"role": "assistant", "content": None}, USER], [("user", "Hi"), ("assistant", ""), ("user", "Hi")]),
        ([USER, {"role": "assistant"}], [("user", "Hi"), ("assistant", "")]),
        ([USER | {"content": [part("Hi"), part(" there")]}], [("user", "Hi there")]),
        ([USER | {"content": []}, USER], [("user", ""), ("user", "Hi")]),
        ([{"role": "system", "content": "Hi"}], [("system", "Hi")]),
        (
            [{"role": "system", "content": "Hi"}, {"role": "developer", "content": "x"}],
            [("system", "Hi"), ("system", "x")],
        ),
        (
            [USER, {"role": "assistant", "content": [NO_PART]}, USER],
            [("user", "Hi"), ("assistant", "No."), ("user", "Hi")],
        ),
        ([USER, {"role": "assistant", "content": [part("a"), NO_PART]}], [("user", "Hi"), ("assistant", "aNo.")]),
        ([USER, {"role": "assistant", "content": None, "refusal": "No."}], [("user", "Hi"), ("assistant", "No.")]),
        ([USER, {"role": "assistant", "content": "", "refusal": "No."}], [("user", "Hi"), ("assistant", "No.")]),
        (
            [USER, {"role": "assistant", "content": "Yes", "refusal": "No."}],
            [("user", "Hi"), ("assistant", "Yes\nNo.")],
        ),
        ([USER | {"name": "Ada", "refusal": None, "tool_calls": None}], [("user", "Hi")]),
    ],
)
def test_messages(serve: Serve, said: list[dict[str, Any]], expected: list[tuple[str, str]]) -> None:
    """Roles and contents of every kind that is served come to the backend as plain messages, in their order."""
    fake = Fake("one", *ANSWER)
    assert ask(serve(fake), CHAT, messages=said).status_code == 200
    assert [(message.role, message.content) for message in fake.asked[0].messages] == expected


@pytest.mark.parametrize(("said", "name"), [("Ada", "Ada"), (None, None)])
def test_names_in_messages(serve: Serve, log_lines: Log, said: str | None, name: str | None) -> None:
    """The backend, and the log, know who of several users said what."""
    fake = Fake("one", *ANSWER)
    assert ask(serve(fake), CHAT, messages=[USER | {"name": said}]).status_code == 200
    assert [message.name for message in fake.asked[0].messages] == [name]
    assert log_lines()[0]["messages"] == [USER | ({"name": name} if name else {})]


def test_a_system_message_alone(serve: Serve, log_lines: Log) -> None:
    """The log has it as it came; for a backend that needs a user's turn it is one."""
    fake = Fake("one", *ANSWER)
    said = [{"role": "system", "content": "Say hi."}]
    assert ask(serve(fake), CHAT, messages=said).status_code == 200
    assert (fake.asked[0].system, fake.asked[0].turns) == (None, (message("user", "Say hi."),))
    assert log_lines()[0]["messages"] == said


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
# By the field that is blamed: its values.
NOT_SERVED: dict[str, list[Any]] = {
    "model": [None, "", 5, "a\nb", "m" * 201],
    "n": [2, 0, "1"],
    "max_tokens": [0, "5", 5.5],
    "temperature": [2.1, -0.1, "1", True],
    "top_p": [-0.1, 1.1],
    "user": [5],
    "presence_penalty": ["1"],
    "frequency_penalty": [True],
    "logit_bias": [[1], {"5": "x"}],
    "stop": [["a"] * 5, "", 5],
    "seed": [1.5],
    "stream": ["true", 1],
    "fallback": ["no"],
    "stream_options": [True, {"include_usage": 1}],
    "response_format": ["json"],
}
NOT_SERVED_BY_CHAT: dict[str, list[Any]] = {
    "messages": [
        *(None, [], "Hi", ["Hi"], [None], [USER] * 10_001, [{"content": "Hi"}]),
        [USER | {"role": "tool"}],
        [USER | {"role": "function", "name": "f"}],
        *([USER | {"role": role}] for role in ("User", None)),
        *([USER | {"content": content}] for content in (5, {"type": "text", "text": "Hi"}, ["Hi"], "", None)),
        *([USER | {"content": [one]}] for one in (IMAGE, {"type": "text"}, {"type": "text", "text": None})),
        [USER | {"content": [part("What is this?"), IMAGE]}],
        [{"role": "system", "content": ""}],
        [USER | {"name": 5}],
        [USER | {"content": [{"type": "refusal"}]}],
        [USER, {"role": "assistant", "audio": {"id": "audio_1"}}],
        [USER, {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}],
    ],
    "max_completion_tokens": [0],
    "reasoning_effort": [5],
    "verbosity": [{}],
    "tool_choice": [
        *("required", "any", {"type": "allowed_tools"}),
        {"type": "function", "function": {"name": "f"}},
    ],
    "function_call": [{"name": "f"}],
    "tools": [*([{"type": "function", "function": function}] for function in ({}, {"name": ""}, {"name": 5})), "f"],
    "functions": [[{"name": "f"}]],
    "logprobs": [True, 1],
    "modalities": [["text", "audio"]],
}
NOT_SERVED_BY_TEXT: dict[str, list[Any]] = {
    "prompt": [None, "", ["Hi", "you"], [], [[1, 2]], 5],
    "echo": [True],
    "suffix": ["the end"],
    "best_of": [2],
    "logprobs": [0, 5],
}


@pytest.mark.parametrize(
    ("path", "said", "param"),
    [
        *((path, {name: value}, name) for path in BODIES for name, values in NOT_SERVED.items() for value in values),
        *((CHAT, {name: value}, name) for name, values in NOT_SERVED_BY_CHAT.items() for value in values),
        *((TEXT, {name: value}, name) for name, values in NOT_SERVED_BY_TEXT.items() for value in values),
        (CHAT, {"max_tokens": 0, "max_completion_tokens": 5}, "max_tokens"),
    ],
)
def test_refused(serve: Serve, log_lines: Log, path: str, said: dict[str, Any], param: str) -> None:
    """What can't be served, or is wrong, is a 400 that names the field, in the log too; nobody is asked."""
    fake = Fake("one", *ANSWER)
    reply = ask(serve(fake), path, **said)
    error = error_of(reply)
    (line,) = log_lines()
    assert (reply.status_code, error["param"], error["code"]) == (400, param, "validation_failed")
    assert (error["type"], list(reply.json["fields"])) == ("invalid_request_error", [param])
    assert error["message"].startswith(param)
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("error", 400, "validation_failed")
    assert "x-should-retry" not in reply.headers
    assert fake.asked == []


@pytest.mark.parametrize(
    ("path", "param"),
    [
        (CHAT, "messages"),
        (CHAT, "model"),
        (TEXT, "prompt"),
        (TEXT, "model"),
    ],
)
def test_missing(serve: Serve, path: str, param: str) -> None:
    """A body must name its model and say something."""
    body = {name: value for name, value in BODIES[path].items() if name != param}
    reply = serve(Fake("one", *ANSWER)).post(path, json=body)
    assert (reply.status_code, error_of(reply)["param"]) == (400, param)


@pytest.mark.parametrize(
    ("path", "said", "param"),
    [
        (CHAT, {"messages": [USER | {"content": "12345"}]}, None),
        (CHAT, {"messages": [USER | {"content": "123456"}]}, "messages"),
        (CHAT, {"messages": [USER | {"content": "12"}] * 2}, None),
        (
            CHAT,
            {"messages": [{"role": "system", "content": "123"}, USER | {"content": "456"}]},
            "messages",
        ),
        (CHAT, {"messages": [USER | {"content": [part("123"), part("456")]}]}, "messages"),
        (TEXT, {"prompt": "12345"}, None),
        (TEXT, {"prompt": "123456"}, "prompt"),
    ],
)
def test_max_prompt_chars(serve: Serve, path: str, said: dict[str, Any], param: str | None) -> None:
    """The texts of a conversation are bounded together; agents shorten it where the code says that it is too long."""
    reply = ask(serve(Fake("one", *ANSWER), max_prompt_chars=5), path, **said)
    assert reply.status_code == (400 if param else 200)
    if param:
        error = error_of(reply)
        assert (error["param"], error["code"]) == (param, "context_length_exceeded")
        assert error["type"] == "invalid_request_error"
        assert {"6", "5"} <= set(re.findall(r"\d+", error["message"]))
        assert list(reply.json["fields"]) == [param]


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"data": "{", "content_type": "application/json"}, 400, "malformed_json"),
        ({"json": [BODIES[CHAT]]}, 400, "malformed_json"),
        ({"data": "x", "content_type": "text/plain"}, 415, "unsupported_media_type"),
        ({"json": BODIES[CHAT] | {"user": "x" * 500}}, 413, "body_too_large"),
        ({"method": "GET"}, 405, "method_not_allowed"),
    ],
)
@BOTH
def test_what_is_no_request(serve: Serve, path: str, request_: dict[str, Any], status: int, code: str) -> None:
    """Under /v1, too, every error has the one envelope."""
    reply = serve(Fake("one"), max_body_bytes=400).open(path, **{"method": "POST"} | request_)
    assert (reply.status_code, error_of(reply)["code"]) == (status, code)


def test_unknown_path(serve: Serve) -> None:
    """What OpenAI has besides is a 404 in the same envelope, which names what there is, also where /v1 is too many."""
    for path in ("/v1/audio/speech", "/v1/v1/chat/completions", "/v1", "/chat/completions"):
        reply = serve(Fake("one")).post(path, json={})
        assert (reply.status_code, error_of(reply)["code"]) == (404, "not_found")
        words = error_of(reply)["message"]
        assert path in words
        assert {"/v1/chat/completions", "/v1/completions", "/v1/models"} <= set(re.split("[ ,]+", words))
        assert not re.search("dashboard|static|docs", words)


# Failures
FAILED: list[tuple[BackendError, int, str, str]] = [
    (Unreachable("m"), 503, "unreachable", "backend_error"),
    (TimedOut("m"), 504, "timeout", "backend_error"),
    (RateLimited("m"), 429, "rate_limited", "rate_limit_error"),
    (QuotaExhausted("m"), 429, "insufficient_quota", "insufficient_quota"),
    (BadCredentials("m"), 502, "bad_credentials", "backend_error"),
    (ModelNotFound("m"), 404, "model_not_found", "invalid_request_error"),
    (ServerError("m"), 502, "server_error", "backend_error"),
]


@pytest.mark.parametrize(("failure", "status", "code", "kind"), FAILED)
@STREAMED
@BOTH
def test_failure(
    serve: Serve, log_lines: Log, path: str, stream: bool, failure: BackendError, status: int, code: str, kind: str
) -> None:
    """Before the first piece it has a true status and OpenAI's words, which its clients act on; the SDKs are told not
    to add their retries to ours, and a used-up quota, which doesn't come back, names no time for one.
    """
    reply = ask(serve(Fake("one", failure)), path, stream=stream)
    error = error_of(reply)
    assert (reply.status_code, reply.mimetype) == (status, "application/json")
    assert (error["code"], error["type"]) == (code, kind)
    assert reply.headers["x-should-retry"] == "false"
    assert ("Retry-After" in reply.headers) == (status in (429, 503) and code != "insufficient_quota")
    assert [(line["http_status"], line["error"]["code"]) for line in log_lines()] == [(status, failure.code)]


@pytest.mark.parametrize(
    ("path", "blamed", "param"),
    [
        (CHAT, "prompt", "messages"),
        (TEXT, "prompt", "prompt"),
        (CHAT, "temperature", "temperature"),
        (CHAT, None, None),
    ],
)
@STREAMED
def test_refusal(serve: Serve, log_lines: Log, path: str, stream: bool, blamed: str | None, param: str | None) -> None:
    """What a backend finds wrong with the request is a 400; a prompt too long is the messages' fault in a chat."""
    refused = RequestRefused("too long", code="context_length_exceeded", param=blamed)
    two = Fake("two", *ANSWER)
    reply = ask(serve(Fake("one", refused), two), path, stream=stream)
    assert reply.status_code == 400
    assert error_of(reply) == {
        "message": "too long",
        "type": "invalid_request_error",
        "code": "context_length_exceeded",
        "param": param,
    }
    assert ("x-should-retry" in reply.headers, two.asked) == (False, [])
    assert [line["http_status"] for line in log_lines()] == [400]


@pytest.mark.parametrize(
    ("turns", "kind", "code"),
    [
        ((ServerError("it broke"),), "backend_error", "server_error"),
        ((), "backend_error", "invalid_answer"),
        ((RuntimeError("canary"),), "server_error", "internal_error"),
        ((QuotaExhausted("m"),), "insufficient_quota", "insufficient_quota"),
    ],
    ids=["broke", "cut short", "bug", "quota"],
)
@BOTH
def test_error_in_a_stream(
    serve: Serve, log_lines: Log, path: str, turns: tuple[Exception, ...], kind: str, code: str
) -> None:
    """It is an event and the last one: a client must not take the text before it for an answer."""
    reply = ask(serve(Fake("one", Chunk("half"), *turns), Fake("two", *ANSWER)), path, stream=True)
    *events, last = read_events(reply.data)
    assert reply.status_code == 200
    assert (last.keys(), last["error"].keys()) == ({"error"}, {"message", "type", "code", "param"})
    assert (last["error"]["type"], last["error"]["code"]) == (kind, code)
    assert all(event["choices"][0]["finish_reason"] is None for event in events)
    assert b"canary" not in reply.data
    (line,) = log_lines()
    logged = "rate_limited" if code == "insufficient_quota" else code
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("error", 200, logged)
    assert (line["response"], line["backend"]) == ("half", "one")


@BOTH
def test_stream_that_cannot_be_logged(serve: Serve, log_path: Path, path: str) -> None:
    """Its end is held back until the log has its line: here it never comes."""
    client = serve(Fake("one", *ANSWER))
    log_path.parent.write_text("a file where the folder should be")
    *events, last = read_events(ask(client, path, stream=True).data)
    assert last["error"]["code"] == "log_unavailable"
    assert all(event["choices"][0]["finish_reason"] is None for event in events)


@STREAMED
@BOTH
def test_fallback(serve: Serve, log_lines: Log, path: str, stream: bool) -> None:
    """Who answered stands in the body too, where these clients look; the header says why."""
    reply = ask(serve(Fake("one", Overloaded("m")), Fake("two", *ANSWER)), path, stream=stream)
    bodies = read_events(reply.data)[:-1] if stream else [reply.json]
    assert {body["model"].partition("/")[0] for body in bodies} == {"two"}
    assert (reply.headers["X-LLM-Fallback"], reply.headers["X-LLM-Backend"]) == ("overloaded", "two")
    (line,) = log_lines()
    assert (line["backend"], line["requested_backend"], line["fallback_reason"]) == ("two", "one", "overloaded")


# Silence, and clients that leave


@BOTH
def test_heartbeat(serve: Serve, hasty: None, log_lines: Log, path: str) -> None:
    """While the backend is silent comments keep proxies from giving up; they are no part of the answer."""
    resume = threading.Event()
    fake = Fake("one", Chunk("Hi "), lambda _: resume.wait(PATIENCE), Chunk("there"), END)
    reply = ask_unbuffered(serve(fake), path)
    frames = iter(reply.response)
    got = [next(frames)]
    while got.count(b": keep-alive\n\n") < 2:
        got.append(next(frames))
    resume.set()
    reply.response = [*got, *frames]
    assert pieces_of(reply) == ["Hi ", "there"]
    assert [(line["status"], line["response"]) for line in log_lines()] == [("ok", "Hi there")]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds of silence take no time."""
    monkeypatch.setattr("llm_api.dialects.openai.OpenAIDialect.heartbeat", 0.01)


def read_late(reply: TestResponse, resume: threading.Event) -> bytes:
    """Read two comments, let the backend go on, and return the whole stream."""
    frames = iter(reply.response)
    got = [next(frames), next(frames)]
    assert got == [b": keep-alive\n\n"] * 2
    assert (reply.status_code, reply.headers.get("X-LLM-Backend")) == (200, None), "nobody has answered yet"
    resume.set()
    return b"".join([*got, *frames])


LATE = [
    ({}, [Chunk("Hi "), Chunk("there")], "Hi there", "one-model"),
    ({"response_format": {"type": "json_object"}}, [Chunk('{"a"'), Chunk(": 1}")], '{"a": 1}', "model-it-named"),
]


@pytest.mark.parametrize(("fields", "chunks", "text", "model"), LATE, ids=["text", "JSON"])
@BOTH
def test_heartbeat_before_the_first_piece(
    serve: Serve,
    log_lines: Log,
    hasty: None,
    path: str,
    fields: dict[str, Any],
    chunks: list[Chunk],
    text: str,
    model: str,
) -> None:
    """A model that thinks, or writes JSON, is silent at first: the stream begins, and says later who answers."""
    resume = threading.Event()
    fake = Fake("one", lambda _: resume.wait(PATIENCE), *chunks, END)
    data = read_late(ask_unbuffered(serve(fake), path, **fields), resume)
    assert f": X-LLM-Backend: one, X-LLM-Model: {model}\n\n".encode() in data
    assert text_of(data) == text
    assert {event["model"].partition("/")[0] for event in read_events(data)[:-1]} == {"one"}
    assert [(line["status"], line["backend"], line["response"]) for line in log_lines()] == [("ok", "one", text)]


@BOTH
def test_late_fallback(serve: Serve, log_lines: Log, hasty: None, path: str) -> None:
    """A comment is no event: who fails after it falls back, and the stream says to whom and why."""
    resume = threading.Event()
    one = Fake("one", lambda _: resume.wait(PATIENCE), ServerError("m"))
    data = read_late(ask_unbuffered(serve(one, Fake("two", *ANSWER)), path), resume)
    assert b": X-LLM-Backend: two, X-LLM-Model: two-model, X-LLM-Fallback: server_error\n\n" in data
    assert {event["model"].partition("/")[0] for event in read_events(data)[:-1]} == {"two"}
    assert text_of(data) == "Hi there"
    (line,) = log_lines()
    assert (line["backend"], line["fallback_reason"], line["http_status"]) == ("two", "server_error", 200)


@BOTH
def test_late_error(serve: Serve, log_lines: Log, hasty: None, path: str) -> None:
    """After a comment the status has left: the error is the stream's last event."""
    resume = threading.Event()
    one = Fake("one", lambda _: resume.wait(PATIENCE), ServerError("it broke"))
    (event,) = read_events(read_late(ask_unbuffered(serve(one), path), resume))
    assert (event["error"]["code"], event["error"]["message"]) == ("server_error", "it broke")
    (line,) = log_lines()
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("error", 200, "server_error")
    assert line["backend"] is None


@BOTH
def test_client_that_leaves_before_the_first_piece(serve: Serve, log_lines: Log, hasty: None, path: str) -> None:
    """The backend that was asked is stopped at once, and no other one is asked."""
    one, two = Fake("one", lambda _: one.over.wait(PATIENCE)), Fake("two")
    reply = ask_unbuffered(serve(one, two), path)
    next(iter(reply.response))
    reply.close()
    assert (one.over.is_set(), one.closed, two.asked) == (True, 1, [])
    (line,) = log_lines()
    assert (line["status"], line["http_status"], line["response"], line["backend"]) == ("aborted", 200, None, None)


def text_of(data: bytes) -> str:
    """Return the text of a whole stream that ended well."""
    *events, end = read_events(data)
    assert end == "[DONE]"
    choices = [event["choices"][0] for event in events]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content", "") for choice in choices)


def ask_unbuffered(client: FlaskClient, path: str, **fields: Any) -> TestResponse:
    return client.post(path, json=BODIES[path] | {"stream": True} | fields, buffered=False)


def leave(serve: Serve, path: str, fake: Fake, frames: int) -> None:
    """Read some frames of a stream, and go."""
    reply = ask_unbuffered(serve(fake), path)
    read = iter(reply.response)
    for _ in range(frames):
        next(read)
    reply.close()


@pytest.mark.parametrize(
    ("path", "frames", "text"),
    [
        (CHAT, 1, ""),
        (CHAT, 2, "Hi "),
        (CHAT, 3, "Hi there"),
        (TEXT, 1, "Hi "),
        (TEXT, 2, "Hi there"),
    ],
)
@pytest.mark.parametrize("silent", [False, True])
def test_client_that_leaves(serve: Serve, log_lines: Log, path: str, frames: int, text: str, silent: bool) -> None:
    """The backend is stopped, though it be silent, and one line has the text so far."""
    pause = [lambda _: fake.over.wait(PATIENCE)] if silent else []
    fake = Fake("one", *ANSWER[:2], *pause, END)
    leave(serve, path, fake, frames)
    assert fake.closed == 1
    (line,) = log_lines()
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("aborted", 200, "client_gone")
    assert (line["response"], line["finish_reason"]) == (text, None)


def test_client_that_leaves_a_silent_backend(serve: Serve, log_lines: Log, hasty: None) -> None:
    """One that leaves at a heartbeat: the waiting backend is told, and doesn't wait to its end."""
    fake = Fake("one", Chunk("Hi "), lambda _: fake.over.wait(PATIENCE), END)
    reply = ask_unbuffered(serve(fake), CHAT)
    frames = iter(reply.response)
    while b"Hi " not in next(frames):
        pass
    assert next(frames) == b": keep-alive\n\n"
    reply.close()
    assert fake.over.is_set()
    assert fake.closed == 1
    assert [(line["status"], line["response"]) for line in log_lines()] == [("aborted", "Hi ")]


@BOTH
def test_client_that_leaves_before_the_first_byte(serve: Serve, log_lines: Log, path: str) -> None:
    """A server may close an answer that it never began to send."""
    fake = Fake("one", *ANSWER)
    environ = EnvironBuilder(path, method="POST", json=BODIES[path] | {"stream": True}).get_environ()
    answer = serve(fake).application.wsgi_app(environ, lambda *args: lambda data: None)
    answer.close()
    assert (fake.closed, [line["status"] for line in log_lines()]) == (1, ["aborted"])


@BOTH
def test_client_that_leaves_at_the_end(serve: Serve, log_lines: Log, path: str) -> None:
    """What was complete stays ok, though the end mark was not read."""
    leave(serve, path, Fake("one", *ANSWER), len(PIECES[path][1]))
    assert [(line["status"], line["response"]) for line in log_lines()] == [("ok", "Hi there")]


# The log

ALIKE = {
    *("timestamp", "request_id", "operation", "backend", "requested_backend", "model", "request_model", "response"),
    *("parameters", "input_tokens", "output_tokens", "finish_reason", "stream", "duration_ms", "status", "error"),
    *("time_to_first_chunk_ms", "http_status", "fallback", "fallback_reason", "attempts", "client_ip", "caller"),
    "trace_id",
    "schema_version",
}
TALK = [{"role": "developer", "content": "Be kind."}, USER, {"role": "assistant", "content": None}, USER]
LOGGED_TALK = [
    {"role": "system", "content": "Be kind."},
    USER,
    {"role": "assistant", "content": ""},
    USER,
]


@STREAMED
def test_line_of_a_chat(serve: Serve, log_lines: Log, stream: bool) -> None:
    """It has the messages in place of a prompt and a system message."""
    said = {"model": "gpt-x", "messages": TALK, "max_completion_tokens": 5, "stop": "END", "user": "me"}
    ask(serve(Fake("one", *ANSWER)), CHAT, stream=stream, **said)
    (line,) = log_lines()
    assert line.keys() == ALIKE | {"messages"}
    assert (line["operation"], line["messages"], line["response"]) == ("chat", LOGGED_TALK, "Hi there")
    assert (line["request_id"], line["request_model"], line["model"]) == ("id-1", "gpt-x", "model-it-named")
    assert (line["parameters"], line["stream"]) == ({"max_tokens": 5, "stop": ["END"]}, stream)
    assert (line["status"], line["http_status"], line["finish_reason"]) == ("ok", 200, "stop")


def test_extras_in_the_log(serve: Serve, log_lines: Log) -> None:
    """It has what changes an answer, and not the names by which a client tells its own users apart."""
    said = {"reasoning_effort": "low", "presence_penalty": 1, "logit_bias": {"5": 1}}
    ask(serve(Fake("one", *ANSWER)), CHAT, **said, user="me", safety_identifier="me", prompt_cache_key="me")
    assert log_lines()[0]["parameters"] == said


@STREAMED
def test_line_of_a_completion(serve: Serve, log_lines: Log, stream: bool) -> None:
    """It has a prompt, as that of /generate."""
    ask(serve(Fake("one", *ANSWER)), TEXT, stream=stream)
    (line,) = log_lines()
    assert line.keys() == ALIKE | {"prompt", "system"}
    assert (line["operation"], line["prompt"], line["system"]) == ("completion", "Hi", None)
    assert (line["response"], line["request_model"], line["stream"]) == ("Hi there", None, stream)


CANARY = "canary-51c9"
QUOTING = RequestRefused("refused", detail=f"you said {CANARY}")


@pytest.mark.parametrize(
    "turns",
    [(Chunk(CANARY), END), (QUOTING,), (Chunk(CANARY), QUOTING), (Chunk(CANARY),), (RuntimeError(CANARY),)],
    ids=["ok", "refused", "refused late", "cut short", "bug"],
)
@pytest.mark.parametrize(
    ("path", "said"),
    [
        (CHAT, {"messages": [{"role": "system", "content": CANARY}, USER | {"content": CANARY}]}),
        (CHAT, {"messages": [USER | {"content": [part(CANARY)], "name": CANARY}], "user": CANARY}),
        (CHAT, {"messages": [USER], "reasoning_effort": CANARY, "logit_bias": {CANARY: 1}}),
        (CHAT, {"messages": [USER | {"role": CANARY}]}),
        (CHAT, {"messages": [USER | {"content": {CANARY: 1}}]}),
        (TEXT, {"prompt": CANARY, "stop": CANARY, "user": CANARY}),
        (TEXT, {"prompt": [CANARY]}),
        (TEXT, {"prompt": [CANARY, CANARY]}),
    ],
)
@STREAMED
def test_nothing_said_is_logged(
    serve: Serve,
    log_path: Path,
    caplog: pytest.LogCaptureFixture,
    path: str,
    said: dict[str, Any],
    turns: Any,
    stream: bool,
) -> None:
    """With LOG_PROMPTS=false no word of a conversation is in the log or on stderr."""
    assert ask(serve(Fake("one", *turns), log_prompts=False), path, stream=stream, **said).data
    assert log_path.read_bytes().count(b"\n") == 1
    assert CANARY not in log_path.read_text()
    assert CANARY not in caplog.text


def test_length_and_hash_stand_in_for_messages(serve: Serve, log_lines: Log) -> None:
    """The roles stay, and each content's size and hash."""
    ask(serve(Fake("one", *ANSWER), log_prompts=False), CHAT)
    (message,) = log_lines()[0]["messages"]
    assert message == {"role": "user", "content_chars": 2, "content_sha256": hashlib.sha256(b"Hi").hexdigest()}


def test_long_messages_are_cut(serve: Serve, log_lines: Log) -> None:
    """LOG_MAX_TEXT bounds each content."""
    ask(serve(Fake("one", *ANSWER), log_max_text=3), CHAT, messages=[USER, USER | {"content": "1234é"}])
    cut = {"role": "user", "content": "123", "content_truncated": True, "content_bytes": 6}
    assert log_lines()[0]["messages"] == [USER, cut]


# The names of models

OWN = "openai/gpt-oss-20b"
NAMES = [
    (False, "x", "huggingface", "x"),
    (False, OWN, "huggingface", OWN),
    (True, OWN, "huggingface", OWN),
    (False, f"huggingface/{OWN}", "huggingface", OWN),
    (False, "huggingface/org/x:7b", "huggingface", "org/x:7b"),
    (False, "huggingface", "huggingface", "huggingface"),
    (False, "huggingface/", "huggingface", "huggingface/"),
    (False, "/x", "huggingface", "/x"),
    (False, "org/x", "huggingface", "org/x"),
    (True, "org/x", "huggingface", "org/x"),
    (False, "openai/gpt-x", "huggingface", "openai/gpt-x"),
    (True, "openai/gpt-x", "openai", "gpt-x"),
    (True, "openai/ft:gpt-x/y", "openai", "ft:gpt-x/y"),
    (True, "openai/", "huggingface", "openai/"),
    (True, "claude/x", "huggingface", "claude/x"),
]


@pytest.mark.parametrize(("choice", "said", "backend", "model"), NAMES)
@pytest.mark.parametrize("path", ["generate", "v1/chat/completions", "v1/completions"])
def test_names(serve: Serve, log_lines: Log, path: str, choice: bool, said: str, backend: str, model: str) -> None:
    """`backend/model` is the configured backend's, or with ALLOW_MODEL_CHOICE another one's; all else is a name."""
    fakes = {
        "huggingface": Fake("huggingface", *ANSWER, model=OWN, models=[OWN, "org/x:7b"]),
        "openai": Fake("openai", *ANSWER, models=["gpt-x", "ft:gpt-x/y"]),
    }
    client = serve(*fakes.values(), allow_model_choice=choice)
    body = BODIES[CHAT] if "chat" in path else {"prompt": "Hi"}
    reply = client.post(f"/{path}", json=body | {"model": said})
    assert (reply.status_code, reply.headers["X-LLM-Backend"]) == (200, backend)
    assert [request.model for request in fakes[backend].asked] == [model]
    (line,) = log_lines()
    assert (line["requested_backend"], line["backend"], line["request_model"]) == (backend, backend, said)
    assert "X-LLM-Fallback" not in reply.headers


GROQ = ["openai/gpt-oss-120b", "openai/gpt-oss-20b", "llama-3.3-70b"]
MEANT = [
    (GROQ[0], GROQ, "openai/gpt-oss-20b", "openai/gpt-oss-20b"),
    (GROQ[0], GROQ, "openai/gpt-oss-120b", "openai/gpt-oss-120b"),
    (GROQ[0], GROQ, "openai/openai/gpt-oss-20b", "openai/gpt-oss-20b"),
    (GROQ[0], GROQ, "openai/llama-3.3-70b", "llama-3.3-70b"),
    (GROQ[0], GROQ, "openai/nobody-knows", "openai/nobody-knows"),
    ("llama-3.3-70b", GROQ, "openai/gpt-oss-20b", "openai/gpt-oss-20b"),
    (GROQ[0], Unreachable("down"), "openai/gpt-oss-20b", "openai/gpt-oss-20b"),
    (GROQ[0], ValueError("a plugin's"), "openai/gpt-oss-20b", "openai/gpt-oss-20b"),
    (GROQ[0], Unreachable("down"), "openai/openai/gpt-oss-120b", "openai/gpt-oss-120b"),
    ("gpt-6-luna", Unreachable("down"), "openai/gpt-7", "gpt-7"),
    ("gpt-6-luna", ["gpt-6-luna", "gpt-7"], "openai/gpt-7", "gpt-7"),
    ("gpt-6-luna", ["gpt-6-luna"], "openai/gpt-7", "openai/gpt-7"),
    ("gpt-6-luna", [], "openai/gpt-7", "gpt-7"),
    ("llama3:latest", ["llama3", "smol:latest"], "openai/llama3", "llama3"),
    ("llama3:latest", ["llama3", "smol:latest"], "openai/smol", "smol"),
]


@pytest.mark.parametrize(("own", "models", "said", "asked"), MEANT)
def test_a_slash_in_the_names_of_models(serve: Serve, own: str, models: Any, said: str, asked: str) -> None:
    """A name that the backend lists is that model's; its prefix is one only where the rest is listed.

    Where the list can't be had, or is empty, the configured model's own name says whether it is.
    """
    fake = Fake("openai", *ANSWER, model=own, models=models)
    client = serve(fake)
    assert [ask(client, CHAT, model=said).status_code for _ in range(2)] == [200, 200]
    assert [request.model for request in fake.asked] == [asked, asked]


def test_an_exact_name_beats_the_prefix_of_another_backend(serve: Serve) -> None:
    """With ALLOW_MODEL_CHOICE too: the configured backend has a model of the whole name."""
    fakes = [Fake("openai", *ANSWER, models=["claude/x"]), Fake("claude", *ANSWER, models=["x", "y"])]
    client = serve(*fakes, allow_model_choice=True)
    for said in ("claude/x", "claude/y", "claude/z"):
        ask(client, CHAT, model=said)
    assert [[request.model for request in fake.asked] for fake in fakes] == [["claude/x", "claude/z"], ["y"]]


ALIASES = {"claude-*": "default", "gpt-4o": "claude/x", "gpt-*": "openai/big", "*": "default"}


@pytest.mark.parametrize(
    ("said", "backend", "model"),
    [
        ("claude-opus-9", "openai", None),
        ("gpt-4o", "claude", "x"),
        ("gpt-4o-mini", "openai", "big"),
        ("gpt-listed", "openai", "gpt-listed"),
        ("claude-listed", "openai", "claude-listed"),
        ("openai/big", "openai", "big"),
        ("whatever", "openai", None),
    ],
)
@pytest.mark.parametrize("path", ["/generate", CHAT, "/v1/responses"])
def test_aliases(serve: Serve, log_lines: Log, path: str, said: str, backend: str, model: str | None) -> None:
    """A built-in name of a client's is the model that MODEL_ALIASES has for it, but not one that a backend lists.

    The most exact alias counts. Any backend of the chain may be behind one, whatever ALLOW_MODEL_CHOICE says.
    """
    listed = ["big", "x", "gpt-listed", "claude-listed"]
    fakes = {name: Fake(name, *ANSWER, models=listed) for name in ("openai", "claude")}
    client = serve(*fakes.values(), model_aliases=ALIASES)
    reply = ask(client, path, model=said)
    assert (reply.status_code, reply.headers["X-LLM-Backend"]) == (200, backend)
    assert [request.model for request in fakes[backend].asked] == [model]
    (line,) = log_lines()
    assert (line["requested_backend"], line["request_model"]) == (backend, said)
    assert "X-LLM-Fallback" not in reply.headers
    assert client.get("/config").json["model_aliases"] == ALIASES


def test_a_list_is_asked_for_once(serve: Serve) -> None:
    """Requests whose model has a slash don't each wait for it."""
    lists: list[int] = []
    client = serve(Fake("one", *ANSWER, models=lambda: lists.append(1) or ["x"]))
    assert {ask(client, CHAT, model=f"one/{said}").status_code for said in ("x", "y", "z/z")} == {200}
    assert lists == [1]


@pytest.mark.parametrize("said", ["default", "dummy"])
@BOTH
def test_names_for_the_configured_model(serve: Serve, log_lines: Log, path: str, said: str) -> None:
    """A body must name a model: these mean the one that is configured."""
    fake = Fake("one", Chunk("x", "stop"))
    assert ask(serve(fake, allow_model_choice=True), path, model=said).json["model"] == "one/one-model"
    assert fake.asked[0].model is None
    assert (log_lines()[0]["request_model"], log_lines()[0]["model"]) == (None, "one-model")


@pytest.mark.parametrize("path", ["generate", "v1/chat/completions"])
@pytest.mark.parametrize(
    ("said", "asked"),
    [("two/x", ["two", "three"]), ("three/x", ["three", "two"]), ("one/x", ["one", "two", "three"])],
)
def test_chosen_backend_that_fails(serve: Serve, log_lines: Log, path: str, said: str, asked: list[str]) -> None:
    """LLM_FALLBACK goes on without it, with models of their own; its error is told where none of them can."""
    fakes = {name: Fake(name, Overloaded(name), models=["x"]) for name in ("one", "two", "three")}
    client = serve(*fakes.values(), allow_model_choice=True)
    reply = client.post(f"/{path}", json=(BODIES[CHAT] if "v1" in path else {"prompt": "Hi"}) | {"model": said})
    assert (reply.status_code, error_of(reply)["message"]) == (503, asked[0])
    (line,) = log_lines()
    assert [attempt["backend"] for attempt in line["attempts"]] == asked
    assert [fakes[name].asked[0].model for name in asked] == ["x", *[None] * (len(asked) - 1)]
    assert line["requested_backend"] == asked[0]


@STREAMED
def test_fallback_of_a_chosen_backend(serve: Serve, log_lines: Log, stream: bool) -> None:
    """It is told as any other; the configured backend, which is no fallback, isn't asked."""
    one = Fake("one", *ANSWER)
    client = serve(one, Fake("two", Overloaded("m"), models=["x"]), Fake("three", *ANSWER), allow_model_choice=True)
    reply = ask(client, CHAT, model="two/x", stream=stream)
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Fallback"]) == ("three", "overloaded")
    assert reply.data
    (line,) = log_lines()
    assert (line["backend"], line["requested_backend"], line["request_model"]) == ("three", "two", "two/x")
    assert one.asked == []


def test_chosen_backend_without_fallback(serve: Serve) -> None:
    """`fallback: false` asks the chosen one alone."""
    one, two = Fake("one", *ANSWER), Fake("two", Overloaded("m"), models=["x"])
    reply = ask(serve(one, two, allow_model_choice=True), CHAT, model="two/x", fallback=False)
    assert (reply.status_code, one.asked) == (503, [])


# Lists of models


def entry(name: str) -> dict[str, Any]:
    shown = {"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]}
    shown |= {"type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z", "lifecycle": "active"}
    return shown | {"serves": ["json_object", "json_schema"]}


def listing(*names: str) -> dict[str, Any]:
    """Return the list of models, in OpenAI's words and Anthropic's."""
    first, last = (names[0], names[-1]) if names else (None, None)
    ends = {"has_more": False, "first_id": first, "last_id": last}
    return {"object": "list", "data": [entry(name) for name in names], **ends}


@pytest.mark.parametrize(
    ("choice", "names"),
    [(False, ["one/a", "one/org/b:7b"]), (True, ["one/a", "one/org/b:7b", "two/c"])],
)
def test_list_of_models(serve: Serve, choice: bool, names: list[str]) -> None:
    """What a request may name, in the chain's order: other backends' models with ALLOW_MODEL_CHOICE only."""
    one, two = Fake("one", models=["a", "org/b:7b"]), Fake("two", models=["c"])
    reply = serve(one, two, allow_model_choice=choice).get("/v1/models")
    assert reply.status_code == 200
    assert reply.json == listing(*names)


def test_listed_names_are_understood(serve: Serve) -> None:
    """Each name of the list, sent as `model`, reaches its backend as that one calls it."""
    fakes = [Fake("one", *ANSWER, models=["a", "org/b:7b"]), Fake("two", *ANSWER, models=["one/c"])]
    client = serve(*fakes, allow_model_choice=True)
    names = [model["id"] for model in client.get("/v1/models").json["data"]]
    assert names == ["one/a", "one/org/b:7b", "two/one/c"]
    assert all(ask(client, CHAT, model=name).status_code == 200 for name in names)
    assert [[request.model for request in fake.asked] for fake in fakes] == [["a", "org/b:7b"], ["one/c"]]


def test_one_list_that_fails(serve: Serve) -> None:
    """It is left out: the others can be asked."""
    one, two = Fake("one", models=Unreachable("down")), Fake("two", models=["c"])
    reply = serve(one, two, allow_model_choice=True).get("/v1/models")
    assert reply.json == listing("two/c")


def test_all_lists_that_fail(serve: Serve) -> None:
    """Then the configured backend's error is the answer."""
    one, two = Fake("one", models=BadCredentials("first")), Fake("two", models=Unreachable("second"))
    client = serve(one, two, allow_model_choice=True)
    for path in ("/v1/models", "/v1/models/one/a"):
        reply = client.get(path)
        assert (reply.status_code, error_of(reply)["message"]) == (502, "first")
        assert reply.headers["x-should-retry"] == "false"


def test_empty_list(serve: Serve) -> None:
    """A backend without models is none that fails."""
    assert serve(Fake("one", models=[])).get("/v1/models").json == listing()


def test_lists_are_asked_for_at_once(serve: Serve) -> None:
    """A slow backend doesn't add to a slow one: each list here waits for the other."""
    both = threading.Barrier(2)

    def models() -> list[str]:
        both.wait(PATIENCE)
        return ["m"]

    fakes = [Fake(name, models=models) for name in ("one", "two")]
    reply = serve(*fakes, allow_model_choice=True).get("/v1/models")
    assert [model["id"] for model in reply.json["data"]] == ["one/m", "two/m"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("one/a", "one/a"),
        ("one%2Fa", "one/a"),
        ("one/org/b:7b", "one/org/b:7b"),
        ("one%2Forg%2Fb%3A7b", "one/org/b:7b"),
    ],
)
def test_one_model(serve: Serve, path: str, name: str) -> None:
    """Names with slashes and colons have a page, percent-encoded or not."""
    reply = serve(Fake("one", models=["a", "org/b:7b"])).get(f"/v1/models/{path}")
    assert (reply.status_code, reply.json) == (200, entry(name))


@pytest.mark.parametrize("name", ["default", "dummy"])
def test_the_model_that_default_means(serve: Serve, name: str) -> None:
    """It has a page under the name that a body may have, without a question to the backend."""
    reply = serve(Fake("one", models=Unreachable("down"))).get(f"/v1/models/{name}")
    assert (reply.status_code, reply.json) == (200, entry(name) | {"owned_by": "one"})


@BOTH
@STREAMED
def test_a_slash_at_the_end(serve: Serve, log_lines: Log, path: str, stream: bool) -> None:
    """Some clients put one there; the operation in the log is the same."""
    client = serve(Fake("one", *ANSWER))
    reply = client.post(f"{path}/", json=BODIES[path] | {"stream": stream})
    assert (reply.status_code, b"there" in reply.data) == (200, True)
    assert [line["operation"] for line in log_lines()] == [asking.GENERATE[path][1]]


def test_a_slash_after_the_models(serve: Serve) -> None:
    """The list has one too."""
    client = serve(Fake("one", models=["a"]))
    assert client.get("/v1/models/").json == client.get("/v1/models").json == listing("one/a")


@pytest.mark.parametrize("path", ["a", "one/b", "two/c", "one/a/", "one%2Fa%2Fb", "%C3%A9"])
def test_unknown_model(serve: Serve, path: str) -> None:
    """Any other name is a 404 that says what it is: model_not_found. So are those that may not be chosen."""
    reply = serve(Fake("one", models=["a"]), Fake("two", models=["c"])).get(f"/v1/models/{path}")
    error = error_of(reply)
    assert (reply.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["type"] == "invalid_request_error"


def test_lists_are_not_logged(serve: Serve, log_lines: Log) -> None:
    """The log has requests for answers only."""
    client = serve(Fake("one", models=["a"]))
    assert [client.get(path).status_code for path in ("/v1/models", "/v1/models/x")] == [200, 404]
    assert log_lines() == []
