"""The stub: always there, deterministic, and honest about what it is."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from asking import Serve
from fakes import message

from llm_api import Settings
from llm_api.backends import make_backend
from llm_api.runtime.deadline import Deadline
from llm_api.types import Chunk, GenerationRequest

TEXT = "[stub] This is a stub: no language model answered. The prompt has 5 characters: a b c"
WORDS = TEXT.split(" ")

Say = Callable[..., dict[str, Any]]


@pytest.fixture
def say(make_client: Serve) -> Say:
    """Return an asker of the stub for its answer with details."""

    def say(prompt: str = "a b c", **body: Any) -> dict[str, Any]:
        answer = make_client().post("/generate", json={"prompt": prompt, "details": True} | body)
        assert answer.status_code == 200
        found: dict[str, Any] = answer.get_json()
        return found

    return say


def chunks(request: GenerationRequest, *, stream: bool = True) -> list[Chunk]:
    asked = dataclasses.replace(request, stream=stream)
    return list(make_backend("stub", Settings()).stream(asked, Deadline(10)))


def test_it_says_what_it_is(say: Say) -> None:
    """The text names itself, always the same, with the words counted as tokens."""
    first, second = say(), say()
    assert first["response"] == second["response"] == TEXT
    assert first["details"]["usage"] == {"input_tokens": 3, "output_tokens": len(WORDS)}
    assert (first["details"]["finish_reason"], first["details"]["model"]) == ("stop", "stub")


def test_a_system_message_counts(say: Say) -> None:
    """It is part of the input, not of the quote."""
    answer = say(system="be kind")
    assert answer["response"] == TEXT
    assert answer["details"]["usage"]["input_tokens"] == 5


@pytest.mark.parametrize(
    ("prompt", "quote"),
    [("x" * 80, "x" * 80), ("x" * 81, "x" * 80), ("a\n b\t\tc", "a b c"), ("é😀", "é😀")],
)
def test_the_quote_is_one_short_line(say: Say, prompt: str, quote: str) -> None:
    """At most 80 characters of the prompt, white space folded; the count is of the whole."""
    assert say(prompt)["response"].endswith(f"The prompt has {len(prompt)} characters: {quote}")


@pytest.mark.parametrize(("max_tokens", "finish"), [(1, "length"), (16, "length"), (17, "stop"), (10_000, "stop")])
def test_max_tokens(say: Say, max_tokens: int, finish: str) -> None:
    """Cut after so many words, and the finish reason says so."""
    assert len(WORDS) == 17
    answer = say(max_tokens=max_tokens)
    assert answer["response"].split() == WORDS[:max_tokens]
    assert answer["details"]["finish_reason"] == finish
    assert answer["details"]["usage"]["output_tokens"] == min(max_tokens, 17)


@pytest.mark.parametrize(
    ("stop", "end"),
    [
        ("language", "[stub] This is a stub: no "),
        ("stub: no", "[stub] This is a "),
        (["answered", "language"], "[stub] This is a stub: no "),
        ("[", ""),
        ("nowhere", TEXT),
        ("c characters", TEXT),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_stop(make_client: Serve, stop: str | list[str], end: str, stream: bool) -> None:
    """The answer ends before the first stop text, also where that spans two pieces."""
    answer = make_client().post("/generate", json={"prompt": "a b c", "stop": stop, "stream": stream})
    lines = [json.loads(line) for line in answer.data.splitlines()]
    assert "".join(line["response"] for line in lines) == end
    assert lines[-1].get("finish_reason") == ("stop" if stream else None)


def test_it_streams_word_by_word() -> None:
    """Pieces join to the whole; only the last chunk has a finish reason and the usage."""
    request = GenerationRequest((message("user", "a b c"),), stream=True)
    *pieces, last = chunks(request)
    assert [piece.text.strip() for piece in pieces] == WORDS
    assert "".join(piece.text for piece in pieces) == TEXT
    assert all(piece.finish_reason is None for piece in pieces)
    assert (last.text, last.finish_reason, last.usage.output_tokens) == ("", "stop", 17)
    assert chunks(request, stream=False) == [dataclasses.replace(last, text=TEXT)]


def test_it_quotes_the_last_turn() -> None:
    """Of a conversation the newest message is the prompt."""
    turns = (message("user", "first"), message("assistant", "well"), message("user", "a b c"))
    assert "".join(chunk.text for chunk in chunks(GenerationRequest(turns))) == TEXT


@pytest.mark.parametrize("format_", [{"type": "json_object"}, {"type": "object"}])
def test_it_has_no_json(make_client: Serve, format_: dict[str, str]) -> None:
    """A stub's text in place of JSON would break its reader: it refuses, and names the field."""
    answer = make_client().post("/generate", json={"prompt": "x", "response_format": format_})
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", "response_format")


def test_it_is_always_there() -> None:
    """Its check never raises, and it lists itself."""
    stub = make_backend("stub", Settings())
    stub.check(Deadline(0))
    assert stub.list_models(Deadline(0)) == ["stub"]
