"""Bodies from strangers (reliability.md, section 4): each is the API's JSON error and one line that parses."""

import io
import json
import logging
from typing import Any

import pytest
from asking import Log, Serve
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

CANARY = "canary-7f3a"
PROMPT = b'{"prompt": "canary-7f3a"'


def post(client: FlaskClient, body: bytes, content_type: str = "application/json", **more: Any) -> TestResponse:
    return client.post("/generate", data=body, content_type=content_type, **more)


def check_refused(answer: TestResponse, status: int, code: str, log_lines: Log) -> dict[str, Any]:
    """Check the envelope and the one line in the log; return the answer's body."""
    body: dict[str, Any] = answer.get_json()
    assert (answer.status_code, answer.mimetype) == (status, "application/json")
    assert body.keys() == ({"error", "request_id", "fields"} if status == 422 else {"error", "request_id"})
    assert body["error"].keys() == {"message", "type", "code", "param"}
    assert (body["error"]["type"], body["error"]["code"]) == ("invalid_request_error", code)
    (line,) = log_lines()
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("error", status, code)
    assert [line["request_id"]] == [body["request_id"]] == answer.headers.getlist("X-Request-ID")
    assert (line["prompt"], line["system"], line["response"]) == (None, None, None)
    assert (line["parameters"], line["attempts"], line["backend"]) == ({}, [], None)
    assert CANARY not in json.dumps(line)
    return body


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" \n", id="blank"),
        pytest.param(b"{", id="cut short"),
        pytest.param(PROMPT, id="cut short in the prompt"),
        pytest.param(PROMPT + b"} canary-7f3a", id="something after the end"),
        pytest.param(PROMPT + b"}" + PROMPT + b"}", id="two objects"),
        pytest.param(PROMPT + b",}", id="trailing comma"),
        pytest.param(b"{'prompt': 'canary-7f3a'}", id="single quotes"),
        pytest.param(b'{prompt: "canary-7f3a"}', id="bare name"),
        pytest.param(PROMPT + b'} // "canary-7f3a"', id="comment"),
        pytest.param(b"prompt=canary-7f3a", id="form"),
        pytest.param(b"null", id="null"),
        pytest.param(b"true", id="true"),
        pytest.param(b"1", id="number"),
        pytest.param(b'"canary-7f3a"', id="string"),
        pytest.param(b'[{"prompt": "canary-7f3a"}]', id="list"),
        pytest.param(PROMPT + b', "prompt": "b"}', id="duplicate name"),
        pytest.param(PROMPT + b', "pr\\u006fmpt": "b"}', id="duplicate name, one escaped"),
        pytest.param(PROMPT + b', "response_format": {"a": 1, "a": 1}}', id="duplicate name inside"),
        pytest.param(PROMPT + b', "temperature": NaN}', id="NaN"),
        pytest.param(PROMPT + b', "temperature": Infinity}', id="Infinity"),
        pytest.param(PROMPT + b', "temperature": -Infinity}', id="-Infinity"),
        pytest.param(PROMPT + b', "temperature": 1e999}', id="1e999"),
        pytest.param(PROMPT + b', "temperature": -1e999}', id="-1e999"),
        pytest.param(PROMPT + b', "seed": 123456789012345678901}', id="21 digits"),
        pytest.param(PROMPT + b', "seed": -123456789012345678901}', id="21 digits, negative"),
        pytest.param(PROMPT + b', "seed": ' + b"9" * 10_000 + b"}", id="10,000 digits"),
        pytest.param(PROMPT + b', "seed": 007}', id="leading zeros"),
        pytest.param(PROMPT + b', "seed": 0x10}', id="hexadecimal"),
        pytest.param(PROMPT + b', "seed": +1}', id="plus sign"),
        pytest.param(PROMPT + b', "response_format": ' + b'{"a": ' * 32 + b"1" + b"}" * 32 + b"}", id="depth 33"),
        pytest.param(PROMPT + b', "stop": ' + b"[" * 32 + b"]" * 32 + b"}", id="depth 33 of lists"),
        pytest.param(b"[" * 100_000, id="100,000 ["),
        pytest.param(b'{"a":' * 100_000, id="100,000 {"),
        pytest.param(PROMPT + b', "stop": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="100,000 [ closed"),
        pytest.param(b'{"prompt": "canary-7f3a\\u0000"}', id="NUL"),
        pytest.param(PROMPT + b', "a\\u0000": 1}', id="NUL in a name"),
        pytest.param(b'{"prompt": "canary-7f3a\x00"}', id="NUL, raw"),
        pytest.param(b'{"prompt": "canary-7f3a\n"}', id="line break, raw"),
        pytest.param(b'{"prompt": "canary-7f3a\\ud83d"}', id="high surrogate"),
        pytest.param(b'{"prompt": "canary-7f3a\\uDE00"}', id="low surrogate"),
        pytest.param(b'{"prompt": "canary-7f3a\\ude00\\ud83d"}', id="surrogates in the wrong order"),
        pytest.param(PROMPT + b', "stop": ["\\ud83d"]}', id="surrogate in a list"),
        pytest.param(PROMPT + b', "response_format": {"x": {"\\ud83d": 1}}}', id="surrogate in an inner name"),
        pytest.param(b'{"prompt": "canary-7f3a\xed\xa0\xbd"}', id="surrogate, raw"),
        pytest.param(b'{"prompt": "canary-7f3a\xff"}', id="not UTF-8"),
        pytest.param(b'{"prompt": "canary-7f3a\xc0\xaf"}', id="overlong UTF-8"),
        pytest.param(b"\xef\xbb\xbf" + PROMPT + b"}", id="byte order mark"),
        pytest.param((PROMPT + b"}").decode().encode("utf-16"), id="UTF-16"),
        pytest.param((PROMPT + b"}").decode().encode("utf-16-le"), id="UTF-16 without mark"),
        pytest.param((PROMPT + b"}").decode().encode("utf-32-le"), id="UTF-32 without mark"),
    ],
)
def test_malformed_json(make_client: Serve, log_lines: Log, body: bytes) -> None:
    """What is no JSON object, or one that two readers could read in two ways, is a 400."""
    answer = post(make_client(), body)
    check_refused(answer, 400, "malformed_json", log_lines)
    assert CANARY not in answer.text


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(b"", id="nothing else"),
        pytest.param(b', "seed": 1234567890123456789', id="19 digits"),
        pytest.param(b', "max_tokens": 40.0', id="40.0"),
        pytest.param(b', "max_tokens": 4e1', id="4e1"),
        pytest.param(b', "temperature": 1e-999', id="1e-999"),
        pytest.param(
            b', "response_format": ' + b'{"a": ' * 31 + b"1" + b"}" * 31 + b', "fallback": true', id="depth 32"
        ),
        pytest.param(b', "stop": "\\ud83d\\ude00"', id="a whole surrogate pair"),
        pytest.param(b', "stop": "\\\\u0000"', id="a backslash before u0000"),
        pytest.param(b', "system": "' + b"[{" * 50_000 + b'"', id="brackets in a text"),
        pytest.param(b"\r\n\t ", id="white space"),
    ],
)
def test_the_limits_are_not_tighter_than_said(make_client: Serve, log_lines: Log, more: bytes) -> None:
    """What stands exactly at a limit, or only looks hostile, passes the JSON reader and the schema."""
    answer = post(make_client(), PROMPT + more + b"}")
    # the stub itself refuses to write JSON
    assert answer.status_code == (400 if b"response_format" in more else 200)
    assert answer.headers["X-Request-ID"] == log_lines()[0]["request_id"]
    if answer.status_code == 400:
        assert answer.get_json()["error"]["code"] == "unsupported_parameter"


