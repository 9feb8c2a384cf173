"""response_format on both dialects: what fits passes, what doesn't stays here, and hostile schemas end in time."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import Log, Serve, ask, error_of, read_events
from fakes import Fake
from providers import CITY, CLAUDE, OPENAI, SCHEMA, FarEnd, Socket, http, openai_answer, openai_stream, sent
from werkzeug.test import TestResponse

from llm_api.errors import ServerError
from llm_api.types import Chunk

Format = dict[str, Any]

GENERATE, CHAT, TEXT = "/generate", "/v1/chat/completions", "/v1/completions"
PATHS = pytest.mark.parametrize("path", [GENERATE, CHAT, TEXT])
STREAMED = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
OBJECT = {"type": "json_object"}


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """Fail where the program would hang: Python's re holds every thread, but looks at signals."""

    def fail(*_: object) -> None:
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def wrap(schema: Any, **more: Any) -> Format:
    """Return `schema` as OpenAI's clients send it."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema} | more}


def says(text: str, name: str = "one", finish: str = "stop") -> Fake:
    """Return a backend that answers in two pieces."""
    half = len(text) // 2
    return Fake(name, Chunk(text[:half]), Chunk(text[half:]), Chunk("", finish, model="m"))


def text_of(reply: TestResponse) -> str:
    """Return the text of an answer that ended well, streamed or not."""
    assert reply.status_code == 200, reply.data
    if reply.mimetype == "application/x-ndjson":
        *pieces, last = map(json.loads, reply.data.splitlines())
        assert last["done"] is True
        return "".join(piece["response"] for piece in pieces)
    if reply.mimetype == "text/event-stream":
        *events, done = read_events(reply.data)
        assert done == "[DONE]"
        choices = [event["choices"][0] for event in events]
        return "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices)
    if "response" in reply.json:
        return str(reply.json["response"])
    (choice,) = reply.json["choices"]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


# Answers

TREE = {
    "type": "object",
    "properties": {"sub": {"type": "array", "items": {"$ref": "#"}}},
    "additionalProperties": False,
}
SHARED = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}
FITS = [
    (OBJECT, "{}"),
    (OBJECT, ' \n{"a": [1, 2.5e3, null]}\n'),
    (OBJECT, '{"a": "\\u00e9 é"}'),
    (SCHEMA, CITY),
    (SCHEMA, '{"city": "Oslo", "more": 1}'),
    (wrap(SCHEMA), CITY),
    (wrap({}), "5"),
    ({"type": "array", "items": {"type": "integer"}}, "[1, 2]"),
    ({"type": ["integer", "null"]}, "null"),
    ({"enum": ["a", "b"]}, '"b"'),
    ({"pattern": "^[a-z]+$"}, '"abc"'),
    ({"pattern": "^\\p{Lu}"}, '"Éa"'),
    (TREE, '{"sub": [{"sub": []}, {}]}'),
    (SHARED, '{"a": 1}'),
    ({"$schema": "https://json-schema.org/draft/2020-12/schema"} | SCHEMA, CITY),
    ({"type": "text"}, "no JSON at all"),
]


@pytest.mark.parametrize(("wanted", "answer"), FITS)
@PATHS
@STREAMED
def test_fits(serve: Serve, log_lines: Log, path: str, wanted: Format, answer: str, stream: bool) -> None:
    """An answer that is what was asked for comes as the model wrote it, streamed in its pieces."""
    assert text_of(ask(serve(says(answer)), path, response_format=wanted, stream=stream)) == answer
    (line,) = log_lines()
    assert (line["status"], line["http_status"], line["response"]) == ("ok", 200, answer)


FENCED = {
    "json": "```json\n{}\n```",
    "no word": "```\n{}\n```",
    "in a line": "``` {} ```",
    "nothing between": "```{}```",
    "capitals": "```JSON\n{}\n```",
    "another word": "```json5\r\n{}\r\n```",
    "white space": "\n  ```json\n\n{}\n\n```\n\n",
    "no end": "```json\n{}\n",
}


@pytest.mark.parametrize("fence", FENCED.values(), ids=FENCED)
@pytest.mark.parametrize("answer", [CITY, '{"city": "```json\\n{}\\n```"}', '{\n "city": "a"\n}'])
@PATHS
@STREAMED
def test_fenced(serve: Serve, log_lines: Log, path: str, fence: str, answer: str, stream: bool) -> None:
    """Models that only were told to answer in JSON put it in a fence; what comes, and is logged, is the JSON."""
    fake = says(fence.replace("{}", answer))
    assert text_of(ask(serve(fake), path, response_format=wrap(SCHEMA), stream=stream)) == answer
    assert [line["response"] for line in log_lines()] == [answer]


CUT = pytest.mark.parametrize("reason", ["length", "content_filter"])


@CUT
@pytest.mark.parametrize("answer", ['{"city": "Os', '```json\n{"city": "Os', ""])
@pytest.mark.parametrize("path", [CHAT, TEXT])
@STREAMED
def test_cut(serve: Serve, log_lines: Log, path: str, answer: str, reason: str, stream: bool) -> None:
    """Under /v1 it is the text so far with its reason: clients took the 502 for a reason to generate it again."""
    two = says(CITY, "two")
    reply = ask(serve(says(answer, finish=reason), two), path, response_format=wrap(SCHEMA), stream=stream)
    last = read_events(reply.data)[-2] if stream else reply.json
    assert (text_of(reply), last["choices"][0]["finish_reason"]) == (answer, reason)
    assert [(line["status"], line["finish_reason"]) for line in log_lines()] == [("ok", reason)]
    assert two.asked == []


@CUT
@STREAMED
def test_cut_where_no_reason_is_shown(serve: Serve, reason: str, stream: bool) -> None:
    """/generate promises JSON, and shows a reason only on demand: it stays a failure, which says what it was."""
    reply = ask(serve(says('{"city": "Os', finish=reason)), GENERATE, response_format=SCHEMA, stream=stream)
    error = error_of(reply)
    words = {"length": "the token limit (max_tokens)", "content_filter": "a content filter"}[reason]
    assert (reply.status_code, error["code"]) == (502, "invalid_answer")
    assert error["message"] == f"{words} cut the model's JSON short"


@pytest.mark.parametrize("path", [GENERATE, CHAT, TEXT])
@STREAMED
def test_whole_at_the_limit(serve: Serve, path: str, stream: bool) -> None:
    """JSON that was complete when the limit came is an answer everywhere."""
    reply = ask(serve(says(CITY, finish="length")), path, response_format=wrap(SCHEMA), stream=stream)
    assert text_of(reply) == CITY


NO = (Chunk(refusal="I "), Chunk(refusal="can't."), Chunk("", "stop"))


@STREAMED
def test_refusal_is_no_json(serve: Serve, stream: bool) -> None:
    """A model that refuses has not failed: nobody else is asked, and its words are not held against the schema."""
    two = says(CITY, "two")
    reply = ask(serve(Fake("one", *NO), two), CHAT, response_format=wrap(SCHEMA), stream=stream)
    if stream:
        said = "".join(event["choices"][0]["delta"].get("refusal", "") for event in read_events(reply.data)[:-1])
    else:
        said = reply.json["choices"][0]["message"]["refusal"]
    assert (reply.status_code, said, two.asked) == (200, "I can't.", [])


@pytest.mark.parametrize(("wanted", "expected"), [(SCHEMA, ("", "I can't.")), (None, ("I can't.", None))])
@STREAMED
def test_refusal_on_generate(serve: Serve, wanted: Any, expected: tuple[str, str | None], stream: bool) -> None:
    """Words stay the response's; where that is JSON, a refusal has a field of its own."""
    fields = {"response_format": wanted} if wanted else {}
    reply = ask(serve(Fake("one", *NO)), GENERATE, stream=stream, **fields)
    lines = [json.loads(line) for line in reply.data.splitlines()]
    refusal = "".join(line["refusal"] for line in lines if "refusal" in line)
    assert ("".join(line["response"] for line in lines), refusal or None) == expected


