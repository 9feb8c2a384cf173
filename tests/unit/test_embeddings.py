"""Embeddings: /v1/embeddings, the Python call, the command, and what each backend is sent and gives."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from asking import Log, Serve, error_of
from fakes import Fake
from flask import Flask
from openai.types import CreateEmbeddingResponse
from providers import HUGGING_FACE, OLLAMA, OPENAI, FarEnd
from werkzeug.test import TestResponse

from llm_api import LLMAPI
from llm_api.errors import ModelNotFound, RequestRefused

VECTOR = [0.5, -0.25, 1.0]


def maker(name: str = "one", vector: Callable[[str], Any] = lambda text: [float(len(text)), 0.5]) -> Fake:
    """Return a backend that makes vectors."""
    fake = Fake(name)
    fake.vector = vector
    return fake


def embed(client: Any, texts: Any, path: str = "/v1/embeddings", **fields: Any) -> TestResponse:
    """Post texts; return the answer."""
    reply: TestResponse = client.post(path, json={"model": "default", "input": texts} | fields)
    return reply


# The route


def test_vectors_in_their_order(serve: Serve, log_lines: Log) -> None:
    """Each text has its vector, in OpenAI's shape; the log has the texts and the size, and no vector."""
    fake = maker()
    reply = embed(serve(fake), ["a", "bcd"])
    body = CreateEmbeddingResponse.model_validate_json(reply.data, strict=True)
    assert [(item.index, item.embedding) for item in body.data] == [(0, [1.0, 0.5]), (1, [3.0, 0.5])]
    assert (body.model, body.usage.prompt_tokens, body.usage.total_tokens) == ("one/one-embed", 2, 2)
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Model"]) == ("one", "one-embed")
    assert (fake.embedded[0].model, fake.asked) == ("one-embed", [])
    (line,) = log_lines()
    assert (line["operation"], line["status"], line["model"]) == ("embedding", "ok", "one-embed")
    assert (line["inputs"], line["dimensions"], line["response"]) == ([{"text": "a"}, {"text": "bcd"}], 2, None)
    assert "[3.0" not in json.dumps(line)


def test_base64(serve: Serve) -> None:
    """It is what OpenAI's client reads: numbers of 32 bits, little-endian."""
    body = embed(serve(maker()), "abc", encoding_format="base64").get_json()
    assert struct.unpack("<2f", base64.b64decode(body["data"][0]["embedding"])) == (3.0, 0.5)


def test_texts_are_hidden(serve: Serve, log_lines: Log) -> None:
    """With LOG_PROMPTS=false the log has what tells texts apart, and not the texts."""
    embed(serve(maker(), log_prompts=False), ["secret words"])
    (entry,) = log_lines()[0]["inputs"]
    assert (entry.keys(), entry["text_chars"]) == ({"text_chars", "text_sha256"}, 12)


def test_many_texts_go_in_batches(serve: Serve) -> None:
    """2,048 texts are one request of the client's, of which no answer of a backend is too large."""
    fake = maker()
    body = embed(serve(fake), ["a" * (number % 7 + 1) for number in range(2048)]).get_json()
    assert [item["embedding"][0] for item in body["data"]] == [number % 7 + 1 for number in range(2048)]
    assert body["usage"]["prompt_tokens"] == 2048
    assert {len(request.texts) for request in fake.embedded} == {128}


@pytest.mark.parametrize("texts", [[1, 2], [[1, 2], [3]]])
def test_tokens_are_refused(serve: Serve, texts: Any) -> None:
    """LangChain's way, whose tokens are another model's: the answer names the switch that avoids it."""
    reply = embed(serve(maker()), texts)
    assert reply.status_code == 400
    assert "check_embedding_ctx_length=False" in error_of(reply)["message"]


