"""What is peculiar to Anthropic's Messages (docs/providers.md, 4)."""

from __future__ import annotations

import pytest
from asking import ask, error_of
from providers import CLAUDE, Log, Make, claude_answer, claude_error
from responses import RequestsMock


def test_configured_version(make_client: Make, far_end: RequestsMock) -> None:
    """CLAUDE_VERSION is the API version that is asked for."""
    far_end.post(CLAUDE.url, json=claude_answer("Hello"))
    ask(make_client(**CLAUDE.settings, claude_version="2026-10-21"))
    assert far_end.calls[0].request.headers["anthropic-version"] == "2026-10-21"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chain", [(), ("stub",)])
def test_json_object(make_client: Make, log_lines: Log, stream: bool, chain: tuple[str, ...]) -> None:
    """Anthropic knows schemas only: json_object is refused before it is asked, and nobody else is."""
    client = make_client(**CLAUDE.settings, llm_fallback=chain)
    reply = ask(client, response_format={"type": "json_object"}, stream=stream)
    error = error_of(reply)
    assert reply.status_code == 400
    assert (error["param"], error["code"]) == ("response_format", "unsupported_parameter")
    assert "schema" in error["message"]
    assert log_lines()[-1]["http_status"] == 400


def test_refusal(make_client: Make, far_end: RequestsMock) -> None:
    """A refusal without any text is an answer whose finish reason says so."""
    stopped = {"stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "x", "explanation": "y"}}
    far_end.post(CLAUDE.url, json=claude_answer("", content=[], **stopped))
    reply = ask(make_client(**CLAUDE.settings), details=True)
    assert (reply.status_code, reply.json["response"]) == (200, "")
    assert reply.json["details"]["finish_reason"] == "content_filter"


def test_unknown_model_says_which(make_client: Make, far_end: RequestsMock) -> None:
    """A retired model is named in the answer."""
    far_end.post(CLAUDE.url, status=404, json=claude_error("not_found_error", "model: claude-3-sonnet-20240229"))
    error = error_of(ask(make_client(**CLAUDE.settings)))
    assert error["message"] == "claude does not have this model: model: claude-3-sonnet-20240229"
    assert error["param"] == "model"
