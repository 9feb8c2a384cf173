"""CONTRIBUTING's way to add a backend works, in a folder that has nothing of ours."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from providers import FarEnd

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Do what the page says: two files, and what installing the package's entry point leaves."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    module, tests = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    (points,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "echo_llm.py").write_text(module)
    (tmp_path / "test_echo_llm.py").write_text(tests)
    name = re.search(r'entry-points\."(.*?)"', points)
    entry = re.search(r'(\w+) = "(.*?)"', points)
    assert name
    assert entry
    info = tmp_path / "echo_llm-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-llm\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{name[1]}]\n{entry[1]} = {entry[2]}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "echo_llm", raising=False)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["echo_llm:Echo", "echo"])
def test_its_whole_answer(make_client: Callable[..., FlaskClient], log_lines: Callable[[], list], name: str) -> None:
    """The page's backend answers a prompt under both of its names, and its tokens are in the log."""
    with FarEnd() as far_end:
        far_end.post("http://127.0.0.1:9999/v1/echo", json={"text": "hello", "in": 1, "out": 2})
        answer = make_client(llm_backend=name).post("/generate", json={"prompt": "hello"})
        assert json.loads(far_end.calls[0].request.body or "") == {"text": "hello", "stream": False}
    assert answer.get_json() == {"response": "hello"}
    assert (answer.headers["X-LLM-Backend"], answer.headers["X-LLM-Model"]) == ("echo", "echo-1")
    (line,) = log_lines()
    assert (line["backend"], line["input_tokens"], line["output_tokens"]) == ("echo", 1, 2)


@pytest.mark.usefixtures("folder")
def test_its_stream_and_its_failures(make_client: Callable[..., FlaskClient]) -> None:
    """It streams, and an answer of the wrong shape falls back, without a line of its own for either."""
    client = make_client(llm_backend="echo", llm_fallback=("stub",))
    with FarEnd() as far_end:
        far_end.post("http://127.0.0.1:9999/v1/echo", body=b'{"text": "he", "end": 0}\n{"text": "llo", "end": 1}\n')
        far_end.post("http://127.0.0.1:9999/v1/echo", json={"txt": "hello"})
        lines = client.post("/generate", json={"prompt": "hello", "stream": True}).text.splitlines()
        fallen = client.post("/generate", json={"prompt": "hello"})
    assert [json.loads(line)["response"] for line in lines] == ["he", "llo", ""]
    assert fallen.headers["X-LLM-Fallback"] == "invalid_answer"


@pytest.mark.usefixtures("named_plugins")
def test_its_contract(folder: Path) -> None:
    """The page's test file passes in pytest as it is, and fails when the backend breaks its word."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "llm_api.testing", "-p", "no:cacheprovider"]

    def run() -> str:
        environ = os.environ | {"PYTHONPATH": str(ROOT)}
        ran = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False)
        return ran.stdout.splitlines()[-1]

    assert re.match(r"\d+ passed in", run())
    module = folder / "echo_llm.py"
    module.write_text(module.read_text().replace('"stop" if body["end"] else None', "None"))
    assert re.match(r"\d+ failed, \d+ passed in", run())
