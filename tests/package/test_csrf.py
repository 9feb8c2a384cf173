"""What docs/flask.md says of CSRF, beside Flask-WTF."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from llm_api import LLMAPI

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "docs" / "flask.md").read_text().split("## CSRF protection\n")[1].split("\n## ")[0]
(EXEMPT,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
WITHOUT_EXEMPTION = "from flask_wtf import CSRFProtect\nCSRFProtect(app)"
HELLO = {"prompt": "Hello"}


def make_client(tmp_path: Path, protect: str, origins: str = "") -> FlaskClient:
    """Return a client of a host with a form of its own, protected by this code."""
    app = Flask("host")
    app.config["SECRET_KEY"] = "for this test only"
    app.post("/form")(lambda: "taken")
    LLMAPI(app, url_prefix="/llm", llm_backend="stub", log_file=tmp_path / "log.jsonl", cors_origins=origins)
    exec(compile(protect, "docs/flask.md", "exec"), {"app": app})
    return app.test_client()


@pytest.mark.parametrize("path", ["/llm/generate", "/llm/v1/completions"])
def test_the_exemption(tmp_path: Path, path: str) -> None:
    """Without the page's lines a POST to the API is refused; with them it is answered, and the host's form refused."""
    assert make_client(tmp_path, WITHOUT_EXEMPTION).post(path, json=HELLO).status_code == 400
    client = make_client(tmp_path, EXEMPT)
    assert client.post(path, json=HELLO | {"model": "default"}).status_code == 200
    assert client.post("/form").status_code == 400


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"])
def test_what_a_form_can_send(tmp_path: Path, kind: str) -> None:
    """The three content types of HTML forms are a 415, although the body is right."""
    client = make_client(tmp_path, EXEMPT)
    assert client.post("/llm/generate", data='{"prompt": "x"}', content_type=kind).status_code == 415


@pytest.mark.parametrize("origins", ["", "https://other.example", "*"])
def test_no_credentials_for_another_origin(tmp_path: Path, origins: str) -> None:
    """Whatever CORS_ORIGINS says, neither the preflight nor the answer lets another origin send cookies."""
    client = make_client(tmp_path, EXEMPT, origins)
    headers = {"Origin": "https://other.example", "Access-Control-Request-Method": "POST"}
    answers = [
        client.options("/llm/generate", headers=headers),
        client.post("/llm/generate", json=HELLO, headers=headers),
    ]
    for answer in answers:
        assert ("Access-Control-Allow-Origin" in answer.headers) == bool(origins)
        assert "Access-Control-Allow-Credentials" not in answer.headers