# what was asked for, an answer that isn't that, and one that is
CANARY = "canary-51c9"
MISFITS = {
    "text": (OBJECT, f"Sure, here it is: {CANARY}", "{}"),
    "fence around text": (OBJECT, f"```json\n{CANARY}\n```", "{}"),
    "fence around an array": (OBJECT, f'```\n["{CANARY}"]\n```', "{}"),
    "text before a fence": (OBJECT, f"{CANARY}:\n```json\n{{}}\n```", "{}"),
    "two fences": (OBJECT, f'```\n{{"a": "{CANARY}"}}\n```\n```\n{{}}\n```', "{}"),
    "fence around a misfit": (SCHEMA, f'```json\n["{CANARY}"]\n```', CITY),
    "empty": (OBJECT, "", "{}"),
    "cut short": (OBJECT, f'{{"a": "{CANARY}', "{}"),
    "array": (OBJECT, f'["{CANARY}"]', "{}"),
    "string": (OBJECT, f'"{CANARY}"', "{}"),
    "null": (OBJECT, "null", "{}"),
    "NaN": (OBJECT, f'{{"{CANARY}": NaN}}', "{}"),
    "Infinity": (OBJECT, f'{{"{CANARY}": -Infinity}}', "{}"),
    "two objects": (OBJECT, f'{{"a": "{CANARY}"}} {{}}', "{}"),
    "nested deeply": (OBJECT, f'{{"{CANARY}": ' * 10_000, "{}"),
    "many digits": (OBJECT, f'{{"{CANARY}": {"9" * 5000}}}', "{}"),
    "type": (SCHEMA, f'["{CANARY}"]', CITY),
    "missing": (SCHEMA, f'{{"{CANARY}": 1}}', CITY),
    "inside": (SCHEMA, f'{{"city": ["{CANARY}"]}}', CITY),
    "text for a schema": (wrap(SCHEMA), CANARY, CITY),
    "NaN for a schema": (wrap({}), "NaN", "0"),
    "enum": (wrap({"enum": ["a"]}), f'"{CANARY}"', '"a"'),
    "const": ({"const": 1}, f'"{CANARY}"', "1"),
    "pattern": ({"pattern": "^[a-z]+$"}, f'"{CANARY}"', '"a"'),
    "one too many": ({"additionalProperties": False}, f'{{"{CANARY}": 1}}', "{}"),
    "unexpected name": ({"additionalProperties": {"type": "integer"}}, f'{{"{CANARY}": "x"}}', "{}"),
    "unexpected name below": ({"items": {"unevaluatedProperties": {"type": "null"}}}, f'[{{"{CANARY}": 1}}]', "[]"),
    "below": (TREE, f'{{"sub": [{{"{CANARY}": 1}}]}}', '{"sub": [{}]}'),
    "reference": (SHARED, f'{{"a": "{CANARY}"}}', '{"a": 1}'),
}


