"""Ollama's wire: the server of these tests against the official client, and our backend against the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .service import Reply, Service, eventually, running
from .stories import check_stream

CAPITAL = "What is the capital of France?"


@pytest.fixture
def official(require: Callable[..., None], ollama_server: str) -> Iterator[Any]:
    """Ollama's own client."""
    require("ollama")
    import ollama

    client = ollama.Client(ollama_server, trust_env=False)
    yield client
    client._client.close()


@pytest.fixture(scope="module")
def service(ollama_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with our Ollama backend; LLM_BACKEND is left at its default."""
    with running(tmp_path_factory.mktemp("ollama"), OLLAMA_URL=ollama_server, OLLAMA_MODEL="smollm2") as service:
        yield service


def chat(**options: Any) -> dict[str, Any]:
    """Return the arguments for a chat with the official client."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant. Answer briefly."},
        {"role": "user", "content": CAPITAL},
    ]
    return {"model": "smollm2", "messages": messages, "options": {"temperature": 0, "num_predict": 20} | options}


def test_server_lists_for_the_official_client(official: Any) -> None:
    """The official client reads the server's list of models."""
    [model] = official.list().models

    assert model.model == "smollm2:latest"
    assert model.details.format == "gguf"
    assert model.modified_at.year == 2026


def test_server_chats_with_the_official_client(official: Any) -> None:
    """The official client reads a whole chat with its counts, and the options are obeyed."""
    answer = official.chat(**chat())
    cut = official.chat(**chat(num_predict=3))

    assert "Paris" in answer.message.content
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert (cut.done_reason, cut.eval_count) == ("length", 3)
    assert cut.prompt_eval_count == answer.prompt_eval_count > 10


def test_server_streams_to_the_official_client(official: Any) -> None:
    """The official client reads a stream whose pieces join to the whole answer."""
    *pieces, last = official.chat(**chat(), stream=True)

    assert len(pieces) > 3
    assert not any(piece.done for piece in pieces)
    assert "".join(piece.message.content for piece in pieces) == official.chat(**chat()).message.content
    assert (last.done, last.done_reason, last.message.content) == (True, "stop", "")


def test_server_refuses_the_official_client_as_ollama_does(official: Any) -> None:
    """A model that was not pulled is a 404 in Ollama's words."""
    import ollama

    with pytest.raises(ollama.ResponseError, match="model 'llama2' not found") as caught:
        official.chat(**chat() | {"model": "llama2"})

    assert caught.value.status_code == 404


def test_whole_answer(service: Service) -> None:
    """Our backend gives the model's answer with Ollama's counts."""
    reply = service.generate(
        CAPITAL, system="You are a helpful assistant. Answer briefly.", temperature=0, max_tokens=20, details=True
    )

    assert "Paris" in reply.body["response"]
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Model"]) == ("ollama", "smollm2")
    assert "X-LLM-Fallback" not in reply.headers
    assert reply.body["details"]["finish_reason"] == "stop"
    assert reply.body["details"]["usage"]["input_tokens"] > 10
    assert reply.body["details"]["usage"]["output_tokens"] in range(3, 20)


def test_options_reach_the_model(service: Service) -> None:
    """max_tokens, stop, seed and a schema do with our backend what they do in Ollama."""
    counted = {"prompt": "Count from 1 to 10.", "temperature": 0, "details": True}
    cut = service.generate(**counted, max_tokens=4).body["details"]
    stopped = service.generate(**counted, max_tokens=40, stop="3").body
    seeded = [service.generate("Name an animal.", temperature=1, max_tokens=12, seed=s).body for s in (1, 1, 2)]
    schema = {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}
    bound = service.generate(CAPITAL, response_format=schema, max_tokens=40).body

    assert (cut["finish_reason"], cut["usage"]["output_tokens"]) == ("length", 4)
    assert stopped["response"] == "1. 1\n2. 2\n"
    assert stopped["details"]["finish_reason"] == "stop"
    assert seeded[0] == seeded[1] != seeded[2]
    assert json.loads(bound["response"]) == {"city": "Rome"}


def test_stream(service: Service) -> None:
    """A stream has the whole answer's text in pieces, and begins before the answer is complete."""
    check_stream(service)


def test_health_is_healthy_with_the_model_pulled(service: Service) -> None:
    """The model is in Ollama's list, under its name without the tag."""
    assert service.get("/health").body["status"] == "healthy"


def test_model_that_is_not_pulled(service: Service) -> None:
    """A model that is not there is a 404 that says how to get it and what is there; with fallback the stub answers."""
    refused = service.generate("Hello", model="llama2", fallback=False)
    answered = service.generate("Hello", model="llama2")

    assert (refused.status, refused.body["error"]["code"]) == (404, "model_not_found")
    assert "ollama pull llama2" in refused.body["error"]["message"]
    assert "pulled: smollm2" in refused.body["error"]["message"]
    assert answered.headers["X-LLM-Fallback"] == "model_not_found"


def test_health_without_the_model(serve: Callable[..., Service], ollama_server: str) -> None:
    """With the default model, which is not pulled, the service is degraded, and unhealthy without fallback."""
    degraded, unhealthy = (
        eventually(lambda service=service: _told(service.get("/health")))
        for service in (serve(OLLAMA_URL=ollama_server), serve(OLLAMA_URL=ollama_server, LLM_FALLBACK="none"))
    )

    assert (degraded.status, degraded.body["status"]) == (200, "degraded")
    assert "ollama pull llama2" in degraded.body["reason"]
    assert (unhealthy.status, unhealthy.body["status"]) == (503, "unhealthy")


def _told(health: Reply) -> Reply | None:
    """Return what /health says once the backends have answered; the first one waits for nobody."""
    return None if "not answered yet" in health.body["reason"] else health


def test_client_that_leaves_a_stream(service: Service) -> None:
    """A client that leaves is logged once as `aborted`, with what it was sent."""
    story = {"prompt": "Write a very long story about the sea.", "temperature": 0, "max_tokens": 4000}
    with service.ask(**story, stream=True) as answer:
        request_id = answer.head()["X-Request-ID"]
        received = next(answer.lines())["response"]

    [line] = eventually(lambda: service.log(request_id=request_id))
    assert line["status"] == "aborted"
    assert line["response"].startswith(received)
