"""A host that is checked by mypy: what is right passes, what is wrong is found on its line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from .conftest import ROOT

HOST = """
from collections.abc import Iterator
from flask import Flask, current_app
from llm_api import LLMAPI, Settings
from llm_api.errors import LLMAPIError, Overloaded
from llm_api.testing import ScriptedBackend

app = Flask(__name__)
LLMAPI(app, "/llm", handle_errors=True, csrf_exempt=lambda view: view, caller=lambda: "ada", llm_backend="stub")
LLMAPI(settings=Settings()).init_app(app, url_prefix="/two")
SCHEMA = {"type": "object"}


def fine() -> Iterator[str]:
    llm = LLMAPI.of(current_app, "/llm")
    answer = llm.generate("x", caller="ada", max_tokens=5, temperature=0, stop=["a"], seed=None, response_format=SCHEMA)
    yield answer.text + str(answer.usage.input_tokens)
    yield from llm.stream("x", system="y", top_p=0.5, model="m", fallback=False, stop="b")


def wrong() -> None:
    llm = LLMAPI.of(app)
    llm.generate(5)  # wrong
    llm.generate("x", max_token=5)  # wrong
    llm.generate("x", max_tokens="5")  # wrong
    llm.generate("x", temperature="hot")  # wrong
    llm.generate("x", response_format="json")  # wrong
    llm.stream("x", stop=5)  # wrong
    llm.stream("x", promt="y")  # wrong
    llm.generate("x").txt  # wrong
    LLMAPI("app")  # wrong
    LLMAPI(app, csrf_exempt=True)  # wrong
    LLMAPI().init_app(app, 5)  # wrong


def test_it(llm_stub: ScriptedBackend) -> None:
    llm_stub.answers("one", delay=0.1)
    llm_stub.fails(Overloaded("busy"))
    llm_stub.fails("busy")  # wrong
    assert llm_stub.requests[0].max_tokens == 5
"""


def test_a_host_is_checked(tmp_path: Path) -> None:
    """mypy --strict finds each line that is marked as wrong, and no other; nothing of ours is Any to it."""
    host = tmp_path / "host.py"
    host.write_text(HOST)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(host)]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    found = {int(line) for line in re.findall(r"host\.py:(\d+): error", ran.stdout)}
    marked = {number for number, line in enumerate(HOST.splitlines(), 1) if line.endswith("# wrong")}
    assert found == marked, ran.stdout + ran.stderr