@pytest.mark.parametrize(("wanted", "wrong", "right"), MISFITS.values(), ids=MISFITS)
@PATHS
@STREAMED
def test_misfit(serve: Serve, log_lines: Log, path: str, wanted: Format, wrong: str, right: str, stream: bool) -> None:
    """It is a failing backend, with a true status before a stream begins; not a word of it gets out."""
    fake = says(wrong)
    reply = ask(serve(fake, max_retries=2), path, response_format=wanted, stream=stream)
    error = error_of(reply)
    assert (reply.status_code, reply.mimetype) == (502, "application/json")
    assert (error["type"], error["code"]) == ("backend_error", "invalid_answer")
    assert CANARY not in reply.get_data(as_text=True)
    assert CANARY not in str(reply.headers)
    (line,) = log_lines()
    assert (line["status"], line["http_status"], line["error"]["code"]) == ("error", 502, "invalid_answer")
    assert [(attempt["backend"], attempt["outcome"]) for attempt in line["attempts"]] == [("one", "invalid_answer")]
    assert (line["backend"], line["response"]) == (None, None)


@pytest.mark.parametrize(("wanted", "wrong", "right"), MISFITS.values(), ids=MISFITS)
@PATHS
@STREAMED
def test_misfit_falls_back(
    serve: Serve, log_lines: Log, path: str, wanted: Format, wrong: str, right: str, stream: bool
) -> None:
    """The next one may do better: what comes is its answer alone."""
    reply = ask(serve(says(wrong), says(right, "two")), path, response_format=wanted, stream=stream)
    assert text_of(reply) == right
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Fallback"]) == ("two", "invalid_answer")
    (line,) = log_lines()
    assert (line["backend"], line["response"], line["fallback_reason"]) == ("two", right, "invalid_answer")


