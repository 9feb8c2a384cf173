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
WITHOUT_EXEMPTION = EXEMPT.replace(", csrf_exempt=csrf.exempt", "")
# In a factory, the one may come before the other, and an app may have two.
EXEMPT_FIRST = """
from flask_wtf import CSRFProtect

csrf = CSRFProtect()
LLMAPI(app, url_prefix="/other", csrf_exempt=csrf.exempt)
LLMAPI(app, url_prefix="/llm", csrf_exempt=csrf.exempt)
csrf.init_app(app)
"""
HELLO = {"prompt": "Hello"}


def make_client(tmp_path: Path, protect: str, origins: str = "") -> FlaskClient:
    """Return a client of a host with a form of its own, protected by this code."""
    app = Flask("host")
    settings = {"LLM_BACKEND": "stub", "LOG_FILE": tmp_path / "log.jsonl", "CORS_ORIGINS": origins}
    app.config |= {f"LLM_API_{name}": value for name, value in settings.items()} | {"SECRET_KEY": "for this test only"}
    app.post("/form")(lambda: "taken")
    exec(compile(protect, "docs/flask.md", "exec"), {"app": app, "LLMAPI": LLMAPI})
    return app.test_client()


@pytest.mark.parametrize("protect", [EXEMPT, EXEMPT_FIRST], ids=["page", "first"])
def test_the_exemption(tmp_path: Path, protect: str) -> None:
    """Without the page's option every POST to the API is refused; with it none is, and the host's form is."""
    bare, client = make_client(tmp_path, WITHOUT_EXEMPTION), make_client(tmp_path, protect)
    posts = [rule.rule for rule in client.application.url_map.iter_rules() if "POST" in rule.methods]
    ours = [path for path in posts if path != "/form"]
    assert len(ours) >= 3
    for path in ours:
        reply = client.post(path, json={})
        assert reply.status_code in (400, 404, 422, 501)  # Ollama's: no such model, and what is its alone
        assert reply.get_json().keys() >= {"error"}
        assert "CSRF" not in reply.text
        assert "CSRF" in bare.post(path.replace("/other", "/llm"), json={}).text
    assert client.post("/llm/generate", json=HELLO).status_code == 200
    assert client.post("/form").status_code == 400


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"])
def test_what_a_form_can_send(tmp_path: Path, kind: str) -> None:
    """The three content types of HTML forms are a 415, although the body is right."""
    client = make_client(tmp_path, EXEMPT)
    assert client.post("/llm/generate", data='{"prompt": "x"}', content_type=kind).status_code == 415
    sent = {"data": '{"model": "default", "prompt": "x"}', "content_type": kind, "headers": {"Origin": "null"}}
    assert client.post("/llm/api/generate", **sent).status_code == 415


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
