"""Clients of Ollama's API and of embeddings against the service with SmolLM2, whose one process serves both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import openai
import pytest
from e2e.service import Service
from langchain_openai import OpenAIEmbeddings

NAME = "huggingface/SmolLM2-135M-Instruct"
ASKED = [{"role": "user", "content": "What is the capital of France?"}]
OPTIONS = {"temperature": 0, "num_predict": 20}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TEXTS = ["cat", "kitten", "interest rates"]


def address(service: Service, path: str = "") -> str:
    """Return what a client is told."""
    return f"http://127.0.0.1:{service.port}{path}"


@pytest.fixture
def client(smollm2: Service) -> Iterator[ollama.Client]:
    """Ollama's own client of the service."""
    client = ollama.Client(address(smollm2))
    yield client
    client._client.close()


def test_ollama_chat(client: ollama.Client) -> None:
    """Whole and streamed it is the same answer."""
    whole = client.chat(NAME, ASKED, options=OPTIONS)
    pieces = list(client.chat("SmolLM2-135M-Instruct:latest", ASKED, options=OPTIONS, stream=True))
    text = "".join(piece.message.content or "" for piece in pieces)
    assert (whole.message.content, "Paris" in text, len(pieces) > 3) == (text, True, True)
    assert pieces[-1].eval_count == whole.eval_count


def test_ollama_generate_in_a_format(client: ollama.Client) -> None:
    """A schema is kept to."""
    options = OPTIONS | {"num_predict": 60}
    said = client.generate("default", "The capital of France, in JSON.", format=CITY, options=options)
    assert (said.response.strip()[:1], said.done_reason) == ("{", "stop")


def test_ollama_lists(client: ollama.Client) -> None:
    """The model is listed with what it can and how much it takes."""
    assert [model.model for model in client.list().models] == [NAME]
    shown = client.show(NAME)
    assert {"completion", "embedding"} <= set(shown.capabilities or ())
    assert (shown.modelinfo or {})["huggingface.context_length"] == 4096


def test_ollama_errors(client: ollama.Client) -> None:
    """They come as words, and nobody else makes vectors."""
    with pytest.raises(ollama.ResponseError, match="SmolLM2") as missing:
        client.embed("none", "a")
    assert missing.value.status_code == 404


def vectors(smollm2: Service, **fields: Any) -> Any:
    with openai.OpenAI(base_url=address(smollm2, "/v1"), api_key="unused") as official:
        return official.embeddings.create(model="default", input=TEXTS, **fields)


def near(one: Any, other: Any) -> bool:
    return all(math.isclose(a, b, abs_tol=1e-3) for a, b in zip(one, other, strict=True))


def test_embeddings(smollm2: Service, client: ollama.Client) -> None:
    """OpenAI's client (base64 unless told otherwise), LangChain's and Ollama's get the same; the model still talks."""
    packed, plain = vectors(smollm2), vectors(smollm2, encoding_format="float")
    with httpx.Client() as http:
        told = {"base_url": address(smollm2, "/v1"), "api_key": "unused", "http_client": http}
        chain = OpenAIEmbeddings(model="default", check_embedding_ctx_length=False, **told).embed_documents(TEXTS)
    wanted = [item.embedding for item in packed.data]
    assert packed.usage.prompt_tokens >= len(TEXTS)
    floats = [item.embedding for item in plain.data]
    for found in (floats, chain, client.embed(NAME, TEXTS).embeddings):
        assert all(map(near, found, wanted))
    assert math.isclose(math.hypot(*wanted[0]), 1, abs_tol=1e-3)
    assert "Paris" in (client.chat(NAME, ASKED, options=OPTIONS).message.content or "")


def test_a_text_that_is_too_long(smollm2: Service) -> None:
    """It is refused with its length, not cut."""
    with (
        openai.OpenAI(base_url=address(smollm2, "/v1"), api_key="unused") as official,
        pytest.raises(openai.BadRequestError, match="tokens") as refused,
    ):
        official.embeddings.create(model="default", input="word " * 5000)
    assert refused.value.code == "context_length_exceeded"