@pytest.mark.parametrize(
    ("digits", "status"), [("9" * 20, 422), ("-" + "9" * 20, 422), ("9" * 21, 400), ("-" + "9" * 21, 400)]
)
def test_twenty_digits_are_a_number(make_client: Serve, digits: str, status: int) -> None:
    """20 digits are read and then out of seed's range; 21 are not read at all."""
    assert post(make_client(), PROMPT + b', "seed": ' + digits.encode() + b"}").status_code == status


@pytest.mark.parametrize(
    "content_type",
    [
        *("", "text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"),
        *("application/jsonp", "application/ld+json", "application/json\udcff"),
        *("application/json; charset=latin-1", "application/json; charset=utf-16"),
    ],
)
def test_any_type_but_json_is_a_415(make_client: Serve, log_lines: Log, content_type: str) -> None:
    """The body of another type is not even looked at."""
    environ = {"CONTENT_TYPE": content_type.encode("latin-1", "replace").decode("latin-1")}
    answer = post(make_client(), PROMPT + b"}", environ_overrides=environ)
    check_refused(answer, 415, "unsupported_media_type", log_lines)


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON", "application/json; charset=UTF-8", 'application/json;charset="utf-8"'],
)
def test_ways_to_say_json(make_client: Serve, content_type: str) -> None:
    """A media type has no case and may name the one charset that JSON has."""
    assert post(make_client(), PROMPT + b"}", content_type).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP", "gzip, identity", "x", ""])
