"""What docs/flask.md says of streams, and of metrics, under a host's own gunicorn with two real workers."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .service import PROJECT, START_SECONDS, eventually

PAGE = (PROJECT / "docs" / "flask.md").read_text()


def block(heading: str) -> str:
    """Return the Python of a section of the page."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.split(f"## {heading}\n")[1].split("\n## ")[0], re.DOTALL)
    return str(code)


CONFIGURATION = block("Metrics under your own gunicorn")
BACKEND = """
from llm_api.backends import Backend
from llm_api.errors import ServerError
from llm_api.types import Chunk

class Breaks(Backend):
    name, model = "breaks", "breaks-1"

    def stream(self, request, deadline):
        yield Chunk("The sea")
        raise ServerError("it broke")

    def check(self, deadline):
        pass

    def list_models(self, deadline):
        return []
"""
HOST = f"""
import os
from flask import Flask, current_app
from prometheus_client import Counter
from llm_api import LLMAPI

app = Flask(__name__)
LLMAPI(app, url_prefix="/llm", llm_backend="stub", log_file="log.jsonl")
LLMAPI(app, url_prefix="/breaks", llm_backend="breaks:Breaks", log_file="log.jsonl")
Counter("host_starts", "A metric of the host's own.").inc()
{block("Streaming to a page").replace("LLMAPI.of(current_app)", 'LLMAPI.of(current_app, "/breaks")')}
@app.after_request
def say_which_worker(response):
    response.headers["X-Worker"] = str(os.getpid())
    return response
"""
COUNTED = r'(?m)^llm_api_requests_total\{backend="stub",.*\} (\d+)'
Ask = Callable[..., tuple[str, str]]


@contextmanager
def serving(home: Path, configuration: str) -> Iterator[Ask]:
    """Run the host with this gunicorn.conf.py; give a function that asks it, and says which worker answered what."""
    (home / "host.py").write_text(HOST)
    (home / "breaks.py").write_text(BACKEND)
    (home / "gunicorn.conf.py").write_text(configuration)
    command = [sys.executable, "-m", "gunicorn", "host:app", "--bind", "127.0.0.1:0", "--workers", "2"]
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": f"{PROJECT}:{home}"}
    output = home / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--no-control-socket"], cwd=home, env=environ, stdout=file, stderr=subprocess.STDOUT
        )

    def ask(method: str, path: str, body: object = None) -> tuple[str, str]:
        found = eventually(
            lambda: re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", output.read_text()), START_SECONDS
        )
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.headers["X-Worker"], answer.read().decode()
        finally:
            connection.close()

    try:
        yield ask
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextmanager
def stopped(worker: str) -> Iterator[None]:
    """Keep a worker from taking requests."""
    os.kill(int(worker), signal.SIGSTOP)
    try:
        eventually(lambda: re.search(r"\) T ", Path(f"/proc/{worker}/stat").read_text()))
        yield
    finally:
        os.kill(int(worker), signal.SIGCONT)


def count(metrics: str) -> int:
    return sum(map(int, re.findall(COUNTED, metrics)))


@pytest.mark.parametrize(("configuration", "each"), [(CONFIGURATION, 2), ("", 1)], ids=["page", "none"])
def test_metrics_of_two_workers(tmp_path: Path, configuration: str, each: int) -> None:
    """Each worker answers one prompt: with the page's gunicorn.conf.py both show two, without it each shows its own.

    With it, the host's own metrics are there too.
    """
    with serving(tmp_path, configuration) as ask:
        one, _ = ask("POST", "/llm/generate", {"prompt": "x"})
        with stopped(one):
            two, _ = ask("POST", "/llm/generate", {"prompt": "x"})
            shown = [ask("GET", "/llm/metrics")]
        with stopped(two):
            shown.append(ask("GET", "/llm/metrics"))
    assert [(worker, count(metrics)) for worker, metrics in shown] == [(two, each), (one, each)]
    assert {"host_starts_total" in metrics for _, metrics in shown} == {each == 2}


def test_a_stream_that_breaks(tmp_path: Path) -> None:
    """A stream that fails after its first piece breaks the connection: a client can't take it for whole."""
    with serving(tmp_path, "") as ask, pytest.raises(http.client.IncompleteRead) as broken:
        ask("GET", "/poem/live")
    assert broken.value.partial == b"The sea"


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
@pytest.mark.parametrize(
    ("path", "body", "start"),
    [
        ("generate", {"prompt": "x"}, '{"response": "The sea"}\n{"error": {"message": "it broke", '),
        (
            "v1/chat/completions",
            {"model": "default", "messages": [{"role": "user", "content": "x"}]},
            'data: {"id": ',
        ),
    ],
)
def test_a_stream_of_the_api_that_breaks(
    tmp_path: Path, worker_class: str, path: str, body: dict[str, Any], start: str
) -> None:
    """The error comes whole, then the connection breaks; the error output doesn't take that for a bug of the host's."""
    configuration = f'worker_class = "{worker_class}"'
    with serving(tmp_path, configuration) as ask, pytest.raises(http.client.IncompleteRead) as broken:
        ask("POST", f"/breaks/{path}", body | {"stream": True, "fallback": False})
    text = broken.value.partial.decode()
    assert text.startswith(start)
    assert json.loads(text.strip().rpartition("\n")[2].removeprefix("data: "))["error"]["code"] == "server_error"
    assert "Traceback" not in (tmp_path / "output.txt").read_text()
    (line,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert (line["status"], line["http_status"], line["response"]) == ("error", 200, "The sea")
