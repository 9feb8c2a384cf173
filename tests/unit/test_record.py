"""The line of each request: every field of the contract, on every way a request can end."""

import hashlib
import json
import time
import tracemalloc
from typing import Any

import pytest
from asking import Log, Serve
from fakes import ANSWER, END, Fake
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder

from llm_api.errors import BadCredentials, ModelNotFound, Overloaded, RequestRefused, ServerError, Unreachable
from llm_api.log.record import LoggedText, TextPolicy
from llm_api.types import Chunk, Usage

FIELDS = {
    *("timestamp", "request_id", "operation", "backend", "requested_backend", "model", "request_model", "prompt"),
    *("system", "response", "parameters", "input_tokens", "output_tokens", "finish_reason", "stream", "duration_ms"),
    *("time_to_first_chunk_ms", "status", "http_status", "error", "fallback", "fallback_reason", "attempts"),
    *("client_ip", "caller", "trace_id", "schema_version"),
}


def end(client: FlaskClient, body: dict[str, Any], log_lines: Log, *, leave_after: int | None = None) -> dict[str, Any]:
    """Send the body, read the answer (or only some pieces of it), and return the one line that has come of it."""
    answer = client.post("/generate", json=body, buffered=False)
    pieces = iter(answer.response)
    if leave_after is None:
        list(pieces)
    else:
        for _ in range(leave_after):
            next(pieces)
    answer.close()
    (line,) = log_lines()
    return line


def check_measures(line: dict[str, Any], began: float) -> None:
    """Check, and take away, what differs from run to run."""
    assert began <= line.pop("timestamp") <= time.time()
    assert len(line.pop("request_id")) == 32
    duration, first = line.pop("duration_ms"), line.pop("time_to_first_chunk_ms")
    assert 0 <= duration < 30_000
    assert first is None or 0 <= first <= duration
    assert (first is None) == (not line["response"])
    for attempt in line["attempts"]:
        assert 0 <= attempt.pop("duration_ms") <= duration + 1


BODY = {
    "prompt": "Hello",
    "system": "Be kind.",
    "model": "special",
    "max_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.9,
    "stop": ["END"],
    "seed": 7,
}
ASKED = {
    "operation": "generate",
    "requested_backend": "one",
    "request_model": "special",
    "prompt": "Hello",
    "system": "Be kind.",
    "parameters": {name: value for name, value in BODY.items() if name not in ("prompt", "system", "model")},
    "client_ip": "127.0.0.1",
    "caller": None,
    "trace_id": None,
    "schema_version": 2,
}
OK = {
    "backend": "one",
    "model": "model-it-named",
    "response": "Hi there",
    "input_tokens": 3,
    "output_tokens": 2,
    "finish_reason": "stop",
    "status": "ok",
    "http_status": 200,
    "error": None,
    "fallback": False,
    "fallback_reason": None,
    "attempts": [{"backend": "one", "outcome": "ok"}],
}
NOTHING = dict.fromkeys(("backend", "model", "response", "input_tokens", "output_tokens", "finish_reason")) | {
    "fallback": False,
    "fallback_reason": None,
}


def error(code: str, message: str, kind: str = "backend_error") -> dict[str, str]:
    return {"type": kind, "code": code, "message": message}


@pytest.mark.parametrize("stream", [False, True])
def test_ok(serve: Serve, log_lines: Log, stream: bool) -> None:
    """Every field of an answer that is complete."""
    began = time.time()
    line = end(serve(Fake("one", *ANSWER)), BODY | {"stream": stream}, log_lines)
    assert line.keys() == FIELDS
    check_measures(line, began)
    assert line == ASKED | OK | {"stream": stream}


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_not_said_is_null(serve: Serve, log_lines: Log, stream: bool) -> None:
    """A prompt alone: no parameters, no system message, no model asked for, no counts."""
    line = end(serve(Fake("one", Chunk("x", "length"))), {"prompt": "Hello", "stream": stream}, log_lines)
    assert line.keys() == FIELDS
    assert (line["system"], line["request_model"], line["parameters"]) == (None, None, {})
    assert (line["model"], line["input_tokens"], line["output_tokens"]) == ("one-model", None, None)
    assert line["finish_reason"] == "length"


