"""The dialects by themselves: without a server, Flask, a log or settings, each does what the view relies on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from asking import GENERATE

from llm_api.dialects import DIALECTS, Asked, Dialect
from llm_api.dialects.anthropic import STOPS
from llm_api.errors import ModelNotFound, QuotaExhausted, RequestRefused, ServerError, ValidationFailed
from llm_api.types import Answer, Chunk, GenerationRequest, Head, Message, Usage

ROOT = Path(__file__).parents[2]
HEAD = Head("id-1", 1_795_000_000.5, 0.0, "one", "one-model")
USAGE = Usage(3, 2)
ANSWERS = {
    "pieces": [Chunk("Hi "), Chunk("there"), Chunk("", "stop", USAGE)],
    "one piece": [Chunk("Hi there", "length", USAGE)],
    "empty": [Chunk("", "stop", USAGE)],
    "silence": [Chunk(), Chunk("Hi"), Chunk(), Chunk("", "stop", USAGE)],
    "usage unknown": [Chunk("Hi"), Chunk("", "content_filter")],
    "half of the usage": [Chunk("Hi"), Chunk("", "stop", Usage(3, None))],
    "refusal": [Chunk(refusal="I "), Chunk(refusal="can't."), Chunk("", "stop", USAGE)],
    "odd text": [Chunk("a\nb\r\n\u2028"), Chunk("\x00"), Chunk("data: [DONE]\n\n", "stop", USAGE)],
}
EACH = pytest.mark.parametrize(
    "dialect", [kind(100, 100) for kind in DIALECTS if kind.rule in GENERATE], ids=lambda dialect: dialect.name
)


def body(dialect: Dialect, **fields: Any) -> dict[str, Any]:
    """Return the plain body of a dialect's route, with `fields`."""
    return GENERATE[dialect.rule][0] | fields


def asked(dialect: Dialect) -> Asked:
    """Return a request that shows all that the dialect can."""
    more = {"generate": {"details": True}, "messages": {}}.get(
        dialect.name, {"stream_options": {"include_usage": True}}
    )
    return dialect.read(body(dialect, stream=True, **more))


@dataclass
class Told:
    """What a client knows of an answer in the end."""

    text: str = ""
    refusal: str = ""
    finish_reason: str | None = None
    usage: Any = None


def read_whole(answer: dict[str, Any]) -> Told:
    """Read the body of a whole answer as a client does."""
    if "response" in answer:
        return Told(answer["response"], "", answer["details"]["finish_reason"], answer["details"]["usage"])
    if "content" in answer:
        return Told("".join(block["text"] for block in answer["content"]), "", answer["stop_reason"], answer["usage"])
    if "output" in answer:
        return read_response(answer)
    (choice,) = answer["choices"]
    said = choice.get("message", {})
    text = choice["text"] if "text" in choice else said["content"]
    return Told(text or "", said.get("refusal") or "", choice["finish_reason"], answer.get("usage"))


def read_response(answer: dict[str, Any]) -> Told:
    """Read the object of Responses, which also ends its streams."""
    parts = [part for item in answer["output"] for part in item["content"]]
    text, refusal = ("".join(part.get(name, "") for part in parts) for name in ("text", "refusal"))
    reasons = {"max_output_tokens": "length", "content_filter": "content_filter"}
    reason = reasons[answer["incomplete_details"]["reason"]] if answer["incomplete_details"] else "stop"
    return Told(text, refusal, reason, answer["usage"])


def read_pieces(pieces: Iterator[str]) -> Told:
    """Fold the texts of a stream as a client does."""
    told = Told()
    for data in "".join(pieces).split("\n"):
        line = data.removeprefix("data: ")
        if not line or line.startswith((":", "event: ")) or line == "[DONE]":
            continue
        if line.startswith("event: "):
            continue
        event = json.loads(line)
        if response := event.get("response") if "sequence_number" in event else None:
            ended, told.usage = read_response(response), response["usage"]
            told.finish_reason = ended.finish_reason if response["status"] != "in_progress" else None
            assert (ended.text, ended.refusal) == (told.text, told.refusal)
        if "sequence_number" in event:
            told.text += event["delta"] if event["type"] == "response.output_text.delta" else ""
            told.refusal += event["delta"] if event["type"] == "response.refusal.delta" else ""
            continue
        told.text += event.get("response", "")
        if details := event.get("details"):
            told.finish_reason, told.usage = details["finish_reason"], details["usage"]
        told.usage = event.get("usage") or told.usage
        if delta := event.get("delta"):
            told.text += delta.get("text", "")
            told.finish_reason = delta.get("stop_reason") or told.finish_reason
        for choice in event.get("choices", []):
            delta = choice.get("delta", {})
            told.text += choice.get("text", "") or delta.get("content", "")
            told.refusal += delta.get("refusal", "")
            told.finish_reason = choice["finish_reason"] or told.finish_reason
    return told


