"""docs/log.md, "Reading the log": each of its commands and one-liners, run on a log of real requests."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from records import ROOT, answered

SECTION = (ROOT / "docs" / "log.md").read_text().split("\n## Reading the log\n")[1].split("\n## ")[0]
COMMANDS, *ONE_LINERS = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)
Records = list[dict[str, Any]]


@pytest.fixture
def truth(make_client: Callable[..., FlaskClient], log_lines: Callable[[], Records]) -> Records:
    """Return the records of real requests: answered, streamed, fallen back, failed and refused."""
    stub = make_client()
    for number in range(8):
        body = {"prompt": f'capital of "{number}",\nplease 🙂', "max_tokens": number + 1, "stream": number == 3}
        stub.post("/generate", json=body).get_data()
    make_client(llm_backend="openai", llm_fallback=("stub",)).post("/generate", json={"prompt": "openai, then stub"})
    nowhere = {"ollama_url": "http://127.0.0.1:1", "connect_timeout": 1.0}
    make_client(llm_backend="ollama", llm_fallback=("stub",), **nowhere).post("/generate", json={"prompt": "and stub"})
    make_client(llm_backend="openai").post("/generate", json={"prompt": 'nobody\tanswers "this"'})
    stub.post("/generate", data=b"{", content_type="application/json")
    return log_lines()


def one_liner(words: str) -> str:
    """Return the one-liner that contains `words`; skip where its tool is missing, and fail there in CI."""
    (found,) = [line for line in ONE_LINERS if words in line]
    tools = ["jq"] if found.startswith("jq") else re.findall(r"import (\w+)", found)
    missing = [tool for tool in tools if not (shutil.which(tool) or importlib.util.find_spec(tool))]
    if missing and os.environ.get("CI"):
        pytest.fail(f"{', '.join(missing)} must be there in CI: the one-liners of docs/log.md are tested with it")
    if missing:
        pytest.skip(f"NOT TESTED, {', '.join(missing)} is not installed: pip install -r requirements-dev.txt, and jq")
    return found


def output(words: str, folder: Path) -> str:
    """Run the one-liner that contains `words` where logs/log.jsonl is; return what it printed."""
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONWARNINGS": "error",
        "PYTHONUTF8": "1",
        "LC_ALL": "C",
    }
    ran = subprocess.run(
        ["sh", "-c", one_liner(words)], cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_jq_slowest_five(truth: Records, tmp_path: Path) -> None:
    """The five longest durations come out, longest first, with who answered and the id."""
    rows = [row.split("\t") for row in output("@tsv", tmp_path).splitlines()]
    printed = [(float(ms), backend, name) for ms, backend, name in rows]
    true = [(r["duration_ms"], r["backend"] or "", r["request_id"]) for r in truth]
    assert [ms for ms, _, _ in printed] == sorted((ms for ms, _, _ in true), reverse=True)[:5]
    assert set(printed) <= set(true)


def test_jq_fallbacks_by_reason(truth: Records, tmp_path: Path) -> None:
    """Each reason comes out with how often it occurred."""
    rows = [row.split() for row in output("uniq -c", tmp_path).splitlines()]
    assert {reason: int(count) for count, reason in rows} == {"not_configured": 1, "unreachable": 1}
    assert Counter(r["fallback_reason"] for r in truth if r["fallback"]).total() == 2


def test_jq_prompts_of_errors(truth: Records, tmp_path: Path) -> None:
    """Each failed request comes out as one line with its code and its prompt, a refused one with null."""
    rows = [json.loads(row) for row in output('== "error"', tmp_path).splitlines()]
    assert rows == [["not_configured", 'nobody\tanswers "this"'], ["malformed_json", None]]
    assert rows == [[r["error"]["code"], r["prompt"]] for r in truth if r["status"] == "error"]


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
def test_duckdb_p95_by_backend(truth: Records, tmp_path: Path, log_path: Path, torn: bool) -> None:
    """duckdb's p95 is that of the answered requests, also where the last line is torn."""
    if torn:
        with log_path.open("ab") as file:
            file.write(log_path.read_bytes()[:100])
    shown = output("duckdb", tmp_path)
    rows = [[cell.strip() for cell in row.strip("│").split("│")] for row in shown.splitlines() if "stub" in row]
    good = [r["duration_ms"] for r in truth if r["status"] == "ok"]
    assert [row[:2] for row in rows] == [["stub", str(len(good))]]
    assert float(rows[0][2]) == pytest.approx(statistics.quantiles(good, n=20, method="inclusive")[-1], abs=0.06)


def test_pandas_tokens_per_second_by_model(truth: Records, tmp_path: Path) -> None:
    """The mean of the answered requests' tokens/s comes out for each model."""
    rows = [row.split() for row in output("groupby", tmp_path).splitlines() if row.startswith("stub")]
    rates = [1000 * r["output_tokens"] / r["duration_ms"] for r in truth if r["status"] == "ok"]
    assert len(rows) == 1
    assert float(rows[0][1]) == pytest.approx(statistics.mean(rates), rel=1e-4)


def test_pandas_requests_a_minute(truth: Records, tmp_path: Path, log_path: Path) -> None:
    """Each minute from the first request to the last comes out with its number of requests, an empty one with 0."""
    later = json.dumps(truth[0] | {"timestamp": truth[-1]["timestamp"] + 180})
    with log_path.open("a") as file:
        file.write(later + "\n")
    rows = [row.split() for row in output("resample", tmp_path).splitlines() if row.startswith("20")]
    minutes = Counter(int(r["timestamp"] // 60) for r in [*truth, json.loads(later)])
    expected = [minutes[minute] for minute in range(min(minutes), max(minutes) + 1)]
    assert [int(row[-1]) for row in rows] == expected
    assert 0 in expected


@pytest.mark.parametrize(("ci", "ends"), [("true", "Failed"), ("", "Skipped")])
def test_a_missing_tool_fails_in_ci(monkeypatch: pytest.MonkeyPatch, ci: str, ends: str) -> None:
    """Without duckdb its test is skipped on a laptop, and fails where CI is set: it is never left out unseen."""
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BaseException, match="duckdb") as raised:
        one_liner("duckdb")
    assert type(raised.value).__name__ == ends


def test_each_one_liner_has_its_test() -> None:
    """No one-liner is in docs/log.md that no test above runs."""
    tested = re.findall(r'output\(["\'](.+?)["\'], tmp_path\)', Path(__file__).read_text())
    assert sorted(line for words in tested for line in ONE_LINERS if words in line) == sorted(ONE_LINERS)


@pytest.mark.parametrize("line", COMMANDS.splitlines())
def test_commands_run_as_they_stand(
    make_app: Callable[..., Flask], truth: Records, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """Each command of the first block does its work and exits 0 (`tail -f`, which has no end, without -f)."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)
    assert words[:4] == ["flask", "--app", "wsgi", "llm"]
    found = [{"REQUEST_ID": truth[0]["request_id"]}.get(word, word) for word in words[3:] if word != "-f"]
    answered(make_app().test_cli_runner().invoke(args=found))


def test_commands_are_all_named() -> None:
    """The first block shows every command that there is."""
    from llm_api.cli.commands import logs

    assert {shlex.split(line)[5] for line in COMMANDS.splitlines()} == set(logs.commands)