@pytest.mark.parametrize("failure", [(), (ServerError("m"),)], ids=["no end", "error"])
@PATHS
@STREAMED
def test_failure_in_mid_answer(serve: Serve, path: str, failure: tuple[Exception, ...], stream: bool) -> None:
    """JSON waits for its end, so that a stream, too, can still fall back."""
    reply = ask(
        serve(Fake("one", Chunk("{}"), *failure), says("{}", "two")), path, response_format=OBJECT, stream=stream
    )
    assert (text_of(reply), reply.headers["X-LLM-Backend"]) == ("{}", "two")


@PATHS
@STREAMED
def test_breaker_stays_closed(serve: Serve, path: str, stream: bool) -> None:
    """A schema that the model can't fit is one caller's trouble: the backend is there for all others."""
    client = serve(says("no JSON"))
    assert {ask(client, path, response_format=wrap(SCHEMA), stream=stream).status_code for _ in range(12)} == {502}
    assert ask(client, path, response_format={"type": "text"}, stream=stream).status_code == 200


def test_misfit_says_where(serve: Serve) -> None:
    """The caller learns which keyword of its schema it was, and where."""
    schema = {"properties": {"list": {"items": {"maximum": 9}}}}
    message = error_of(ask(serve(says('{"list": [1, 10]}')), CHAT, response_format=wrap(schema)))["message"]
    assert message.startswith("the model's answer does not fit the schema: ")
    assert {"maximum", "list"} <= set(re.findall(r"\w+", message))


# Schemas

BAD: dict[str, Any] = {
    "unknown type": {"type": "thing"},
    "unknown type below": {"properties": {"a": {"type": "thing"}}},
    "bad regex": {"pattern": "("},
    "patternProperties": {"patternProperties": {"^a": {}}},
    "patternProperties below": wrap({"items": {"patternProperties": {"^(a|aa)+$": {}}}}),
    "wrong keyword": {"minimum": "1"},
    "required is no list": {"required": "a"},
    "too large": {"title": "x" * 100_000},
    "empty": {},
    "array": [],
    "text": "json",
    "number": 5,
    "true": True,
    "no json_schema": {"type": "json_schema"},
    "json_schema is text": {"type": "json_schema", "json_schema": "x"},
    "no schema": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True}},
    "schema is null": wrap(None),
    "schema is an array": wrap([]),
    "schema is true": wrap(True),
    "wrapped": wrap({"type": "thing"}),
    "name is no text": wrap(SCHEMA, name=5),
    "strict is no boolean": wrap(SCHEMA, strict="yes"),
}


@pytest.mark.parametrize("wanted", BAD.values(), ids=BAD)
@PATHS
def test_bad_schema(serve: Serve, log_lines: Log, path: str, wanted: Any) -> None:
    """It is refused before anybody is asked."""
    fake = says("{}")
    reply = ask(serve(fake), path, response_format=wanted)
    status = 422 if path == GENERATE else 400
    error = error_of(reply)
    assert (reply.status_code, error["param"], error["code"]) == (status, "response_format", "validation_failed")
    assert len(error["message"]) < 500
    assert (fake.asked, log_lines()[0]["http_status"]) == ([], status)


