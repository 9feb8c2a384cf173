"""The README's section for Flask apps is true: its code runs as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text().split("## In your Flask app\n")[1].split("\n## ")[0]

pytest_plugins = ["pytester"]


@pytest.mark.usefixtures("named_plugins")
def test_the_app_and_its_tests(pytester: pytest.Pytester) -> None:
    """The app and the tests, in a file of their own, pass; nothing is written into the app's log."""
    app, tests = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    pytester.makepyfile(app + tests)
    pytester.runpytest_inprocess("-p", "llm_api.testing").assert_outcomes(passed=2)
    assert not (pytester.path / "instance").exists()


def test_the_shell_line(tmp_path: Path) -> None:
    """`flask --app wsgi llm generate` does what is said."""
    (line,) = re.findall(r"```sh\n(flask .*)\n```", SECTION)
    command = [sys.executable, "-m", *shlex.split(line, comments=True)]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "LLM_BACKEND": "stub", "FLASK_SKIP_DOTENV": "1"}
    ran = subprocess.run(
        command, cwd=tmp_path, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert ran.stdout.endswith("What is the capital of France?\n")
    assert (tmp_path / "logs" / "log.jsonl").read_text().count("\n") == 1
