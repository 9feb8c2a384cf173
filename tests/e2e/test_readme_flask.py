"""docs/flask.md, and the README's section for Flask apps, are true: their code runs as it is printed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "flask.md").read_text()
README = (ROOT / "README.md").read_text()
# These need Flask-WTF, and a gunicorn: tests/package/test_csrf.py and tests/e2e/test_host_gunicorn.py run them.
ELSEWHERE = ("## CSRF protection", "## Metrics under your own gunicorn")

pytest_plugins = ["pytester"]


def python(text: str) -> str:
    """Return the Python in `text` as one file."""
    return "\n\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


def sections(page: str, *without: str) -> str:
    return "".join(part for part in re.split(r"(?m)^(?=## )", page) if not part.startswith(without or ("\0",)))


@pytest.mark.usefixtures("named_plugins")
def test_the_app_and_its_tests(pytester: pytest.Pytester) -> None:
    """The app, its views and its tests, in a file of their own, pass; nothing is written into the app's log."""
    pytester.makepyfile(python(sections(PAGE, *ELSEWHERE)))
    pytester.runpytest_inprocess("-p", "no:hypothesispytest", "-p", "llm_api.testing").assert_outcomes(passed=3)
    assert not (pytester.path / "instance").exists()


FAILS = """
from llm_api.errors import LLMAPIError


def test_an_error_in_a_view(llm_stub):
    llm_stub.fails(LLMAPIError("no", code="too_bad"))
    answer = app.test_client().get("/poem")
    assert answer.status_code == LLMAPIError.status
    assert answer.get_json() == {"error": {"message": "no", "type": "server_error", "code": "too_bad", "param": None}}


@app.get("/busy")
def busy():
    raise RateLimited("no", retry_after=7)


def test_a_loop_with_a_tool(llm_stub):
    llm_stub.calls("weather", city="Paris")
    llm_stub.answers("It rains.")
    assert app.test_client().get("/weather").text == "It rains."
    assert [record["status"] for record in llm_stub.records] == ["ok", "ok"]
    assert llm_stub.records[0]["tool_calls"][0]["arguments"] == '{"city": "Paris"}'
    assert llm_stub.requests[1].messages[-1].parts[0].parts[0].text == "weather: 18 degrees, rain"


def test_an_error_that_the_page_handles(llm_stub):
    answer = app.test_client().get("/busy")
    assert (answer.status_code, answer.text) == (429, "Please come back in 7 seconds.")


def test_an_error_of_the_apis_own(llm_stub):
    answer = app.test_client().post("/llm/generate", json={"prompt": "x"})
    assert (answer.status_code, set(answer.get_json())) == (401, {"error", "request_id"})


def test_a_stream_that_fails_at_once(llm_stub):
    llm_stub.fails(LLMAPIError("no"))
    assert app.test_client().get("/poem/live").status_code == LLMAPIError.status


def test_a_browser_that_goes(llm_stub):
    llm_stub.answers("a b c")
    answer = app.test_client().get("/poem/live")
    assert next(answer.response) == b"a"
    answer.close()
    assert [record["status"] for record in llm_stub.records] == ["aborted"]
"""


def test_errors_and_streams(pytester: pytest.Pytester) -> None:
    """What is said of an error in a view and before a stream is so, and the API's own errors are left alone."""
    app = python(sections(PAGE, *ELSEWHERE, "## Testing"))
    pytester.makepyfile(app + FAILS)
    pytester.runpytest_inprocess("-p", "no:hypothesispytest", "-p", "llm_api.testing").assert_outcomes(passed=6)


READMES = """

def test_it(llm_stub):
    llm_stub.answers("The sea, the sea.")
    client = app.test_client()
    assert client.get("/poem").text == "The sea, the sea."
    assert llm_stub.requests[0].max_tokens == 200
    assert client.get("/llm/health/live").get_json()["backend"] == "openai"
    assert client.get("/llm/docs", buffered=True).status_code == 200
"""


def test_the_readmes_app(pytester: pytest.Pytester) -> None:
    """The README's app has ten lines; its view answers, and the API and its pages are under the prefix."""
    app = python(README.split("## In your Flask app\n")[1].split("\n## ")[0])
    assert len(app.splitlines()) == 10
    pytester.makepyfile(app + READMES)
    pytester.runpytest_inprocess("-p", "no:hypothesispytest", "-p", "llm_api.testing").assert_outcomes(passed=1)


def test_the_shell_line(tmp_path: Path) -> None:
    """`flask --app wsgi llm generate` does what is said."""
    (line,) = re.findall(r"```sh\n(flask .*)\n```", PAGE)
    command = [sys.executable, "-m", *shlex.split(line, comments=True)]
    environ = os.environ | {"PYTHONPATH": str(ROOT), "LLM_BACKEND": "stub", "FLASK_SKIP_DOTENV": "1"}
    ran = subprocess.run(
        command, cwd=tmp_path, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert ran.stdout.endswith("What is the capital of France?\n")
    assert (tmp_path / "logs" / "log.jsonl").read_text().count("\n") == 1