@pytest.mark.parametrize(("chars", "status"), [(100_000, 200), (100_001, 400)])
def test_size_of_a_schema(serve: Serve, chars: int, status: int) -> None:
    """The limit is 100,000 characters of JSON."""
    schema = {"title": "x" * (chars - len('{"title": ""}'))}
    assert ask(serve(says("{}")), CHAT, response_format=wrap(schema)).status_code == status


def test_many_parts(serve: Serve) -> None:
    """A schema within the limit takes seconds at most, though nothing bounds the time in which it is read."""
    assert text_of(ask(serve(says("1")), CHAT, response_format=wrap({"allOf": [{}] * 24_000}))) == "1"


@pytest.mark.parametrize(("chars", "status"), [(1_000, 200), (1_001, 400)])
def test_size_of_a_pattern(serve: Serve, chars: int, status: int) -> None:
    """A long pattern takes minutes to compile, which nothing can interrupt."""
    reply = ask(serve(says("5")), CHAT, response_format=wrap({"pattern": "a" * chars}))
    assert reply.status_code == status
    assert status == 200 or error_of(reply)["param"] == "response_format"


UNUSABLE = {
    "no such definition": {"$ref": "#/$defs/x"},
    "no such anchor": {"$ref": "#x"},
    "elsewhere": {"$ref": "urn:example:x"},
    "never ends": {"$ref": "#"},
    "never ends in two steps": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
}


@pytest.mark.parametrize("schema", UNUSABLE.values(), ids=UNUSABLE)
@PATHS
@STREAMED
def test_unusable_schema(serve: Serve, log_lines: Log, path: str, schema: Format, stream: bool) -> None:
    """What shows only with an answer is the request's fault as well: no other backend is asked."""
    two = says("{}", "two")
    reply = ask(serve(says("{}"), two), path, response_format=wrap(schema), stream=stream)
    error = error_of(reply)
    assert (reply.status_code, error["type"], error["param"]) == (400, "invalid_request_error", "response_format")
    assert two.asked == []
    assert log_lines()[0]["http_status"] == 400


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef"])
@pytest.mark.parametrize("depth", [0, 1])
def test_nothing_is_fetched(serve: Serve, keyword: str, depth: int) -> None:
    """A schema that points elsewhere makes no connection: a stranger must not choose whom this server calls."""
    with Socket(http(b"{}")) as witness:
        schema: Format = {keyword: f"{witness.address}/schema.json"}
        for _ in range(depth):
            schema = {"properties": {"a": schema}, "$schema": f"{witness.address}/dialect"}
        reply = ask(serve(says('{"a": 1}')), CHAT, response_format=wrap(schema))
        assert witness.requests == []
    assert (reply.status_code, error_of(reply)["param"]) == (400, "response_format")


def test_names_alone_are_not_fetched(serve: Serve) -> None:
    """Nor is a dialect, nor the schema's own name."""
    with Socket(http(b"{}")) as witness:
        schema = {"$schema": f"{witness.address}/dialect", "$id": f"{witness.address}/id", "$ref": "#/$defs/a"}
        reply = ask(serve(says("1")), CHAT, response_format=wrap(schema | {"$defs": {"a": {"type": "integer"}}}))
        assert witness.requests == []
    assert text_of(reply) == "1"


ALMOST = "a" * 60 + "!"  # Python's re takes longer for it than anybody lives


@pytest.mark.parametrize(("pattern", "status"), [("^(a+)+$", 502), ("^(a|aa)+$", 400), ("^(a|a)*$", 400)])
@pytest.mark.parametrize("inside", [False, True])
def test_catastrophic_pattern(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, pattern: str, status: int, inside: bool
) -> None:
    """It ends: either the engine sees through it, or its time is up."""
    monkeypatch.setattr("llm_api.exchange.structured.PATTERN_SECONDS", 0.05)
    schema: Format = {"pattern": pattern}
    if inside:
        schema = {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"additionalProperties": schema}}}
    answer = json.dumps({"a": ALMOST} if inside else ALMOST)
    reply = ask(serve(says(answer)), CHAT, response_format=wrap(schema))
    assert reply.status_code == status
    assert error_of(reply)["param"] == ("response_format" if status == 400 else None)