def test_any_content_encoding_is_a_415(make_client: Serve, log_lines: Log, encoding: str) -> None:
    """Nothing is decompressed: a bomb would be small on the wire."""
    answer = post(make_client(), PROMPT + b"}", headers={"Content-Encoding": encoding})
    check_refused(answer, 415, "unsupported_media_type", log_lines)


WRONG = {
    "prompt": [None, 1, 1.5, True, [], {}, ["x"], ""],
    "system": [None, 1, True, [], {}],
    "model": [None, 1, True, [], {}, "", "x" * 201, "a\nb", "a\x7fb", "a\n"],
    "max_tokens": [None, "5", 1.9, True, False, [], {}, 0, -1, 0.0, 2**31, 1e300],
    "temperature": [None, "0.5", True, [], {}, -0.001, 2.001, 1e300],
    "top_p": [None, "0.5", True, [], {}, 0, 0.0, -0.1, 1.001],
    "stop": [None, 1, True, {}, "", [""], ["a", ""], ["a", 1], [None], [["a"]], list("abcde")],
    "seed": [None, "5", 1.9, True, [], {}, 2**63, -(2**63) - 1],
    "stream": [None, 0, 1, "true", "", [], {}],
    "fallback": [None, 0, 1, "false", "", [], {}],
    "details": [None, 0, 1, "true", "", [], {}],
    "response_format": [
        *(None, 1, True, "json", [], {}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": []}),
        *({"type": "json_schema", "json_schema": {}}, {"type": "json_schema", "json_schema": {"schema": "x"}}),
    ],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [pytest.param(field, value, id=f"{field}={value!r:.40}") for field, values in WRONG.items() for value in values],
)
def test_a_wrong_value_is_a_422(make_client: Serve, log_lines: Log, field: str, value: Any) -> None:
    """A value of another type or out of range is refused, never guessed at, and the field is named."""
    answer = make_client().post("/generate", json={"prompt": CANARY} | {field: value})
    body = check_refused(answer, 422, "validation_failed", log_lines)
    assert body["error"]["param"] == field
    assert body["fields"].keys() == {field}
    assert all(isinstance(message, str) and message for message in body["fields"][field])


@pytest.mark.parametrize("name", ["messages", "Prompt", "prompt ", "", "__proto__", "max_completion_tokens", "n", "🙂"])
def test_an_unknown_field_is_a_422(make_client: Serve, log_lines: Log, name: str) -> None:
    """A field that would be ignored is refused and named: it may be a typing error."""
    answer = make_client().post("/generate", json={"prompt": CANARY, name: 1})
    body = check_refused(answer, 422, "validation_failed", log_lines)
    assert body["fields"] == {name: ["Unknown field."]}


def test_a_huge_unknown_field_makes_no_huge_line(make_client: Serve, log_lines: Log) -> None:
    """Names come from strangers too: the line about a refused body stays small."""
    answer = make_client(log_max_text=1000).post("/generate", json={"prompt": "x", "y" * 500_000: 1})
    assert answer.status_code == 422
    (line,) = log_lines()
    assert len(json.dumps(line)) < 5_000


@pytest.mark.parametrize(("chars", "status"), [(1, 200), (10, 200), (11, 422)])
@pytest.mark.parametrize("letter", ["a", "🙂"])
def test_prompt_size(make_client: Serve, letter: str, chars: int, status: int) -> None:
    """MAX_PROMPT_CHARS counts characters, not bytes or UTF-16 units, and the limit itself is allowed."""
    client = make_client(max_prompt_chars=10)
    assert client.post("/generate", json={"prompt": letter * chars}).status_code == status
    assert client.post("/generate", json={"prompt": "x", "system": letter * chars}).status_code == status


def test_two_apps_have_two_limits(make_client: Serve) -> None:
    """Settings belong to one app: a tight limit of one does not reach another in the same process."""
    make_client(max_prompt_chars=5)
    assert make_client(max_prompt_chars=100).post("/generate", json={"prompt": "x" * 100}).status_code == 200


def padded(size: int) -> bytes:
    return PROMPT + b" " * (size - len(PROMPT) - 1) + b"}"


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(padded(99), 200, id="one less"),
        pytest.param(padded(100), 200, id="the limit"),
        pytest.param(padded(101), 413, id="one more"),
        pytest.param(padded(102), 413, id="two more"),
        pytest.param(padded(100) + b" ", 413, id="a blank after the limit"),
        pytest.param(padded(100) + b"garbage", 413, id="garbage after the limit"),
        pytest.param(padded(50) + b" " * 5_000_000 + b"garbage", 413, id="JSON, 5 MB of blanks, garbage"),
    ],
)
def test_body_size(make_client: Serve, log_lines: Log, body: bytes, status: int, chunked: bool) -> None:
    """MAX_BODY_BYTES itself is allowed, one more is a 413; a chunked body is never cut to what is valid."""
    how: dict[str, Any] = {"data": body}
    if chunked:
        how = {"input_stream": io.BytesIO(body), "environ_overrides": {"wsgi.input_terminated": True}}
        how["headers"] = {"Transfer-Encoding": "chunked"}
    answer = make_client(max_body_bytes=100).post("/generate", content_type="application/json", **how)
    assert answer.status_code == status
    if status == 413:
        check_refused(answer, 413, "body_too_large", log_lines)