SCHEMA = {"type": "object", "required": ["a"]}


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        ({"type": "json_object"}, {"response_format": {"type": "json_object"}}),
        (SCHEMA, {"response_format": SCHEMA}),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}, {"response_format": SCHEMA}),
        ({"type": "text"}, {}),
    ],
)
def test_json_that_was_asked_for(serve: Serve, log_lines: Log, said: dict[str, Any], logged: dict[str, Any]) -> None:
    """A schema is logged as such, however it was wrapped, beside the other parameters."""
    client = serve(Fake("one", Chunk('{"a": 1}'), END))
    line = end(client, {"prompt": "x", "seed": 7, "response_format": said}, log_lines)
    assert (line["parameters"], line["response"]) == ({"seed": 7} | logged, '{"a": 1}')


@pytest.mark.parametrize("stream", [False, True])
def test_fallback(serve: Serve, log_lines: Log, stream: bool) -> None:
    """Who answered, who should have, and why not, in words."""
    began = time.time()
    client = serve(Fake("one", Overloaded("busy", detail="try later")), Fake("two", *ANSWER))
    line = end(client, BODY | {"stream": stream}, log_lines)
    check_measures(line, began)
    failed = {"backend": "one", "outcome": "overloaded", "message": "busy: try later"}
    attempts = [failed, {"backend": "two", "outcome": "ok"}]
    fallback = {"backend": "two", "fallback": True, "fallback_reason": "overloaded", "attempts": attempts}
    assert line == ASKED | OK | fallback | {"stream": stream}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "status", "told"),
    [
        (Unreachable("down"), 503, error("unreachable", "down")),
        (ModelNotFound("no", detail="no model x"), 404, error("model_not_found", "no: no model x")),
        (RequestRefused("no", code="bad"), 400, error("bad", "no", "invalid_request_error")),
    ],
)
def test_error(
    serve: Serve, log_lines: Log, failure: Exception, status: int, told: dict[str, str], stream: bool
) -> None:
    """Nobody answered: no backend, no text, but the prompt and the attempt."""
    began = time.time()
    line = end(serve(Fake("one", failure)), BODY | {"stream": stream}, log_lines)
    assert line.keys() == FIELDS
    check_measures(line, began)
    expected = {"status": "error", "http_status": status, "error": told, "stream": stream}
    attempt = {"backend": "one", "outcome": told["code"], "message": told["message"]}
    assert line == ASKED | NOTHING | expected | {"attempts": [attempt]}


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (Overloaded("busy", detail="at canary"), {"message": "busy"}),
        (Overloaded("busy"), {"message": "busy"}),
        (BadCredentials("no key"), {"message": "no key"}),
    ],
)
def test_reasons_of_attempts_without_prompts(
    serve: Serve, log_lines: Log, failure: Exception, told: dict[str, str]
) -> None:
    """With LOG_PROMPTS=false an attempt says why in our words only: an upstream's may quote the prompt."""
    client = serve(Fake("one", failure), Fake("two", *ANSWER), log_prompts=False)
    first, second = end(client, BODY, log_lines)["attempts"]
    assert first == first | told
    assert "canary" not in json.dumps(first)
    assert "message" not in second


def test_a_refusal_is_an_attempt_without_words(serve: Serve, log_lines: Log) -> None:
    """What a refusal says is about the request, so with LOG_PROMPTS=false none of it is kept."""
    line = end(serve(Fake("one", RequestRefused("canary", code="bad")), log_prompts=False), BODY, log_lines)
    assert "message" not in line["attempts"][0]


def test_reasons_of_attempts_are_redacted(serve: Serve, log_lines: Log) -> None:
    """A key that an upstream quotes is not in the log after a fallback either."""
    key = "test-key-0123456789"
    client = serve(Fake("one", ServerError("no", detail=f"with {key}")), Fake("two", *ANSWER), openai_api_key=key)
    assert end(client, BODY, log_lines)["attempts"][0]["message"] == "no: with [redacted]"


@pytest.mark.parametrize("stream", [False, True])
def test_a_bug(serve: Serve, log_lines: Log, stream: bool) -> None:
    """An exception nobody foresaw is a line too, without its text."""
    line = end(serve(Fake("one", RuntimeError("canary"))), BODY | {"stream": stream}, log_lines)
    assert line.keys() == FIELDS
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("error", 500, "internal_error")
    assert (line["prompt"], line["backend"], line["response"]) == ("Hello", None, None)
    assert "canary" not in json.dumps(line)


