"""CONTRIBUTING's way to add a backend works."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import responses
from flask.testing import FlaskClient

import llm_api.backends

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what the page says: the class, and its name in the table of backends."""
    (code,) = re.findall(r"```python\n(.*?)```", CONTRIBUTING.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "echo"}
    exec(code, names)
    monkeypatch.setitem(llm_api.backends._CLASSES, "echo", names["Echo"])


@pytest.mark.usefixtures("echo")
def test_its_whole_answer(make_client: Callable[..., FlaskClient], log_lines: Callable[[], list[dict]]) -> None:
    """The page's backend answers a prompt, and its tokens are in the log."""
    with responses.RequestsMock() as far_end:
        far_end.post("http://127.0.0.1:9999/v1/echo", json={"text": "hello", "in": 1, "out": 2})
        answer = make_client(llm_backend="echo").post("/generate", json={"prompt": "hello"})
        assert json.loads(far_end.calls[0].request.body or "") == {"text": "hello", "stream": False}
    assert answer.get_json() == {"response": "hello"}
    assert answer.headers["X-LLM-Model"] == "echo-1"
    (line,) = log_lines()
    assert (line["backend"], line["input_tokens"], line["output_tokens"]) == ("echo", 1, 2)


@pytest.mark.usefixtures("echo")
def test_its_stream_and_its_failures(make_client: Callable[..., FlaskClient]) -> None:
    """It streams, and an answer of the wrong shape falls back, without a line of its own for either."""
    client = make_client(llm_backend="echo", llm_fallback=("stub",))
    with responses.RequestsMock() as far_end:
        far_end.post("http://127.0.0.1:9999/v1/echo", body=b'{"text": "he", "end": 0}\n{"text": "llo", "end": 1}\n')
        far_end.post("http://127.0.0.1:9999/v1/echo", json={"txt": "hello"})
        lines = client.post("/generate", json={"prompt": "hello", "stream": True}).text.splitlines()
        fallen = client.post("/generate", json={"prompt": "hello"})
    assert [json.loads(line)["response"] for line in lines] == ["he", "llo", ""]
    assert fallen.headers["X-LLM-Fallback"] == "invalid_answer"
