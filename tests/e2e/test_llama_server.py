"""llama.cpp's own server as OpenAI, as Hugging Face's router and as Claude."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

import pytest

from .service import Service, eventually, running
from .stories import check_stream

CAPITAL = "What is the capital of France?"
ADDRESSES = {
    "openai": lambda url: {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_MODEL": "smollm2"},
    "huggingface": lambda url: {"HF_MODE": "cloud", "HF_BASE_URL": f"{url}/v1", "HF_MODEL": "smollm2"},
    "claude": lambda url: {"CLAUDE_BASE_URL": url, "CLAUDE_MODEL": "smollm2"},
}


@pytest.fixture(scope="module", params=list(ADDRESSES))
def service(
    request: pytest.FixtureRequest, llama_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service with each of the three backends before the same server."""
    home = tmp_path_factory.mktemp(request.param)
    settings = {"LLM_BACKEND": request.param, "LLM_FALLBACK": "none", **ADDRESSES[request.param](llama_server)}
    with running(home, **settings) as service:
        yield service


def computes(llama_server: str) -> bool:
    """Return whether any slot of llama.cpp's server is at work."""
    with urllib.request.urlopen(f"{llama_server}/slots") as answer:
        return any(slot["is_processing"] for slot in json.load(answer))


def test_whole_answer(service: Service) -> None:
    """A whole answer is the model's, with the usage that the server counted."""
    reply = service.generate(
        CAPITAL, system="You are a helpful assistant. Answer briefly.", temperature=0, max_tokens=20, details=True
    )

    assert "Paris" in reply.body["response"]
    details = reply.body["details"]
    assert details["finish_reason"] == "stop"
    assert details["usage"]["input_tokens"] in range(10, 40)
    assert details["usage"]["output_tokens"] in range(3, 20)
    assert (reply.headers["X-LLM-Backend"], reply.headers["X-LLM-Model"]) == (details["backend"], "smollm2")


def test_stream(service: Service) -> None:
    """A stream has the whole answer's text in pieces and its usage, and begins before the answer is complete."""
    pieces, last = check_stream(service)

    assert len(pieces) > 10
    assert (last["done"], last["finish_reason"]) == (True, "length")
    assert last["details"]["usage"]["output_tokens"] == 24


def test_options_reach_the_model(service: Service) -> None:
    """What a request asks for reaches the model: a stop text ends the answer before it."""
    reply = service.generate("Count from 1 to 10.", temperature=0, max_tokens=40, stop="3", details=True)

    assert reply.body["response"].rstrip() == "1. 1\n2. 2"
    assert reply.body["details"]["finish_reason"] == "stop"


def test_health_asks_the_server(service: Service) -> None:
    """The server's list of models makes the service healthy."""
    health = service.get("/health")

    assert (health.status, health.body["status"]) == (200, "healthy")


def test_client_that_leaves_stops_the_server(service: Service, llama_server: str) -> None:
    """A client that leaves is logged once as `aborted`, and the server behind stops generating for it."""
    story = {"prompt": "Write a very long story about the sea.", "temperature": 0, "max_tokens": 4000}
    with service.ask(**story, stream=True) as answer:
        request_id = answer.head()["X-Request-ID"]
        received = next(answer.lines())["response"]
        assert computes(llama_server)

    [line] = eventually(lambda: service.log(request_id=request_id))
    assert line["status"] == "aborted"
    assert line["response"].startswith(received)
    eventually(lambda: not computes(llama_server))


def test_overflow_is_the_clients_mistake(service: Service) -> None:
    """A prompt that is too long for the server's model is a 400 with the server's words."""
    reply = service.generate("word " * 9000)

    assert reply.status == 400
    assert "8192" in reply.body["error"]["message"]
