"""POST /generate as the outside sees it: fields, headers, details, streams, request ids and the error envelope."""

import json
import re
from typing import Any

import pytest
from asking import Serve, error_of, lines_of
from fakes import END, FAILURES, Fake, message
from werkzeug.test import TestResponse

from llm_api.errors import (
    LLMAPIError,
    Overloaded,
    RequestRefused,
    ServerError,
    TimedOut,
)
from llm_api.types import Chunk, GenerationRequest, ResponseFormat


def test_the_answer_is_exactly_the_response(make_client: Serve) -> None:
    """A 200 has one field; who answered stands in the headers, and a stub's text says that it is one."""
    answer = make_client().post("/generate", json={"prompt": "Hello, you"})
    assert (answer.status_code, answer.mimetype) == (200, "application/json")
    assert answer.json == {
        "response": "[stub] This is a stub: no language model answered. The prompt has 10 characters: Hello, you"
    }
    assert (answer.headers["X-LLM-Backend"], answer.headers["X-LLM-Model"]) == ("stub", "stub")
    assert "X-LLM-Fallback" not in answer.headers
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_details(serve: Serve) -> None:
    """`details: true` adds exactly the fields of the contract, with the backend's own counts and model name."""
    client = serve(Fake("fake", Chunk("Hi "), Chunk("there"), END), llm_backend="fake")
    body = client.post("/generate", json={"prompt": "x", "details": True}, headers={"X-Request-ID": "id-1"}).get_json()
    assert body.keys() == {"response", "details"}
    assert body["response"] == "Hi there"
    assert 0 <= body["details"].pop("duration_ms") < 10_000
    assert body["details"] == {
        "request_id": "id-1",
        "backend": "fake",
        "model": "model-it-named",
        "finish_reason": "stop",
        "usage": {"input_tokens": 3, "output_tokens": 2},
        "fallback": False,
        "fallback_reason": None,
    }


def test_usage_that_a_backend_does_not_say_is_null(serve: Serve) -> None:
    """Counts are the backend's or null, never a guess."""
    body = serve(Fake("fake", Chunk("x", "length"))).post("/generate", json={"prompt": "x", "details": True}).get_json()
    assert body["details"]["usage"] == {"input_tokens": None, "output_tokens": None}
    assert (body["details"]["finish_reason"], body["details"]["model"]) == ("length", "fake-model")


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({}, "messages", (message("user", "x"),)),
        ({"system": "Be kind."}, "messages", (message("system", "Be kind."), message("user", "x"))),
        ({"system": ""}, "messages", (message("user", "x"),)),
        ({"prompt": " \n"}, "messages", (message("user", " \n"),)),
        ({"model": "some/model:7b"}, "model", "some/model:7b"),
        ({"max_tokens": 1}, "max_tokens", 1),
        ({"max_tokens": 40.0}, "max_tokens", 40),
        ({"temperature": 0}, "temperature", 0),
        ({"temperature": 2}, "temperature", 2),
        ({"temperature": 0.7}, "temperature", 0.7),
        ({"top_p": 1}, "top_p", 1),
        ({"top_p": 0.001}, "top_p", 0.001),
        ({"stop": "END"}, "stop", ("END",)),
        ({"stop": ["a", "b", "c", "d"]}, "stop", ("a", "b", "c", "d")),
        ({"stop": []}, "stop", ()),
        ({"seed": -1}, "seed", -1),
        ({"seed": 2**63 - 1}, "seed", 2**63 - 1),
        ({"stream": True}, "stream", True),
        ({"fallback": False}, "fallback", False),
        ({"response_format": {"type": "json_object"}}, "response_format", ResponseFormat()),
        ({"response_format": SCHEMA}, "response_format", ResponseFormat(SCHEMA)),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
            "response_format",
            ResponseFormat(SCHEMA, "n"),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": True}}},
            "response_format",
            ResponseFormat(SCHEMA, strict=True),
        ),
        ({"response_format": {"type": "text"}}, "response_format", None),
    ],
)
def test_each_field_reaches_the_backend(serve: Serve, body: dict[str, Any], field: str, value: Any) -> None:
    """The backend gets each field as it was said, and None or the default for every other."""
    fake = Fake("fake", Chunk("{}"), END)
    assert serve(fake).post("/generate", json={"prompt": "x"} | body).status_code == 200
    unsaid = GenerationRequest(messages=(message("user", "x"),), is_prompt=True)
    assert getattr(fake.asked[0], field) == value
    assert type(getattr(fake.asked[0], field)) is type(value)
    for name in GenerationRequest.__dataclass_fields__:
        if name != field:
            assert getattr(fake.asked[0], name) == getattr(unsaid, name)


