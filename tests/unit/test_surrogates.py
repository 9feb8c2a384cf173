"""Halves of surrogate pairs, which JSON may hold and no encoding: joined where a stream cut them, else U+FFFD."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from asking import GENERATE, Log, Serve, ask, read_events
from fakes import Fake
from providers import OPENAI, FarEnd, openai_answer, openai_error, openai_stream
from werkzeug.test import TestResponse

from llm_api import LLMAPI, strict_json
from llm_api.errors import BackendError
from llm_api.types import CallPiece, Chunk, Reasoning

SPLITS = [
    (["a\ud83d", "\ude00b"], "a😀b"),
    (["\ud83d", "", "\ude00"], "😀"),
    (["\ud83d"], "\ufffd"),
    (["\ude00 first"], "\ufffd first"),
    (["\ud83d", "\ud83d", "\ude00"], "\ufffd😀"),
    (["\ude00\ud83d", "x"], "\ufffd\ufffdx"),
    (["👨\ud83d", "\udc69 ü", "€"], "👨👩 ü€"),
    (["\ud83d\ude00"], "😀"),
    (["\\ud83d", "\\ude00"], "\\ud83d\\ude00"),
]
with_splits = pytest.mark.parametrize(("pieces", "text"), SPLITS, ids=lambda value: ascii(value)[:40])


def escaped(body: Any) -> str:
    """Return JSON in which the halves are escaped, as no UTF-8 has them."""
    return json.dumps(body)


@with_splits
@pytest.mark.parametrize("refused", [False, True], ids=["text", "refusal"])
def test_pieces_of_any_backend(serve: Serve, log_lines: Log, pieces: list[str], text: str, refused: bool) -> None:
    """A Python caller gets pieces that encode, and the log has their whole text."""
    field = "refusal" if refused else "text"
    chunks = [Chunk(**{field: piece}) for piece in pieces]
    here = LLMAPI.of(serve(Fake("one", turns=[[*chunks, Chunk("", "stop")]])).application)
    said = list(here.stream("Hi"))
    assert b"".join(piece.encode() for piece in said).decode() == text
    assert log_lines()[0]["response"] == text


@with_splits
@pytest.mark.parametrize("path", GENERATE)
def test_events(serve: Serve, pieces: list[str], text: str, path: str) -> None:
    """No event of a stream has half a character, in any dialect; a piece that is whole is not held back."""
    turns = [[*map(Chunk, pieces), Chunk("", "stop")]]
    reply = ask(serve(Fake("one", turns=turns)), path, stream=True)
    for row in reply.text.replace("data: ", "").split("\n"):
        if row.startswith("{"):
            json.dumps(json.loads(row), ensure_ascii=False).encode()


@with_splits
@pytest.mark.parametrize("stream", [False, True])
def test_an_upstreams_answer(
    make_client: Serve, far_end: FarEnd, log_lines: Log, pieces: list[str], text: str, stream: bool
) -> None:
    """Over a provider's wire, escaped as such servers write it, whole and streamed."""
    whole = escaped(openai_answer("".join(pieces)))
    events = b"".join(_escaped_event(part) for part in openai_stream(*map(_mark, pieces)).split(b"\n\n") if part)
    far_end.post(OPENAI.url, body=events if stream else whole, content_type="application/json")
    reply = ask(make_client(llm_backend="openai", openai_api_key="key-of-tests"), stream=stream)
    assert log_lines()[0]["response"] == text
    assert "".join(json.loads(row)["response"] for row in reply.text.splitlines()) == text


def _mark(piece: str) -> str:
    return json.dumps(piece)


def _escaped_event(part: bytes) -> bytes:
    said = part.removeprefix(b"data: ")
    if not said.startswith(b"{"):
        return part + b"\n\n"
    body = json.loads(said)
    for choice in body["choices"]:
        if choice["delta"].get("content"):
            choice["delta"]["content"] = json.loads(choice["delta"]["content"])
    return b"data: " + escaped(body).encode() + b"\n\n"