def doubling(keyword: str) -> Format:
    """Return a schema whose work doubles thirty times."""
    steps = {f"s{n}": {"allOf": [{keyword: f"#/$defs/s{n + 1}"}] * 2} for n in range(30)}
    return {"$defs": {**steps, "s30": True}, keyword: "#/$defs/s0"}


def nested() -> Format:
    """Return one whose work triples with each of its levels."""
    schema: Format = {"properties": {"a": True}}
    for _ in range(26):
        schema = {"if": schema, "then": True, "unevaluatedProperties": True}
    return schema


@pytest.mark.parametrize(
    "schema",
    [doubling("$ref"), doubling("$dynamicRef"), nested()],
    ids=["references", "dynamic references", "unevaluated"],
)
@STREAMED
def test_doubling_work(serve: Serve, log_lines: Log, schema: Format, stream: bool) -> None:
    """It ends with the request's time."""
    reply = ask(serve(says('{"b": 1}'), request_timeout=0.3), CHAT, response_format=wrap(schema), stream=stream)
    assert (reply.status_code, error_of(reply)["code"]) == (504, "timeout")
    assert log_lines()[0]["http_status"] == 504


DIALECT = "https://json-schema.org/draft/2020-12/schema"
BACKTRACKS = {"pattern": "^(a+)+$"}
# Each leads the library to a dialect's own validator, whose patterns run in Python's re.
DIALECTS = {
    "in a part": ({"properties": {"a": {"$schema": DIALECT} | BACKTRACKS}}, {"a": ALMOST}),
    "in a part, older": (
        {"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#"} | BACKTRACKS}},
        {"a": ALMOST},
    ),
    "top, referred to": (
        {"$schema": DIALECT, "properties": {"sub": {"$ref": "#"}, "a": BACKTRACKS}},
        {"sub": {"a": ALMOST}},
    ),
    "the dialect's own schema": (
        {
            "$id": "http://x.example/",
            "$dynamicAnchor": "meta",
            "$ref": DIALECT,
            "properties": {"title": BACKTRACKS},
        },
        {"properties": {"p": {"title": ALMOST}}},
    ),
}


@pytest.mark.parametrize(("schema", "answer"), DIALECTS.values(), ids=DIALECTS)
def test_dialect_is_no_way_around(serve: Serve, schema: Format, answer: Any) -> None:
    """The pattern's time limit holds in every part of a schema."""
    assert ask(serve(says(json.dumps(answer))), CHAT, response_format=wrap(schema)).status_code in (400, 502)


STUMBLES = {
    "reference to a list": ({"$ref": "#/required", "required": ["a"]}, "{}"),
    "reference to a text": ({"$ref": "#/title", "title": "x"}, "{}"),
    "reference to no schema": ({"$ref": "#/const", "const": {"minimum": "x"}}, "1"),
    "name that is no address": ({"$id": "http://[", "$ref": "x"}, "1"),
    "number too large to divide": ({"multipleOf": 0.5}, "1" * 400),
    "infinite number": ({"multipleOf": 0.5}, "1e999"),
}


@pytest.mark.parametrize(("schema", "answer"), STUMBLES.values(), ids=STUMBLES)
def test_what_the_library_stumbles_over(serve: Serve, schema: Format, answer: str) -> None:
    """It is the schema's or the answer's fault, not a bug's."""
    assert ask(serve(says(answer)), CHAT, response_format=wrap(schema)).status_code in (400, 502)


def test_deep_answer(serve: Serve) -> None:
    """A recursive schema follows an answer as deep as answers get, and one too deep is an error, not a crash."""
    lists = {"type": "array", "items": {"$ref": "#"}}
    assert text_of(ask(serve(says("[" * 30 + "]" * 30)), CHAT, response_format=wrap(lists))) == "[" * 30 + "]" * 30
    assert ask(serve(says("[" * 900 + "]" * 900)), CHAT, response_format=wrap(lists)).status_code == 400


# LOG_PROMPTS=false