@pytest.mark.parametrize(("name", "shown"), [("naïve\r\nX-Evil: 1", "na?ve??X-Evil: 1"), ("m" * 300, "m" * 200)])
def test_a_model_name_cannot_break_the_header(serve: Serve, name: str, shown: str) -> None:
    """A model's name comes from outside: the header has printable ASCII only, and is bounded."""
    answer = serve(Fake("fake", Chunk("x", "stop", model=name))).post("/generate", json={"prompt": "x"})
    assert answer.headers["X-LLM-Model"] == shown
    assert "X-Evil" not in answer.headers


def test_an_answer_with_hostile_characters_is_valid_json(serve: Serve) -> None:
    """NUL and line separators of an upstream come out escaped, in one line of ASCII."""
    text = "\x00\u2028é\x1b"
    client = serve(Fake("fake", Chunk(text), END))
    whole = client.post("/generate", json={"prompt": "x"})
    assert whole.data.isascii()
    assert whole.data.count(b"\n") == 1
    assert json.loads(whole.data) == {"response": text}
    stream = client.post("/generate", json={"prompt": "x", "stream": True})
    assert lines_of(stream)[0] == {"response": text}


def test_a_stream_is_one_object_a_line(serve: Serve) -> None:
    """Pieces come as they are; the last line says done and why, and nothing else without `details`."""
    answer = serve(Fake("fake", Chunk("Hi "), Chunk(""), Chunk("there"), END)).post(
        "/generate", json={"prompt": "x", "stream": True}
    )
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/x-ndjson")
    assert (answer.headers["X-Accel-Buffering"], answer.headers["Cache-Control"]) == ("no", "no-cache")
    assert answer.headers["X-LLM-Backend"] == "fake"
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-ID"])
    assert lines_of(answer) == [
        {"response": "Hi "},
        {"response": "there"},
        {"response": "", "done": True, "finish_reason": "stop"},
    ]


def test_a_last_chunk_with_text_gives_two_lines(serve: Serve) -> None:
    """The last line's response is empty even where the last piece and the end came together."""
    answer = serve(Fake("fake", Chunk("all", "length"))).post("/generate", json={"prompt": "x", "stream": True})
    assert lines_of(answer) == [{"response": "all"}, {"response": "", "done": True, "finish_reason": "length"}]


def test_a_stream_with_details(serve: Serve) -> None:
    """`details` stands in the last line only."""
    client = serve(Fake("fake", Chunk("Hi"), END), llm_backend="fake")
    first, last = lines_of(client.post("/generate", json={"prompt": "x", "stream": True, "details": True}))
    assert first == {"response": "Hi"}
    assert last["details"]["usage"] == {"input_tokens": 3, "output_tokens": 2}
    assert last["details"].keys() == {
        *("request_id", "backend", "model", "finish_reason", "usage", "duration_ms", "fallback", "fallback_reason")
    }


@pytest.mark.parametrize("stream", [False, True])
def test_the_header_names_the_model_that_answered(serve: Serve, stream: bool) -> None:
    """X-LLM-Model is the name that the first chunk gave, as in `details`, streamed or not."""
    client = serve(Fake("fake", Chunk("Hi", model="model-it-named"), END))
    answer = client.post("/generate", json={"prompt": "x", "stream": stream})
    assert answer.headers["X-LLM-Model"] == "model-it-named"