def test_a_bug_is_an_attempt(serve: Serve, log_lines: Log) -> None:
    """The log says which backend it was that broke."""
    line = end(serve(Fake("one", RuntimeError("x"))), BODY, log_lines)
    assert [a["backend"] for a in line["attempts"]] == ["one"]


def test_refused(serve: Serve, log_lines: Log) -> None:
    """A body that is wrong is logged without what stood in it."""
    began = time.time()
    line = end(serve(Fake("one", *ANSWER)), {"prompt": "canary", "max_tokens": 0}, log_lines)
    assert line.keys() == FIELDS
    check_measures(line, began)
    assert line["error"].pop("message").startswith("max_tokens: ")
    nothing = dict.fromkeys(("request_model", "prompt", "system", "stream")) | {"parameters": {}, "attempts": []}
    told = {"status": "error", "http_status": 422}
    told |= {"error": {"type": "invalid_request_error", "code": "validation_failed"}}
    assert line == ASKED | NOTHING | nothing | told


ABORTED = {
    "status": "aborted",
    "error": error("client_gone", "the client went away before the answer was complete", "client_error"),
    "model": "special",
    "stream": True,
    **dict.fromkeys(("input_tokens", "output_tokens", "finish_reason")),
}


@pytest.mark.parametrize(("pieces", "text"), [(1, "Hi "), (2, "Hi there")])
def test_aborted(serve: Serve, log_lines: Log, pieces: int, text: str) -> None:
    """A client that leaves a stream leaves a line with the text so far, and the backend is stopped."""
    began = time.time()
    one = Fake("one", *ANSWER)
    line = end(serve(one), BODY | {"stream": True}, log_lines, leave_after=pieces)
    check_measures(line, began)
    assert line == ASKED | OK | ABORTED | {"response": text}
    assert one.closed == 1


def test_aborted_before_the_first_byte(serve: Serve, log_lines: Log) -> None:
    """A WSGI server may close an answer that it never began to send: the line is written all the same, once."""
    one = Fake("one", *ANSWER)
    began = time.time()
    environ = EnvironBuilder("/generate", method="POST", json=BODY | {"stream": True}).get_environ()
    answer = serve(one).application.wsgi_app(environ | {"REMOTE_ADDR": "127.0.0.1"}, lambda *args: lambda data: None)
    assert log_lines() == []
    answer.close()
    answer.close()
    (line,) = log_lines()
    check_measures(line, began)
    assert line == ASKED | OK | ABORTED | {"response": ""}
    assert one.closed == 1


def test_a_stream_is_logged_before_its_last_line_leaves(serve: Serve, log_lines: Log) -> None:
    """Pieces go out at once; the final line only when the log has the whole answer."""
    client = serve(Fake("one", *ANSWER))
    answer = client.post("/generate", json=BODY | {"stream": True}, buffered=False)
    pieces = iter(answer.response)
    assert (next(pieces), next(pieces), log_lines()) == (b'{"response": "Hi "}\n', b'{"response": "there"}\n', [])
    assert b'"done": true' in next(pieces)
    (line,) = log_lines()
    assert (line["status"], line["response"]) == ("ok", "Hi there")
    answer.close()
    assert len(log_lines()) == 1


def test_a_client_that_leaves_with_the_last_line_changes_nothing(serve: Serve, log_lines: Log) -> None:
    """What is complete stays ok."""
    assert end(serve(Fake("one", *ANSWER)), BODY | {"stream": True}, log_lines, leave_after=3)["status"] == "ok"


@pytest.mark.parametrize(
    ("failure", "code"),
    [((ServerError("broke"),), "server_error"), ((), "invalid_answer"), ((RuntimeError("a bug"),), "internal_error")],
    ids=["error", "cut short", "bug"],
)
def test_an_error_in_a_stream(serve: Serve, log_lines: Log, failure: tuple[Exception, ...], code: str) -> None:
    """The status that went out, the error, and the text that went out before it."""
    line = end(serve(Fake("one", Chunk("half"), *failure), Fake("two")), BODY | {"stream": True}, log_lines)
    assert line.keys() == FIELDS
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("error", 200, code)
    assert (line["backend"], line["response"], line["finish_reason"]) == ("one", "half", None)
    assert (line["fallback"], line["fallback_reason"]) == (False, None)