SECRETIVE = {"title": CANARY, "properties": {CANARY: {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "answer", "status"),
    [
        (SECRETIVE, f'{{"{CANARY}": 1}}', 200),
        (SECRETIVE, f'{{"{CANARY}": "{CANARY}"}}', 502),
        (SECRETIVE, CANARY, 502),
        ({"$ref": f"#/$defs/{CANARY}"}, "1", 400),
        ({"$ref": f"http://{CANARY}.example/x"}, "1", 400),
        ({"type": CANARY}, "1", 400),
        ({"pattern": f"({CANARY}"}, "1", 400),
        ({"patternProperties": {CANARY: {}}}, "1", 400),
    ],
)
@STREAMED
def test_nothing_is_logged(
    serve: Serve,
    log_path: Path,
    log_lines: Log,
    caplog: pytest.LogCaptureFixture,
    schema: Format,
    answer: str,
    status: int,
    stream: bool,
) -> None:
    """No word of the schema or of an answer, whether it fits or not, is in the log or on stderr."""
    reply = ask(serve(says(answer), log_prompts=False), CHAT, response_format=wrap(schema), stream=stream)
    assert [line["http_status"] for line in log_lines()] == [reply.status_code] == [status]
    assert CANARY not in log_path.read_text()
    assert CANARY not in caplog.text


# Backends


def wire(**words: Any) -> Format:
    """Return what OpenAI gets."""
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA} | words}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (OBJECT, OBJECT),
        (SCHEMA, wire()),
        ({"type": "json_schema", "json_schema": {"schema": SCHEMA}}, wire()),
        (wrap(SCHEMA, name="city_of"), wire(name="city_of")),
        (wrap(SCHEMA, name=None, strict=None), wire()),
        (wrap(SCHEMA, strict=True), wire(strict=True)),
        (wrap(SCHEMA, name="c", strict=False, description="d"), wire(name="c", strict=False, description="d")),
        ({"type": "text"}, None),
    ],
)
@PATHS
@STREAMED
def test_words_for_openai(
    make_client: Serve, far_end: FarEnd, path: str, wanted: Format, expected: Format | None, stream: bool
) -> None:
    """Name and strict go on to OpenAI, whose models they mean something to; nothing is said for the caller."""
    far_end.post(OPENAI.url, **({"body": openai_stream(CITY)} if stream else {"json": openai_answer(CITY)}))
    assert text_of(ask(make_client(**OPENAI.settings), path, response_format=wanted, stream=stream)) == CITY
    assert sent(far_end).get("response_format") == expected


def check_refused(reply: TestResponse) -> None:
    """The backend can't do it, and says so."""
    error = error_of(reply)
    assert (reply.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", "response_format")


@PATHS
@STREAMED
def test_claude_has_no_json_object(make_client: Serve, far_end: FarEnd, path: str, stream: bool) -> None:
    """Anthropic knows schemas only: it isn't even asked."""
    check_refused(ask(make_client(**CLAUDE.settings), path, response_format=OBJECT, stream=stream))


@pytest.mark.parametrize("wanted", [OBJECT, SCHEMA, wrap(SCHEMA)])
@PATHS
@STREAMED
def test_stub_has_no_json(make_client: Serve, path: str, wanted: Format, stream: bool) -> None:
    """Its text is none; but it takes the type `text`, which asks for nothing."""
    check_refused(ask(make_client(), path, response_format=wanted, stream=stream))
    assert text_of(ask(make_client(), path, response_format={"type": "text"}, stream=stream)).startswith("[stub]")


@PATHS
@STREAMED
def test_stub_behind_a_misfit(make_client: Serve, far_end: FarEnd, path: str, stream: bool) -> None:
    """That the stub has no JSON doesn't hide that the model's was none."""
    far_end.post(OPENAI.url, **({"body": openai_stream("no")} if stream else {"json": openai_answer("no")}))
    reply = ask(make_client(**OPENAI.settings, llm_fallback=("stub",)), path, response_format=OBJECT, stream=stream)
    assert (reply.status_code, error_of(reply)["code"]) == (502, "invalid_answer")