def test_a_body_that_says_it_is_huge_is_not_read(make_client: Serve, log_lines: Log) -> None:
    """A length over the limit is answered at once."""

    class Untouched(io.RawIOBase):
        def readinto(self, buffer: Any) -> int:
            raise AssertionError("the body was read")

    environ = {"wsgi.input": Untouched(), "CONTENT_LENGTH": str(100_000_000)}
    answer = make_client().post("/generate", content_type="application/json", environ_overrides=environ)
    check_refused(answer, 413, "body_too_large", log_lines)


class Broken(io.RawIOBase):
    """A body whose connection breaks, as gunicorn reports it: by an OSError, or by an early end."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def readinto(self, buffer: Any) -> int:
        if self.error:
            raise self.error
        return 0


CHUNKED = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}


@pytest.mark.parametrize(
    ("error", "environ"),
    [
        pytest.param(None, {"CONTENT_LENGTH": "100"}, id="early end"),
        pytest.param(OSError("connection reset"), {"CONTENT_LENGTH": "100"}, id="reset"),
        pytest.param(OSError("bad size"), CHUNKED, id="bad chunk"),
        pytest.param(RuntimeError("bad size"), CHUNKED, id="bad chunk, another server's error"),
    ],
)
def test_a_body_that_breaks_off_is_no_bug_of_ours(
    make_client: Serve,
    log_lines: Log,
    caplog: pytest.LogCaptureFixture,
    error: Exception | None,
    environ: dict[str, Any],
) -> None:
    """A client that leaves while it sends, or sends a wrong chunk, is its own mistake: no 500, no traceback."""
    environ = environ | {"wsgi.input": Broken(error)}
    answer = make_client().post("/generate", content_type="application/json", environ_overrides=environ)
    (line,) = log_lines()
    # 499 stands for a client that left; one that only closed its sending half can still read a 400
    assert (answer.status_code, line["http_status"]) in [(400, 400), (400, 499)]
    assert line["error"]["code"] == answer.get_json()["error"]["code"] in ("malformed_json", "client_gone")
    assert (line["status"] == "aborted") == (line["error"]["code"] == "client_gone")
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b'{"prompt": 1}'], ids=["400", "RecursionError", "422"])
def test_the_next_request_is_served(make_client: Serve, body: bytes) -> None:
    """A hostile body harms none that comes after it."""
    client = make_client()
    assert post(client, body).status_code in (400, 422)
    assert post(client, PROMPT + b"}").status_code == 200
