"""What is peculiar to Ollama's chat API (docs/providers.md, 2): models are pulled, and have tags."""

from __future__ import annotations

from typing import Any

import pytest
from asking import Log, Serve, ask, error_of, lines_of, texts_of
from providers import OLLAMA, FarEnd, check_fallback, ollama_answer

from llm_api import Settings
from llm_api.backends import Backend, make_backend
from llm_api.errors import ModelNotFound
from llm_api.runtime.deadline import Deadline

TAGS = {"models": [{"name": "gemma4:latest", "model": "gemma4:latest"}, {"name": "llama3.2:1b"}]}


def test_tool_calls(make_client: Serve, far_end: FarEnd) -> None:
    """Tools that are called are the reason for the end, whatever done_reason says."""
    message = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
    far_end.post(OLLAMA.url, json=ollama_answer("", message=message))
    assert ask(make_client(**OLLAMA.settings), details=True).json["details"]["finish_reason"] == "tool_calls"


def test_stream_with_text_in_its_last_line(make_client: Serve, far_end: FarEnd) -> None:
    """Text that comes with the end of the stream is not lost."""
    far_end.post(OLLAMA.url, json=ollama_answer("Hello", done_reason="length"))
    reply = ask(make_client(**OLLAMA.settings), stream=True)
    assert texts_of(reply) == ["Hello"]
    assert lines_of(reply)[-1]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("said", "model", "tags", "pulled"),
    [
        ({}, "llama2", {"json": TAGS}, "gemma4, llama3.2:1b"),
        ({"model": "mine:7b"}, "mine:7b", {"json": TAGS}, "gemma4, llama3.2:1b"),
        ({}, "llama2", {"json": {"models": []}}, "none"),
        ({}, "llama2", {"status": 500}, "not known"),
        ({}, "llama2", {"json": {"wrong": 1}}, "not known"),
        ({}, "llama2", {"json": {"models": None}}, "not known"),
        ({}, "llama2", {"body": "<html>"}, "not known"),
    ],
)
def test_model_that_is_not_pulled(
    make_client: Serve,
    far_end: FarEnd,
    log_lines: Log,
    said: dict[str, str],
    model: str,
    tags: dict[str, Any],
    pulled: str,
) -> None:
    """A 404 names the command that pulls the model and the models that are there, as far as these are known."""
    far_end.post(OLLAMA.url, status=404, json={"error": f"model '{model}' not found"})
    far_end.get(OLLAMA.models_url, **tags)
    reply = ask(make_client(**OLLAMA.settings), **said)
    message = f"ollama has no model '{model}': pull it with `ollama pull {model}` (pulled: {pulled})"
    assert reply.status_code == 404
    assert error_of(reply) | {"type": None} == {
        "message": message,
        "type": None,
        "code": "model_not_found",
        "param": "model",
    }
    backed = ask(make_client(**OLLAMA.settings, llm_fallback=("stub",)), **said)
    check_fallback(backed, log_lines()[-1], "model_not_found", "ollama")


def backend(**settings: Any) -> Backend:
    return make_backend("ollama", Settings(**settings))


@pytest.mark.parametrize("model", ["gemma4", "gemma4:latest", "llama3.2:1b"])
def test_check_of_a_pulled_model(far_end: FarEnd, model: str) -> None:
    """A name without a tag means `:latest`, for the configured model as for the pulled ones."""
    far_end.get(OLLAMA.models_url, json=TAGS)
    assert backend(ollama_model=model).check(Deadline(5)) is None


@pytest.mark.parametrize("model", ["llama2", "gemma4:27b", "llama3.2", "gemma", "other/gemma4"])
def test_check_of_a_model_that_is_not_pulled(far_end: FarEnd, model: str) -> None:
    """Another tag, another namespace or the beginning of a name is another model."""
    far_end.get(OLLAMA.models_url, json=TAGS)
    with pytest.raises(ModelNotFound, match=rf"ollama pull {model}`.*gemma4, llama3.2:1b"):
        backend(ollama_model=model).check(Deadline(5))


@pytest.mark.parametrize(
    ("model", "pulled"),
    [
        ("hf.co/org/name", "hf.co/org/name:latest"),
        ("hf.co/org/name:Q4_K_M", "hf.co/org/name:Q4_K_M"),
        ("host:5000/name", "host:5000/name:latest"),
        ("name:latest", "name"),
    ],
)
def test_tags_of_long_names(far_end: FarEnd, model: str, pulled: str) -> None:
    """The port of a registry is no tag."""
    far_end.get(OLLAMA.models_url, json={"models": [{"name": pulled}]})
    assert backend(ollama_model=model).check(Deadline(5)) is None