def test_each_request_has_one_line(serve: Serve, log_lines: Log) -> None:
    """In the order of their ends, under their ids."""
    client = serve(Fake("one", *ANSWER))
    for number, body in enumerate([BODY, {}, BODY | {"stream": True}, {"prompt": 1}, {"prompt": "x"}]):
        assert client.post("/generate", json=body, headers={"X-Request-ID": f"id-{number}"}).data
    assert [line["request_id"] for line in log_lines()] == [f"id-{number}" for number in range(5)]


@pytest.mark.parametrize("count", [float("nan"), float("inf"), 1.5, "3", True, [3], {}])
def test_a_count_that_is_no_number_comes_no_further(count: Any) -> None:
    """Counts are the upstream's words: a NaN among them would make a line that can't be written."""
    with pytest.raises(TypeError):
        Usage(count, 1)
    with pytest.raises(TypeError):
        Usage(1, count)


# --- LOG_PROMPTS=false

CANARY = "canary-51c9"
QUOTING = RequestRefused("refused", detail=f"you said {CANARY}")
TALK = [Chunk(f'{{"well": "{CANARY}'), Chunk('!"}'), END]
SAID = {"prompt": f"my {CANARY}", "system": f"you are {CANARY}", "stop": [CANARY]}
JSON = {"response_format": {"type": "object", "title": CANARY}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("form", [{}, JSON], ids=["text", "JSON"])
@pytest.mark.parametrize(
    ("turns", "status"),
    [
        (TALK, "ok"),
        ([QUOTING], "error"),
        ([ModelNotFound("no", detail=CANARY)], "error"),
        ([RuntimeError(CANARY)], "error"),
        ([ValueError(SAID)], "error"),
        ([Chunk(CANARY), ServerError("broke", detail=CANARY)], "error"),
        ([Chunk(CANARY), QUOTING], "error"),
        ([Chunk(CANARY), RuntimeError(CANARY)], "error"),
        ([Chunk(CANARY)], "error"),
    ],
    ids=["ok", "refused", "no model", "bug", "bug with the body", "broke", "refused late", "bug late", "cut short"],
)
def test_nothing_said_is_logged(
    serve: Serve,
    log_path: Any,
    log_lines: Log,
    caplog: pytest.LogCaptureFixture,
    turns: list[Any],
    status: str,
    form: dict[str, Any],
    stream: bool,
) -> None:
    """With LOG_PROMPTS=false no prompt, system message, stop text, schema or answer is in the log or on stderr."""
    line = end(serve(Fake("one", *turns), log_prompts=False), SAID | form | {"stream": stream}, log_lines)
    assert line["status"] == status
    assert CANARY not in log_path.read_text()
    assert CANARY not in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "x", CANARY: 1},
        {"prompt": [CANARY]},
        {"prompt": CANARY, "system": 1},
        {"prompt": "x", "model": CANARY + "\n"},
        {"prompt": "x", "response_format": CANARY},
        {"prompt": CANARY * 100},
    ],
)
def test_nothing_of_a_refused_body_is_logged(serve: Serve, log_path: Any, log_lines: Log, body: dict[str, Any]) -> None:
    """Nor is anything of a body that was wrong, the names of its fields among it."""
    line = end(serve(Fake("one", *TALK), log_prompts=False, max_prompt_chars=1000), body, log_lines)
    assert (line["http_status"], line["error"]["code"]) == (422, "validation_failed")
    assert CANARY not in log_path.read_text()


@pytest.mark.parametrize("form", [{}, JSON], ids=["text", "JSON"])
@pytest.mark.parametrize("pieces", [1, 2])
def test_nothing_of_an_aborted_stream_is_logged(
    serve: Serve, log_path: Any, log_lines: Log, pieces: int, form: dict[str, Any]
) -> None:
    """Nor of an answer that was left."""
    body = SAID | form | {"stream": True}
    line = end(serve(Fake("one", *TALK), log_prompts=False), body, log_lines, leave_after=pieces)
    assert line["status"] == "aborted"
    assert CANARY not in log_path.read_text()


def test_length_and_hash_stand_in_for_a_text(serve: Serve, log_lines: Log) -> None:
    """So that the same prompt can be recognised, and its size counted, without its being kept."""
    body = {"prompt": "Grüße 😀", "system": "Be kind."}
    line = end(serve(Fake("one", *ANSWER), log_prompts=False), body, log_lines)
    for name, text in [("prompt", "Grüße 😀"), ("system", "Be kind."), ("response", "Hi there")]:
        assert name not in line
        assert line[f"{name}_chars"] == len(text)
        assert line[f"{name}_sha256"] == hashlib.sha256(text.encode()).hexdigest()


