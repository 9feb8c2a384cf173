"""What is peculiar to Hugging Face's router (docs/providers.md, 5)."""

from __future__ import annotations

from typing import Any

import pytest
from asking import ask, error_of
from providers import HUGGING_FACE, Make, event
from responses import RequestsMock
from wires import UNSUPPORTED


@pytest.mark.parametrize("chain", [(), ("stub",)])
def test_stream_that_is_refused(make_client: Make, far_end: RequestsMock, chain: tuple[str, ...]) -> None:
    """TGI's error_type validation says that the request is wrong: 400, and nobody else is asked."""
    far_end.post(HUGGING_FACE.url, body=event({"error": "`inputs` must be shorter", "error_type": "validation"}))
    assert ask(make_client(**HUGGING_FACE.settings, llm_fallback=chain), stream=True).status_code == 400


@pytest.mark.parametrize("error", [UNSUPPORTED, {"message": UNSUPPORTED, "code": "model_not_supported"}])
def test_reason_of_a_refusal(make_client: Make, far_end: RequestsMock, error: Any) -> None:
    """The router's own words reach the client, whether its error is a string or an object."""
    far_end.post(HUGGING_FACE.url, status=400, json={"error": error})
    assert error_of(ask(make_client(**HUGGING_FACE.settings)))["message"].endswith(f": {UNSUPPORTED}")
