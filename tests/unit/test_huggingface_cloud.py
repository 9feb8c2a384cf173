"""What is peculiar to Hugging Face's router (docs/providers.md, 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asking import Serve, ask, error_of
from flask import Flask
from providers import HUGGING_FACE, FarEnd, event, openai_answer
from wires import UNSUPPORTED


@pytest.mark.parametrize("chain", [(), ("stub",)])
def test_stream_that_is_refused(make_client: Serve, far_end: FarEnd, chain: tuple[str, ...]) -> None:
    """TGI's error_type validation says that the request is wrong: 400, and nobody else is asked."""
    far_end.post(HUGGING_FACE.url, body=event({"error": "`inputs` must be shorter", "error_type": "validation"}))
    assert ask(make_client(**HUGGING_FACE.settings, llm_fallback=chain), stream=True).status_code == 400


@pytest.mark.parametrize("error", [UNSUPPORTED, {"message": UNSUPPORTED, "code": "model_not_supported"}])
def test_reason_of_a_refusal(make_client: Serve, far_end: FarEnd, error: Any) -> None:
    """The router's own words reach the client, whether its error is a string or an object."""
    far_end.post(HUGGING_FACE.url, status=400, json={"error": error})
    assert error_of(ask(make_client(**HUGGING_FACE.settings)))["message"].endswith(f": {UNSUPPORTED}")


LISTED = {"data": [{"id": "o/m", "providers": [{"provider": "groq", "status": "live"}]}, {"id": "own:exact"}]}


@pytest.mark.usefixtures("gunicorn")
@pytest.mark.parametrize(
    ("model", "has"),
    [
        *((f"o/m{suffix}", True) for suffix in ("", ":groq", ":fastest", ":cheapest", ":preferred")),
        *(("own:exact", True), ("o/m:grok", False), ("own:groq", False), ("o/x:groq", False), ("own", False)),
    ],
)
def test_suffix_in_the_doctor(make_app: Callable[..., Flask], far_end: FarEnd, model: str, has: bool) -> None:
    """The router lists names without a suffix: it is a policy, or a provider that has the model."""
    far_end.get(HUGGING_FACE.models_url, json=LISTED)
    app = make_app(**HUGGING_FACE.settings, hf_model=model)
    shown = app.test_cli_runner().invoke(args=["llm", "doctor"]).output
    assert (f"huggingface answers, and has {model}\n" in shown) == has
    assert (f"huggingface does not list the model {model!r}" in shown) != has


WAYS = [{"provider": "groq", "supports_tools": True}, {"provider": "novita", "supports_tools": False}]
OLD = [{"provider": "novita", "supports_tools": False}]
SERVED = {"data": [{"id": "o/m", "providers": WAYS}, {"id": "o/old", "providers": OLD}, {"id": "o/new"}]}


@pytest.mark.parametrize(
    ("model", "has"),
    [
        *((f"o/m{suffix}", True) for suffix in ("", ":groq", ":cheapest")),
        *(("o/m:novita", False), ("o/old", False), ("o/old:fastest", False)),
        *(("o/new", True), ("o/unlisted", True)),
    ],
)
def test_who_takes_tools(make_client: Serve, far_end: FarEnd, model: str, has: bool) -> None:
    """A model of which no provider takes tools is not sent any: that is `unsupported`. The list is asked for once."""
    far_end.get(HUGGING_FACE.models_url, json=SERVED)
    if has:
        far_end.post(HUGGING_FACE.url, json=openai_answer("Hi"))
    client = make_client(**HUGGING_FACE.settings, hf_model=model, llm_fallback=("stub",))
    tool = {"type": "function", "function": {"name": "f"}}
    replies = [ask(client, "/v1/chat/completions", tools=[tool]) for _ in range(2)]
    assert [reply.headers["X-LLM-Backend"] for reply in replies] == ["huggingface" if has else "stub"] * 2
    assert has or replies[0].headers["X-LLM-Fallback"] == "unsupported"
    assert sum(call.request.url == HUGGING_FACE.models_url for call in far_end.calls) == 1
    assert ("tools" in client.get("/config").json["serves"]["huggingface"]) == has


@pytest.mark.parametrize("listed", [{"status": 500}, {"json": {"data": [5]}}, {"json": {"data": None}}])
def test_a_list_that_cant_be_had(make_client: Serve, far_end: FarEnd, listed: dict[str, Any]) -> None:
    """Then the model is asked, which says itself what it can't."""
    far_end.get(HUGGING_FACE.models_url, **listed)
    far_end.post(HUGGING_FACE.url, json=openai_answer("Hi"))
    tool = {"type": "function", "function": {"name": "f"}}
    reply = ask(make_client(**HUGGING_FACE.settings), "/v1/chat/completions", tools=[tool])
    assert reply.headers["X-LLM-Backend"] == "huggingface"