def test_an_upstreams_other_words(make_client: Serve, far_end: FarEnd, log_path: Path) -> None:
    """Its error, its name for the model, and raw bytes of half a character (CESU-8) leave as whole characters too."""
    client = make_client(llm_backend="openai", openai_api_key="key-of-tests")
    far_end.post(OPENAI.url, body=escaped(openai_error("bad", "no \ud83d here")), status=400)
    far_end.post(OPENAI.url, body=escaped(openai_answer("Hi") | {"model": "m-\udcff"}))
    far_end.post(OPENAI.url, body=escaped(openai_answer("Hi \ud83d")).encode().replace(rb"\ud83d", b"\xed\xa0\xbd"))
    replies: list[TestResponse] = [ask(client) for _ in range(3)]
    assert "no \ufffd here" in replies[0].json["error"]["message"]
    assert replies[1].headers["X-LLM-Model"] == "m-?"
    assert replies[2].json["response"] == "Hi \ufffd"
    for record in map(json.loads, log_path.read_text().splitlines()):
        json.dumps(record, ensure_ascii=False).encode()


def test_a_plugins_error(serve: Serve, log_lines: Log) -> None:
    """A backend of one's own raises what it likes."""
    reply = ask(serve(Fake("one", turns=[BackendError("broken \ud83d", detail="and \ude00")])))
    assert reply.status_code == 502
    assert reply.json["error"]["message"] == "broken \ufffd: and \ufffd"
    assert log_lines()[0]["error"]["message"] == "broken \ufffd: and \ufffd"


def test_whatever_is_written_as_json() -> None:
    """As UTF-16 has it: pairs are characters, other halves U+FFFD, and a backslash before `ud83d` is a backslash."""
    parts = ["\\", "u", "d83d", "\ud83d", "\ude00", "😀", "a", "\n", "ud800", '"']
    chance = random.Random(18)
    for _ in range(3000):
        text = "".join(chance.choices(parts, k=chance.randint(1, 9)))
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert json.loads(strict_json.dumps({text: [text]})) == {whole: [whole]}, ascii(text)


@pytest.mark.parametrize("reader", ["duckdb", "pandas", "jq"])
def test_other_readers_read_each_line(serve: Serve, log_path: Path, reader: str) -> None:
    """Those of docs/log.md refuse, or mangle, a line with half a character."""
    if not (shutil.which(reader) or importlib.util.find_spec(reader)):
        pytest.skip(f"NOT TESTED, {reader} is not installed")
    client = serve(Fake("one", turns=[[*map(Chunk, pieces), Chunk("", "stop")] for pieces, _ in SPLITS]))
    for _ in SPLITS:
        ask(client)
    texts = [text for _, text in SPLITS]
    if reader == "jq":
        said = subprocess.run(["jq", ".response", log_path], capture_output=True, check=True)
        assert [json.loads(row) for row in said.stdout.splitlines()] == texts
    elif reader == "duckdb":
        import duckdb

        rows = duckdb.sql(f"SELECT response FROM read_ndjson('{log_path}')").fetchall()
        assert [row[0] for row in rows] == texts
    else:
        import pandas

        assert list(pandas.read_json(log_path, lines=True).response) == texts


def test_halves_in_calls_and_thoughts(serve: Serve) -> None:
    """Arguments of calls and thoughts are joined too, each for itself; a half that stays alone does not leave."""
    pieces = [
        Chunk(calls=(CallPiece(0, "a", "f", '{"x": "\ud83d'), CallPiece(1, "b", "f", '"\ud83d'))),
        Chunk(reasoning=(Reasoning("Hm \ud83d"),)),
        Chunk(calls=(CallPiece(0, arguments='\ude00"}'),), reasoning=(Reasoning("\ude00"),)),
        Chunk(calls=(CallPiece(1, arguments='"'),), finish_reason="tool_calls"),
    ]
    fake = Fake("one", *pieces)
    fake.serves = frozenset({"tools"})  # type: ignore[misc]
    tools, client = [{"type": "function", "function": {"name": "f"}}], serve(fake)
    message = ask(client, "/v1/chat/completions", tools=tools).json["choices"][0]["message"]
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ['{"x": "\U0001f600"}', '"\ufffd"']
    assert message["reasoning_content"] == "Hm \U0001f600"
    events = read_events(ask(client, "/v1/chat/completions", tools=tools, stream=True).data)[:-1]
    deltas = [event["choices"][0]["delta"] for event in events]
    pieces_of_first = [
        call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", ()) if not call["index"]
    ]
    assert "".join(pieces_of_first) == '{"x": "\U0001f600"}'
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm \U0001f600"