def test_a_stream_that_fails_before_its_first_chunk_has_a_true_status(serve: Serve) -> None:
    """The first chunk is fetched before the status goes out."""
    answer = serve(Fake("fake", Overloaded("busy"))).post("/generate", json={"prompt": "x", "stream": True})
    assert (answer.status_code, answer.mimetype) == (503, "application/json")
    assert answer.get_json()["error"]["code"] == "overloaded"


@pytest.mark.parametrize(
    ("turns", "code"),
    [
        ((Chunk("Hi"), ServerError("it broke")), "server_error"),
        ((Chunk("Hi"), TimedOut("too long")), "timeout"),
        ((Chunk("Hi"),), "invalid_answer"),
        ((Chunk("Hi"), RuntimeError("a bug")), "internal_error"),
    ],
)
def test_an_error_in_a_stream_is_its_last_line(serve: Serve, turns: tuple[Chunk | Exception, ...], code: str) -> None:
    """After the first chunk the status is out: an error of any kind is a last line with `done`, never a torn stream."""
    answer = serve(Fake("fake", *turns), Fake("other")).post("/generate", json={"prompt": "x", "stream": True})
    first, last = lines_of(answer)
    assert answer.status_code == 200
    assert first == {"response": "Hi"}
    assert last.keys() == {"error", "done"}
    assert last["done"] is True
    assert last["error"].keys() == {"message", "type", "code", "param"}
    assert last["error"]["code"] == code


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        *((said, True) for said in ("a", "A-z0.9_", "x" * 64)),
        *((said, False) for said in ("", "x" * 65, "a b", "a/b", "é", "a,b")),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/health", "/config", "/nowhere"])
def test_request_id(make_client: Serve, path: str, said: str, taken: bool) -> None:
    """An id is taken over only if it is safe to repeat, else one is made; every answer carries it, errors too."""
    client = make_client()
    answer = client.open(path, method="POST" if path == "/generate" else "GET", headers={"X-Request-ID": said})
    given = answer.headers["X-Request-ID"]
    assert given == said if taken else re.fullmatch(r"[0-9a-f]{32}", given)
    if answer.status_code >= 400:
        assert answer.get_json()["request_id"] == given


def check_error(answer: TestResponse, status: int, code: str) -> dict[str, Any]:
    """Return the error of an answer that has this status and code."""
    error = error_of(answer)
    assert (answer.status_code, answer.mimetype, error["code"]) == (status, "application/json", code)
    return error


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/generate", {"POST", "OPTIONS"}),
        ("DELETE", "/generate", {"POST", "OPTIONS"}),
        ("POST", "/health", {"GET", "HEAD", "OPTIONS"}),
        ("PUT", "/config", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_405(make_client: Serve, method: str, path: str, allowed: set[str]) -> None:
    """A wrong method is the API's JSON, with Allow."""
    answer = make_client().open(path, method=method)
    assert check_error(answer, 405, "method_not_allowed")["type"] == "invalid_request_error"
    assert set(answer.headers["Allow"].split(", ")) == allowed


@pytest.mark.parametrize("path", ["/nowhere", "/generate/", "/generate/more", "/static/x", "/%00", "/%ff"])
def test_404(make_client: Serve, path: str) -> None:
    """An unknown path is the API's JSON."""
    assert check_error(make_client().get(path), 404, "not_found")["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1//completions", "/generate//", "/v1/models//x", "/docs//x"])
def test_404_of_a_double_slash(make_client: Serve, path: str) -> None:
    """A slash too many is an unknown path too, not a redirect in HTML."""
    for method in ("GET", "POST"):
        check_error(make_client().open(path, method=method), 404, "not_found")


