"""What is peculiar to Ollama's chat API (docs/providers.md, 2): models are pulled, and have tags."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import requests
from asking import GENERATE, Log, Serve, ask, error_of, lines_of, texts_of
from flask import Flask
from providers import AT_ONCE, OLLAMA, FarEnd, check_fallback, ollama_answer, ollama_line, sent

from llm_api import LLMAPI, Settings
from llm_api.backends import Backend, make_backend
from llm_api.errors import ModelNotFound, NotConfigured
from llm_api.runtime.deadline import Deadline

SHOW = f"{OLLAMA.base}/api/show"

TAGS = {"models": [{"name": "gemma4:latest", "model": "gemma4:latest"}, {"name": "llama3.2:1b"}]}


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


FORMS = ["SMOL", "smol", "smol:latest", "library/smol", "registry.example/library/smol:latest", "hf.co/org/name:Q4_K_M"]


def shown(*can: str) -> dict[str, Any]:
    """Return the answer of `/api/show` for a model with these abilities; an older Ollama names none."""
    return {"details": {"format": "gguf"}, "model_info": {}} | ({"capabilities": can} if can else {})


@pytest.mark.parametrize("can", [(), ("completion",), ("completion", "tools", "something new")], ids=str)
@pytest.mark.parametrize("model", FORMS)
def test_check_of_a_pulled_model(far_end: FarEnd, model: str, can: tuple[str, ...]) -> None:
    """Ollama is asked for the model by the name that is configured, whose forms it knows."""
    far_end.post(SHOW, json=shown(*can))
    assert backend(ollama_model=model).check(Deadline(5)) is None
    assert sent(far_end) == {"model": model}


@pytest.mark.parametrize("verb", ["check", "has_model"])
def test_check_of_a_model_that_is_not_pulled(far_end: FarEnd, verb: str) -> None:
    """It says how to pull it, and which are there."""
    far_end.post(SHOW, status=404, json={"error": "model 'llama2' not found"})
    far_end.get(OLLAMA.models_url, json=TAGS)
    with pytest.raises(ModelNotFound, match=r"ollama pull llama2`.*gemma4, llama3.2:1b"):
        getattr(backend(), verb)(Deadline(5))


@pytest.mark.parametrize("can", [("embedding",), ("image", "vision")], ids=str)
def test_check_of_a_model_that_cannot_chat(far_end: FarEnd, can: tuple[str, ...]) -> None:
    """One that is there for other work can't answer."""
    far_end.post(SHOW, json=shown(*can))
    with pytest.raises(NotConfigured, match=f"nomic can't chat, only {', '.join(can)}: set OLLAMA_MODEL"):
        backend(ollama_model="nomic").check(Deadline(5))


@pytest.mark.parametrize("model", FORMS)
def test_health(make_client: Serve, far_end: FarEnd, model: str) -> None:
    """A service is healthy whichever of its forms the model's name has."""
    far_end.post(SHOW, json=shown("completion"))
    assert make_client(**OLLAMA.settings, ollama_model=model).get("/health").json["status"] == "healthy"


# Whose fault an error is, and why


def runners(status: int, message: str, kind: str = "invalid_request_error") -> str:
    """Return the text of an error as Ollama 0.34 and later pass it on from their runner."""
    return json.dumps({"error": {"code": status, "message": message, "type": kind}})


MEMORY = "model requires more system memory (9.9 GiB) than is available (7.6 GiB)"
OVERFLOW = "request (2622 tokens) exceeds the available context size (512 tokens), try increasing it"
BUSY = "server busy, please try again.  maximum pending requests exceeded"
# Its status and text; our status, code and param.
ERRORS = [
    (500, "invalid JSON schema in format", 400, "request_refused", "response_format"),
    (
        500,
        'invalid format: "\\"yaml\\""; expected "json" or a valid JSON Schema',
        400,
        "request_refused",
        "response_format",
    ),
    (500, runners(400, "Failed to parse grammar"), 400, "request_refused", "response_format"),
    *[
        (500, f'option "{name}" must be {what}', 400, "request_refused", None)
        for name, what in [
            ("temperature", "of type float32"),
            ("num_ctx", "of type integer"),
            ("use_mmap", "of type boolean"),
            ("stop", "of type array"),
            ("stop", "of an array of strings"),
        ]
    ],
    (400, "the input length exceeds the context length", 400, "context_length_exceeded", "prompt"),
    (500, "the input length exceeds the context length", 400, "context_length_exceeded", "prompt"),
    (400, runners(400, OVERFLOW, "exceed_context_size_error"), 400, "context_length_exceeded", "prompt"),
    (400, "invalid model name", 404, "model_not_found", "model"),
    (400, '"nomic-embed-text" does not support chat', 404, "model_not_found", "model"),
    (400, '"smol" does not support thinking', 400, "request_refused", None),
    (500, MEMORY, 502, "server_error", None),
    (500, "llama runner process has terminated: CUDA error: out of memory", 502, "server_error", None),
    (500, "timed out waiting for llama runner to start", 502, "server_error", None),
    (500, runners(500, "context was lost", "server_error"), 502, "server_error", None),
    (503, BUSY, 503, "overloaded", None),
    (502, "cloud unreachable", 502, "server_error", None),
]


def words_of(text: str) -> str:
    """Return the words of an error's text, which may be an error itself, in one line."""
    words = json.loads(text)["error"]["message"] if text.startswith("{") else text
    return " ".join(words.split())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("status", "text", "ours", "code", "param"), ERRORS)
