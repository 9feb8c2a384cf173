"""What an operator knows of a provider: fields and headers that settings add to every request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from asking import Log, Serve, ask, error_of
from flask import Flask
from providers import CLAUDE, OLLAMA, OPENAI, FarEnd, check_fallback, openai_answer, openai_error, sent
from wires import WIRES, Wire

from llm_api import LLMAPI

every_wire = pytest.mark.parametrize("wire", WIRES, ids=str)


def extra(wire: Wire, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    """Return the wire's setting of that kind."""
    return {wire.model_setting.replace("_model", f"_extra_{kind}"): value}


@every_wire
@pytest.mark.parametrize("stream", [False, True])
def test_extra_body(make_client: Serve, far_end: FarEnd, wire: Wire, stream: bool) -> None:
    """Each request has the fields; what it says itself wins."""
    more = {"keep_alive": "1h", "provider": {"order": ["a"]}, "model": "never", "max_tokens": 1, "temperature": 1}
    provider = wire.provider
    far_end.post(provider.url, **({"body": provider.stream("x")} if stream else {"json": provider.answer("x")}))
    client = make_client(**provider.settings, **extra(wire, "body", more))
    assert ask(client, stream=stream, temperature=0.5, max_tokens=9).status_code == 200
    body = sent(far_end)
    assert (body["keep_alive"], body["provider"], body["model"]) == ("1h", {"order": ["a"]}, wire.default_model)
    asked = body.get("options", body)
    assert asked["temperature"] == 0.5
    assert 9 in asked.values()


def test_options_of_ollama(make_client: Serve, far_end: FarEnd) -> None:
    """Ollama's options are merged one by one."""
    far_end.post(OLLAMA.url, json=OLLAMA.answer("x"))
    more = {"options": {"num_ctx": 16384, "temperature": 1}, "keep_alive": "1h", "think": True}
    client = make_client(**OLLAMA.settings, ollama_extra_body=more)
    ask(client, temperature=0.5)
    assert sent(far_end)["options"] == {"num_ctx": 16384, "temperature": 0.5}
    assert sent(far_end)["think"] is False
    ask(client)
    assert sent(far_end)["options"] == {"num_ctx": 16384, "temperature": 1}


@every_wire
def test_extra_headers(make_client: Serve, far_end: FarEnd, wire: Wire) -> None:
    """Each request has the headers, the list of models too; our own stay, however the name is written."""
    more = {"X-Title": "us", "anthropic-beta": "b", "USER-AGENT": "never"}
    far_end.post(wire.provider.url, json=wire.provider.answer("x"))
    far_end.get(wire.provider.models_url, json=wire.listing(wire.listed))
    client = make_client(**wire.provider.settings, **extra(wire, "headers", more))
    ask(client)
    client.get("/v1/models")
    for call in far_end.calls:
        headers = [(name.lower(), value) for name, value in call.request.headers.items()]
        assert {("x-title", "us"), ("anthropic-beta", "b"), ("user-agent", "llm-api")} <= set(headers)
        assert [name for name, _ in headers].count("user-agent") == 1


@every_wire
def test_extras_of_one_are_not_the_others(make_client: Serve, far_end: FarEnd, wire: Wire) -> None:
    """Another vendor's fields and headers are not sent."""
    others = [other for other in WIRES if other is not wire]
    far_end.post(wire.provider.url, json=wire.provider.answer("x"))
    more = {k: v for other in others for kind in ("body", "headers") for k, v in extra(other, kind, {"x": "y"}).items()}
    ask(make_client(**wire.provider.settings, **more))
    assert "x" not in sent(far_end)
    assert "x" not in far_end.calls[0].request.headers


@pytest.mark.parametrize("quoted", ["canary-of-the-body", "canary-of-the-header"])
def test_extras_are_not_logged(make_client: Serve, far_end: FarEnd, log_lines: Log, quoted: str) -> None:
    """What a provider quotes of them is not in the answer, and not in the log."""
    far_end.post(OPENAI.url, status=400, json=openai_error("invalid_value", f"odd: {quoted}"))
    client = make_client(
        **OPENAI.settings,
        openai_extra_body={"safety": {"user": ["canary-of-the-body"]}},
        openai_extra_headers={"x-tenant": "canary-of-the-header"},
    )
    reply = ask(client)
    assert error_of(reply)["message"] == "openai refused the request: odd: [redacted]"
    assert "canary" not in str(log_lines()) + client.get("/config").text


def test_refused_extra(make_client: Serve, far_end: FarEnd, log_lines: Log) -> None:
    """A field that the operator adds, and the provider refuses, is not the client's fault."""
    far_end.post(OPENAI.url, status=400, json=openai_error("unknown_parameter", "Unknown parameter", "provider"))
    client = make_client(**OPENAI.settings, openai_extra_body={"provider": {}}, llm_fallback=("stub",))
    check_fallback(ask(client), log_lines()[-1], "not_configured", "openai")
    assert "provider" in log_lines()[-1]["attempts"][0]["message"]


@pytest.mark.parametrize("value", [{"metadata": {"user_id": "us"}}, '{"metadata": {"user_id": "us"}}'])
def test_extras_from_an_app(far_end: FarEnd, tmp_path: Path, value: Any) -> None:
    """A host's app may have them as objects, or as text."""
    app = Flask(__name__)
    app.config["LLM_API_CLAUDE_EXTRA_BODY"] = value
    LLMAPI(app, llm_backend="claude", claude_api_key="k" * 8, log_file=str(tmp_path / "log.jsonl"))
    far_end.post(CLAUDE.url, json=CLAUDE.answer("x"))
    assert ask(app.test_client()).status_code == 200
    assert sent(far_end)["metadata"] == {"user_id": "us"}


def test_whole_answer_is_as_before(make_client: Serve, far_end: FarEnd) -> None:
    """Without them nothing is added."""
    far_end.post(OPENAI.url, json=openai_answer("x"))
    ask(make_client(**OPENAI.settings, openai_extra_body={}, openai_extra_headers={}))
    assert sent(far_end).keys() == {"model", "messages", "stream"}