@EACH
def test_read(dialect: Dialect) -> None:
    """The plain body of each route is the same request."""
    request = replace(dialect.read(body(dialect)).request, extras=None)
    assert request == GenerationRequest((Message.of("user", "Hi"),))


@EACH
@pytest.mark.parametrize("fields", [{"max_tokens": 0}, {"temperature": "1"}, {"top_p": 2}])
def test_read_refuses(dialect: Dialect, fields: dict[str, Any]) -> None:
    """A wrong field is named, with the dialect's status."""
    with pytest.raises(ValidationFailed) as refused:
        dialect.read(body(dialect, **fields))
    assert (refused.value.status, refused.value.param) == (dialect.wrong_field, next(iter(fields)))


@EACH
@pytest.mark.parametrize("chunks", ANSWERS.values(), ids=ANSWERS)
def test_pieces_are_the_whole(dialect: Dialect, chunks: list[Chunk]) -> None:
    """What a client folds out of a stream is what it reads in a whole answer."""
    wanted = asked(dialect)
    whole = read_whole(dialect.whole(Answer.of(chunks, HEAD), wanted))
    assert read_pieces(dialect.pieces(HEAD, iter(chunks), wanted)) == whole
    stop = "refusal" if whole.text and chunks[0].refusal else STOPS[chunks[-1].finish_reason or ""]
    assert whole.finish_reason == (stop if dialect.name == "messages" else chunks[-1].finish_reason)
    assert whole.text + whole.refusal == "".join(chunk.text + chunk.refusal for chunk in chunks)


def plain(frame: str) -> dict[str, Any]:
    """Return what a frame of a stream says, but for its place in the stream."""
    said: dict[str, Any] = json.loads(frame[frame.index("{") :])
    return said | {"sequence_number": 0}


@EACH
def test_a_stream_that_breaks(dialect: Dialect) -> None:
    """What came stays, the error is the last text, and is raised: nobody may take that for the end."""

    def chunks() -> Iterator[Chunk]:
        yield Chunk("Hi ")
        raise ServerError("it broke")

    pieces = dialect.pieces(HEAD, chunks(), asked(dialect))
    said: list[str] = []
    with pytest.raises(ServerError, match="it broke"):
        said.extend(pieces)  # a list keeps what came before
    assert plain(said[-1]) == plain(dialect.broken(ServerError("it broke")))
    assert "Hi " in "".join(said[:-1])


@EACH
def test_broken(dialect: Dialect) -> None:
    """It has the words of `error`, in one frame of a stream."""
    error = QuotaExhausted("m")
    frame = dialect.broken(error)
    assert frame.endswith("\n")
    assert plain(frame)["error"] == dialect.error(error, "id-1")["error"]


@EACH
def test_error(dialect: Dialect) -> None:
    """The envelope has the request's id, and what is wrong in a body by its field."""
    envelope = dialect.error(ModelNotFound("m", param="model"), "id-1")
    assert (envelope["request_id"], envelope["error"]["code"]) == ("id-1", "model_not_found")
    assert envelope["error"].keys() == {"message", "type", "code", "param"}
    wrong = ValidationFailed("w", param="prompt", fields={"x": ["y"]})
    assert dialect.error(wrong, "id-1")["fields"] == {"x": ["y"]}
    refused = RequestRefused("m", param="prompt")
    assert dialect.error(refused, "id-1")["error"]["param"] == dialect.conversation


@EACH
def test_status(dialect: Dialect) -> None:
    """Errors have their own; a used-up quota is a 429 where OpenAI's clients look for it."""
    assert dialect.status(ServerError("m")) == 502
    assert dialect.status(QuotaExhausted("m")) == (503 if dialect.name in ("generate", "messages") else 429)


def test_nothing_of_the_service_is_imported() -> None:
    """To speak a dialect needs no Flask, no log and no settings, which the package's own door has: it is not used."""
    code = (
        "import sys, types; package = types.ModuleType('llm_api'); package.__path__ = ['llm_api'];"
        "sys.modules['llm_api'] = package; import llm_api.dialects;"
        "print(*sorted({'.'.join(name.split('.')[:2]) for name in sys.modules if name.startswith('llm_api.')}));"
        "print(sorted({'flask', 'werkzeug', 'requests', 'jsonschema'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    rooms, foreign = ended.stdout.splitlines()
    assert rooms == "llm_api.dialects llm_api.errors llm_api.rules llm_api.strict_json llm_api.types"
    assert (foreign, ended.stderr) == ("[]", "")