@pytest.mark.parametrize(
    ("texts", "fields"),
    [
        *((texts, {}) for texts in ("", [], ["a", ""], ["a", 1], None, {"a": 1}, "a" * 11, ["a"] * 2049, True)),
        *(("a", {"dimensions": wrong}) for wrong in (0, -1, "2", 1.5)),
        ("a", {"encoding_format": "hex"}),
        ("a", {"model": ""}),
    ],
)
def test_wrong_fields(serve: Serve, texts: Any, fields: dict[str, Any]) -> None:
    """What has no vector is refused before a backend is asked."""
    fake = maker()
    reply = embed(serve(fake, max_prompt_chars=10), texts, **fields)
    assert (reply.status_code, error_of(reply)["param"]) == (400, next(iter(fields), "input"))
    assert fake.embedded == []


def test_nobody_falls_back(serve: Serve, log_lines: Log) -> None:
    """Another model's vectors would spoil an index: the error is the first backend's."""
    first, second = maker("one"), maker("two")

    def fail(text: str) -> None:
        raise ModelNotFound("gone")

    first.vector = fail
    assert embed(serve(first, second), "a").status_code == 404
    assert second.embedded == []
    assert [attempt["backend"] for attempt in log_lines()[0]["attempts"]] == ["one"]


@pytest.mark.parametrize("settings", [{}, {"llm_backend": "claude", "claude_api_key": "k" * 20}])
def test_who_has_none_says_so(make_client: Serve, settings: dict[str, Any]) -> None:
    """The stub invents no vectors, and Claude has none: 400 with words."""
    reply = embed(make_client(**settings), "a")
    assert (reply.status_code, "makes no embeddings" in error_of(reply)["message"]) == (400, True)


def test_a_backend_is_chosen_by_the_model(serve: Serve) -> None:
    """`backend/model` names who makes them, where that may be chosen."""
    first, second = maker("one"), maker("two")
    client = serve(first, second, allow_model_choice=True)
    assert embed(client, "a", model="two/two-embed").get_json()["model"] == "two/two-embed"
    assert (first.embedded, len(second.embedded)) == ([], 1)


@pytest.mark.parametrize(
    "vector",
    [
        lambda text: None if text == "b" else [1.0],
        lambda text: [],
        lambda text: [float("nan")],
        lambda text: [10**400],
        lambda text: ["1"],
        lambda text: [[1.0]],
        lambda text: [1.0] * len(text),
    ],
    ids=["too few", "empty", "not a number", "too large", "text", "one a token", "sizes differ"],
)
def test_wrong_vectors(serve: Serve, vector: Callable[[str], Any]) -> None:
    """As many vectors as texts, all of one size, or an error."""
    reply = embed(serve(maker(vector=vector)), ["a", "b", "ccc"])
    assert (reply.status_code, error_of(reply)["code"]) == (502, "invalid_answer")


def test_a_models_size_never_changes(serve: Serve) -> None:
    """A server that has got another model under the same name is found out."""
    fake = maker()
    client = serve(fake)
    assert embed(client, "a").status_code == 200
    fake.vector = lambda text: [1.0, 2.0, 3.0]
    reply = embed(client, "a")
    assert (reply.status_code, "3 dimensions, and one of 2 before" in error_of(reply)["message"]) == (502, True)


def test_dimensions_that_a_model_has_not(serve: Serve) -> None:
    """Servers that don't know the field give what they have: that is said, not passed on."""
    reply = embed(serve(maker()), "a", dimensions=3)
    assert (reply.status_code, error_of(reply)["param"]) == (400, "dimensions")
    assert embed(serve(maker()), "a", dimensions=2).status_code == 200


# Without HTTP


def test_python(make_app: Callable[..., Flask]) -> None:
    """The same by a Python call, with its errors."""
    answer = LLMAPI.of(make_app(maker())).embed(["a", "bcd"])
    assert (list(map(list, answer.vectors)), answer.model) == ([[1.0, 0.5], [3.0, 0.5]], "one-embed")
    with pytest.raises(RequestRefused, match="makes no embeddings"):
        LLMAPI.of(make_app()).embed(["a"])


def test_command(make_app: Callable[..., Flask]) -> None:
    """A vector a line, of arguments or of a pipe's lines; an error is one."""
    run = make_app(maker()).test_cli_runner().invoke
    assert run(args=["llm", "embed", "a", "bcd"]).output == "[1.0, 0.5]\n[3.0, 0.5]\n"
    assert run(args=["llm", "embed"], input="a\nbcd\n").output == "[1.0, 0.5]\n[3.0, 0.5]\n"
    failed = make_app().test_cli_runner().invoke(args=["llm", "embed", "a"])
    assert (failed.exit_code, "makes no embeddings" in failed.output) == (1, True)