@pytest.mark.parametrize(
    ("settings", "request_", "status", "code"),
    [
        ({}, {"data": "{", "content_type": "application/json"}, 400, "malformed_json"),
        ({"max_body_bytes": 10}, {"json": {"prompt": "long enough"}}, 413, "body_too_large"),
        ({}, {"data": "prompt=x", "content_type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        ({}, {"json": {}}, 422, "validation_failed"),
    ],
)
def test_what_a_client_does_wrong(
    make_client: Serve, settings: dict[str, Any], request_: dict[str, Any], status: int, code: str
) -> None:
    """Each mistake has its status and code, and no Retry-After: the same request would fail again."""
    answer = make_client(**settings).post("/generate", **request_)
    assert check_error(answer, status, code)["type"] == "invalid_request_error"
    assert "Retry-After" not in answer.headers


def test_a_validation_error_names_every_wrong_field(make_client: Serve) -> None:
    """422 adds `fields`, all of them, and blames the first."""
    answer = make_client().post("/generate", json={"max_tokens": 0, "top_p": 0, "temperature": 3})
    error = check_error(answer, 422, "validation_failed")
    fields = answer.get_json()["fields"]
    assert fields.keys() == {"prompt", "max_tokens", "top_p", "temperature"}
    assert fields["prompt"] == ["Missing data for required field."]
    assert error["param"] in fields
    assert " (and 3 more" in error["message"]


@pytest.mark.parametrize(
    ("error", "status", "code", "retry_after"),
    [
        *FAILURES,
        (RequestRefused("m", code="content_policy", param="prompt"), 400, "content_policy", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_backend_does_wrong(
    serve: Serve, error: LLMAPIError, status: int, code: str, retry_after: str | None, stream: bool
) -> None:
    """Each failure has the contract's status; 429 and 503 say when to come again; 401 is never passed on."""
    answer = serve(Fake("fake", error)).post("/generate", json={"prompt": "x", "stream": stream})
    said = check_error(answer, status, code)
    assert (said["message"], said["param"]) == ("m", error.param)
    assert answer.headers.get("Retry-After") == retry_after


def test_a_bug_is_a_500_that_says_nothing(serve: Serve) -> None:
    """An exception nobody foresaw is the API's JSON, without the exception's text."""
    answer = serve(Fake("fake", RuntimeError("http://user:hunter22@host"))).post("/generate", json={"prompt": "x"})
    assert check_error(answer, 500, "internal_error")["type"] == "server_error"
    assert b"hunter22" not in answer.data


def test_what_an_upstream_says_of_the_request_is_shown(serve: Serve) -> None:
    """The client sees our words and the provider's."""
    answer = serve(Fake("fake", RequestRefused("fake refused the request", detail="too long")))
    said = answer.post("/generate", json={"prompt": "x"}).get_json()["error"]
    assert said["message"] == "fake refused the request: too long"


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_that_an_upstream_quotes_does_not_reach_the_client(serve: Serve, stream: bool) -> None:
    """A key is redacted by value wherever it turns up, also in a provider's complaint."""
    refused = RequestRefused("fake refused the request", detail="bad key sk-canary-0123456789")
    turns = (Chunk("Hi"), refused) if stream else (refused,)
    client = serve(Fake("fake", *turns), openai_api_key="sk-canary-0123456789")
    assert b"sk-canary" not in client.post("/generate", json={"prompt": "x", "stream": stream}).data


def test_an_answer_that_cannot_be_logged_is_not_given(make_client: Serve, log_path: Any) -> None:
    """Without its line in the log an answer stays here: 503 log_unavailable."""
    client = make_client()
    log_path.parent.write_text("a file where the folder should be")
    answer = client.post("/generate", json={"prompt": "x"})
    check_error(answer, 503, "log_unavailable")
    assert answer.headers["Retry-After"] == "1"


def test_a_stream_that_cannot_be_logged_does_not_end_well(make_client: Serve, log_path: Any) -> None:
    """The final line of a stream is held back until the log has it; here it is an error."""
    client = make_client()
    log_path.parent.write_text("a file where the folder should be")
    *pieces, last = lines_of(client.post("/generate", json={"prompt": "x", "stream": True}))
    assert pieces
    assert all(piece.keys() == {"response"} for piece in pieces)
    assert (last["done"], last["error"]["code"]) == (True, "log_unavailable")
