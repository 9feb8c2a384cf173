"""What is peculiar to Hugging Face's router (docs/providers.md, 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from asking import Serve, ask, error_of
from flask import Flask
from providers import HUGGING_FACE, FarEnd, event
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
