"""The examples do what they say, as files that somebody copies."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from .conftest import ROOT

EXAMPLES = ROOT / "examples"


def log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_example_has_a_test() -> None:
    """No example stands there untried; tests/engines has the one that needs a cluster."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"batch.py", "host_app.py", "ray_serve.py"}


@pytest.fixture
def host_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flask:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_BACKEND", "stub")
    app: Flask = runpy.run_path(str(EXAMPLES / "host_app.py"))["app"]
    return app


def test_the_host_app(host_app: Flask, tmp_path: Path) -> None:
    """Who has not logged in gets 401 in JSON; who has gets an answer, and stands in the log."""
    client = host_app.test_client()
    refused = client.post("/llm/generate", json={"prompt": "Hello"})
    assert (refused.status_code, refused.get_json()["error"]["message"]) == (401, "log in first: POST /login")
    assert client.post("/login", data={"name": "ada", "password": "wrong"}).status_code == 403
    assert client.post("/login", data={"name": "ada", "password": "lovelace"}).text == "Hello ada\n"
    assert client.post("/llm/generate", json={"prompt": "Hello"}).status_code == 200
    assert "the sea" in client.get("/poem/the sea").text
    lines = log(tmp_path / "logs" / "host_app.jsonl")
    assert [(line["caller"], line["http_status"]) for line in lines] == [(None, 401), ("ada", 200), ("ada", 200)]


def test_the_host_apps_own_pages_need_a_login(host_app: Flask) -> None:
    """Flask-Login guards the host's view as before."""
    assert host_app.test_client().get("/poem/x").status_code == 401


def test_the_batch(tmp_path: Path) -> None:
    """A line for each prompt, in their order; a refused prompt is a line with its error and stops nobody."""
    prompts = [f"prompt {number}" for number in range(20)] + ["x" * 50]
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / "batch.py")],
        input="\n".join(prompts) + "\n\n",
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "LLM_BACKEND": "stub", "MAX_PROMPT_CHARS": "40"},
        capture_output=True,
        text=True,
        check=True,
    )
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [result["prompt"] for result in results] == prompts
    assert all(result["answer"].endswith(result["prompt"]) for result in results[:-1])
    assert results[-1]["error"]["code"] == "validation_failed"
    assert len(log(tmp_path / "logs" / "log.jsonl")) == 21