# What backends are sent


def sent(far_end: FarEnd) -> Any:
    return json.loads(far_end.calls[-1].request.body or "")


def test_openai(make_client: Serve, far_end: FarEnd) -> None:
    """Asked in base64, which is shorter; the order is that of `index`. EXTRA_BODY is for conversations."""
    packed = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()
    items = [{"index": 1, "embedding": VECTOR}, {"object": "embedding", "index": 0, "embedding": packed}]
    answer = {"data": items, "model": "m-1", "usage": {"prompt_tokens": 2, "total_tokens": 2}}
    far_end.post(OPENAI.url.replace("chat/completions", "embeddings"), json=answer)
    client = make_client(**OPENAI.settings, openai_embed_model="m", openai_extra_body={"effort": "low"})
    body = embed(client, ["a", "b"], dimensions=3).get_json()
    assert [item["embedding"] for item in body["data"]] == [VECTOR, VECTOR]
    assert (body["model"], body["usage"]["prompt_tokens"]) == ("openai/m-1", 2)
    assert sent(far_end) == {"model": "m", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 3}


@pytest.mark.parametrize(
    "data",
    [[], [{"index": 0, "embedding": "&"}], [{"index": 1, "embedding": VECTOR}], [{"embedding": VECTOR}], "a", None],
)
def test_openai_wrong_answers(make_client: Serve, far_end: FarEnd, data: Any) -> None:
    """What is not a vector for the text is an invalid answer."""
    far_end.post(OPENAI.url.replace("chat/completions", "embeddings"), json={"data": data})
    assert error_of(embed(make_client(**OPENAI.settings), "a"))["code"] == "invalid_answer"


def test_ollama(make_client: Serve, far_end: FarEnd) -> None:
    """A text that is too long is refused there, not cut; what an operator says of its options holds."""
    url = OLLAMA.url.replace("/api/chat", "/api/embed")
    far_end.post(url, json={"model": "m", "embeddings": [VECTOR], "prompt_eval_count": 4})
    extra = {"options": {"num_ctx": 99}, "keep_alive": "1h", "other": 1}
    client = make_client(**OLLAMA.settings, ollama_embed_model="m", ollama_extra_body=extra)
    assert embed(client, "a").get_json()["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    asked = {"model": "m", "input": ["a"], "truncate": False, "options": {"num_ctx": 99}, "keep_alive": "1h"}
    assert sent(far_end) == asked
    far_end.post(url, json={"model": "m", "embeddings": []})
    assert error_of(embed(client, "a"))["code"] == "invalid_answer"
    far_end.post(url, status=400, json={"error": "the input length exceeds the context length"})
    assert error_of(embed(client, "a"))["code"] == "context_length_exceeded"


def test_hugging_face(make_client: Serve, far_end: FarEnd) -> None:
    """The router has them beside OpenAI's wire; it counts no tokens, so they are estimated: OpenAI's type has them."""
    far_end.post(
        "https://router.huggingface.co/hf-inference/models/o/m/pipeline/feature-extraction", json=[VECTOR, VECTOR]
    )
    texts = ["a" * 20, "b" * 20]
    reply = embed(make_client(**HUGGING_FACE.settings, hf_embed_model="o/m"), texts)
    body = CreateEmbeddingResponse.model_validate_json(reply.data, strict=True)
    assert (sent(far_end), len(body.data), body.usage.prompt_tokens) == ({"inputs": texts}, 2, 10)
    assert far_end.calls[0].request.headers["Authorization"].startswith("Bearer ")


def test_hugging_face_compatible(make_client: Serve, far_end: FarEnd) -> None:
    """Another server at HF_BASE_URL has OpenAI's route."""
    far_end.post("http://tei:8080/v1/embeddings", json={"data": [{"index": 0, "embedding": VECTOR}]})
    assert embed(make_client(**HUGGING_FACE.settings | {"hf_base_url": "http://tei:8080/v1"}), "a").status_code == 200