# --- LOG_MAX_TEXT


@pytest.mark.parametrize(
    ("text", "kept", "size"),
    [
        ("", "", None),
        ("12345", "12345", None),
        ("123456", "12345", 6),
        ("ééééé", "ééééé", None),
        ("éééééé", "ééééé", 12),
        ("😀" * 6, "😀" * 5, 24),
    ],
)
def test_long_texts_are_cut(text: str, kept: str, size: int | None, serve: Serve, log_lines: Log) -> None:
    """LOG_MAX_TEXT counts characters; a cut text says so, and how many bytes it had."""
    client = serve(Fake("one", *map(Chunk, text), END), log_max_text=5)
    line = end(client, {"prompt": text or "x", "system": text}, log_lines)
    names = ["response", "prompt", "system"] if text else ["response"]
    assert {name: line[name] for name in names} == dict.fromkeys(names, kept)
    for name in names:
        assert line.get(f"{name}_bytes") == size
        assert line.get(f"{name}_truncated") == (None if size is None else True)


def test_nothing_is_kept_with_a_limit_of_zero(serve: Serve, log_lines: Log) -> None:
    """LOG_MAX_TEXT=0 is allowed, and keeps the sizes only."""
    line = end(serve(Fake("one", *ANSWER), log_max_text=0), {"prompt": "Hello"}, log_lines)
    assert (line["prompt"], line["prompt_truncated"], line["prompt_bytes"]) == ("", True, 5)
    assert (line["response"], line["response_bytes"]) == ("", 8)


@pytest.mark.parametrize(
    "body", [{"stop": ["s" * 50_000]}, {"response_format": {"title": "s" * 50_000}}], ids=["stop", "schema"]
)
def test_long_parameters_are_cut(serve: Serve, log_lines: Log, body: dict[str, Any]) -> None:
    """Stop texts and schemas are the client's texts too."""
    line = end(serve(Fake("one", Chunk("{}"), END), log_max_text=100), {"prompt": "x"} | body, log_lines)
    assert line["status"] == "ok"
    assert len(json.dumps(line)) < 5_000


@pytest.mark.parametrize("log_prompts", [True, False])
def test_memory_is_bounded(log_prompts: bool) -> None:
    """A stream of any length takes the memory of what is kept of it."""
    text = LoggedText(TextPolicy(shown=log_prompts, most=1000))
    piece = "x" * 10_000
    tracemalloc.start()
    try:
        for _ in range(1_000):
            text.add(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000
    fields = text.fields("response")
    if log_prompts:
        assert fields == {"response": "x" * 1000, "response_truncated": True, "response_bytes": 10_000_000}
    else:
        assert fields["response_chars"] == 10_000_000


def test_many_small_pieces_are_bounded() -> None:
    """Pieces beyond the limit are not kept one by one either."""
    text = LoggedText(TextPolicy(shown=True, most=10))
    tracemalloc.start()
    try:
        for _ in range(20_000):
            text.add("xy")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000  # 20,000 kept pieces take ten times that; other threads take some
    assert text.fields("r") == {"r": "xyxyxyxyxy", "r_truncated": True, "r_bytes": 40_000}


# --- keys


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "turns",
    [
        [Chunk("your key is sk-canary-0123"), END],
        [Chunk("your key is sk-can"), Chunk("ary-0123"), END],
        [RequestRefused("refused", detail="key sk-canary-0123")],
        [Unreachable("key sk-canary-0123")],
        [RuntimeError("GET http://user:sk-canary-0123@host failed")],
        [Chunk("half"), RuntimeError("sk-canary-0123")],
    ],
    ids=["text", "text in pieces", "detail", "message", "bug", "late bug"],
)
def test_a_key_is_nowhere(
    serve: Serve, log_path: Any, log_lines: Log, caplog: pytest.LogCaptureFixture, turns: list[Any], stream: bool
) -> None:
    """Neither in the log nor on stderr, whatever brings it: an exception's text may hold a URL or a key."""
    end(serve(Fake("one", *turns), openai_api_key="sk-canary-0123"), BODY | {"stream": stream}, log_lines)
    assert "canary" not in log_path.read_text()
    assert "canary" not in caplog.text