def test_error(
    make_client: Serve,
    far_end: FarEnd,
    log_lines: Log,
    status: int,
    text: str,
    ours: int,
    code: str,
    param: str | None,
    stream: bool,
) -> None:
    """Its text says whose fault an error is where its status doesn't, and reaches the client and the log."""
    far_end.post(OLLAMA.url, status=status, json={"error": text})
    reply = ask(make_client(**OLLAMA.settings, llm_fallback=("stub",)), stream=stream, fallback=False)
    error = error_of(reply)
    assert (reply.status_code, error["code"], error["param"]) == (ours, code, param)
    assert words_of(text) in error["message"]
    assert log_lines()[-1]["error"]["message"] == error["message"]
    backed = ask(make_client(**OLLAMA.settings, llm_fallback=("stub",)), stream=stream)
    assert (backed.headers.get("X-LLM-Fallback") == code) is (ours != 400)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("an error was encountered while running the model: unexpected EOF", "server_error"),
        (MEMORY, "server_error"),
        (runners(500, "slot lost", "server_error"), "server_error"),
        ("invalid JSON schema in format", "request_refused"),
        ("the input length exceeds the context length", "context_length_exceeded"),
    ],
)
def test_error_in_a_stream(make_client: Serve, far_end: FarEnd, log_lines: Log, text: str, code: str) -> None:
    """An error after the first piece is read in the same way, for the event and the log; before it, it has a status."""
    line = json.dumps({"error": text}).encode() + b"\n"
    client = make_client(**OLLAMA.settings, max_retries=2)
    far_end.post(OLLAMA.url, body=ollama_line("Hel") + line)
    first, last = lines_of(ask(client, stream=True))
    assert (first["response"], last["error"]["code"]) == ("Hel", code)
    assert words_of(text) in last["error"]["message"]
    assert log_lines()[-1]["error"]["message"] == last["error"]["message"]
    far_end.replace("POST", OLLAMA.url, body=line)
    reply = ask(client, stream=True)
    assert (reply.status_code, error_of(reply)["code"]) == (502 if code == "server_error" else 400, code)
    assert words_of(text) in error_of(reply)["message"]
    assert len(far_end.calls) == 2  # it has begun, so it is not asked again


@pytest.mark.parametrize("path", GENERATE)
@pytest.mark.parametrize("text", ["the input length exceeds the context length", runners(400, OVERFLOW)])
def test_prompt_over_the_context(make_client: Serve, far_end: FarEnd, path: str, text: str) -> None:
    """It names the setting that raises the context, there and here."""
    far_end.post(OLLAMA.url, status=400, json={"error": text})
    error = error_of(ask(make_client(**OLLAMA.settings), path))
    assert error["code"] == "context_length_exceeded"
    assert {"OLLAMA_CONTEXT_LENGTH", "num_ctx", "OLLAMA_EXTRA_BODY"} <= set(re.findall(r"\w+", error["message"]))


def test_busy_is_asked_again(make_client: Serve, far_end: FarEnd) -> None:
    """A full queue is no more than that."""
    far_end.post(OLLAMA.url, status=503, json={"error": BUSY}, headers=AT_ONCE)
    far_end.post(OLLAMA.url, json=ollama_answer("Hello"))
    assert ask(make_client(**OLLAMA.settings, max_retries=1)).json == {"response": "Hello"}


# An Ollama behind OpenAI's wire


@pytest.mark.parametrize(
    ("address", "version", "is_told"),
    [
        ("http://box.example:9/v1", {"json": {"version": "0.24.0"}}, True),
        ("http://box.example:9/far/v1", {"json": {"version": "0.24.0"}}, True),
        ("http://box.example:9/v1", {"json": {"version": 1}}, False),
        ("http://box.example:9/v1", {"json": {"detail": "Not Found"}}, False),
        ("http://box.example:9/v1", {"status": 404, "json": {"error": "no"}}, False),
        ("http://box.example:9/v1", {"body": "<html>"}, False),
        ("http://box.example:9/v1", {"body": requests.ConnectionError("refused")}, False),
    ],
    ids=str,
)
@pytest.mark.usefixtures("clock")
def test_ollama_behind_openai(
    make_app: Callable[..., Flask],
    far_end: FarEnd,
    caplog: pytest.LogCaptureFixture,
    address: str,
    version: dict[str, Any],
    is_told: bool,
) -> None:
    """A start warns of a server that cuts prompts silently, once, and names the backend that doesn't."""
    far_end.get(f"{address}/models", json={"data": [{"id": "gpt-6-luna"}]})
    far_end.get(f"{address.removesuffix('/v1')}/api/version", **version)
    service = LLMAPI.of(make_app(llm_backend="openai", openai_base_url=address, openai_api_key="canary"))
    service.health.begin(warns=True)
    service.health.report()
    assert [("LLM_BACKEND=ollama" in said.getMessage(), said.levelname) for said in caplog.records] == (
        [(True, "WARNING")] if is_told else []
    )
    (call,) = [call for call in far_end.calls if "version" in str(call.request.url)]
    assert "canary" not in str(call.request.headers)


@pytest.mark.parametrize(
    "settings",
    [
        {"llm_backend": "openai"},
        {"llm_backend": "openai", "openai_base_url": "http://box.example:9"},
        {"llm_backend": "claude"},
        OLLAMA.settings,
    ],
    ids=str,
)
@pytest.mark.usefixtures("clock")
def test_nobody_else_is_asked(make_app: Callable[..., Flask], far_end: FarEnd, settings: dict[str, Any]) -> None:
    """Only where an Ollama may be, it is looked for."""
    health = LLMAPI.of(make_app(**settings)).health
    health.begin(warns=True)
    health.report()
    assert [call for call in far_end.calls if "version" in str(call.request.url)] == []
