"""Settings at a start: what gunicorn and flask make of them, and how a start with wrong ones ends."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import ROOT, python

from llm_api import Settings

RULES = [(field.name, field.metadata["other_names"]) for field in dataclasses.fields(Settings)]
VARIABLES = {variable for name, others in RULES for variable in (name.upper(), *others)}
NOBODY_LISTENS = "redis://127.0.0.1:1/0"
NAMES = "ollama, huggingface, openai, claude, stub, replay"


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a runner of Python in a folder with the entry files, an .env and nothing else."""
    for name in ("wsgi.py", "gunicorn.conf.py"):
        shutil.copy(ROOT / name, tmp_path)

    def run(*args: str, env_file: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / ".env").write_text(env_file)
        clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        return python(*args, cwd=tmp_path, env=clean | {"PYTHONPATH": str(ROOT)} | environ)

    return run


Start = Callable[..., "subprocess.CompletedProcess[str]"]


WRONG = f"llm_api: LLM_BACKEND='gpt' is not valid: it must be one of {NAMES}, a plugin's name, or module:Class\n"


@pytest.mark.parametrize(
    ("args", "status"),
    [(("wsgi.py",), 4), (("gunicorn.conf.py",), 1), (("-m", "gunicorn", "--check-config", "wsgi:app"), 1)],
    ids=["wsgi", "gunicorn.conf", "gunicorn"],
)
@pytest.mark.parametrize("where", ["environment", "file"])
def test_a_wrong_setting_ends_the_start(start: Start, args: tuple[str, ...], status: int, where: str) -> None:
    """One clear line on stderr, no traceback, and a status that is not 0."""
    wrong = {"LLM_BACKEND": "gpt"} if where == "environment" else {"env_file": "LLM_BACKEND=gpt"}
    ended = start(*args, **wrong)
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", WRONG)


@pytest.mark.parametrize("name", ["gthread", "sync", "gunicorn.workers.gthread.ThreadWorker"])
def test_workers_that_are_not_this_files(start: Start, name: str) -> None:
    """-k would name gunicorn's own, which hold up clients where ours don't: it ends the start, with what to do."""
    ended = start("-m", "gunicorn", "-k", name, "wsgi:app", LLM_BACKEND="stub", BIND="127.0.0.1:0")
    assert ended.returncode == 1
    assert "leave out -k" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_gunicorn_accepts_its_configuration(start: Start) -> None:
    """The configuration and the app load as they are."""
    ended = start("-m", "gunicorn", "--check-config", "wsgi:app", LLM_BACKEND="stub")
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "127.0.0.1:8000 2 GThread 1024 2048 130"),
        ({"LLM_BACKEND": "huggingface"}, "127.0.0.1:8000 2 GThread 1024 2048 130"),
        ({"LLM_BACKEND": "huggingface", "HF_MODEL": "owner/name"}, "127.0.0.1:8000 2 GThread 1024 2048 130"),
        ({"LLM_BACKEND": "huggingface", "WEB_CONCURRENCY": "3"}, "127.0.0.1:8000 3 GThread 1024 2048 130"),
        (
            {"BIND": "unix:/run/x", "THREADS": "4", "REQUEST_TIMEOUT": "7.5"},
            "unix:/run/x 2 GThread 4 8 18",
        ),
    ],
)
def test_gunicorns_settings_are_ours(start: Start, environ: dict[str, str], expected: str) -> None:
    """Workers, threads and times follow the settings; the graceful stop outlasts a request."""
    names = "bind, workers, worker_class, threads, worker_connections, graceful_timeout"
    told = f"(getattr(c[n], '__name__', c[n]) for n in '{names}'.split(', '))"
    code = f"import runpy; c = runpy.run_path('gunicorn.conf.py'); print(*{told})"
    ended = start("-c", code, **environ)
    assert (ended.stdout, ended.stderr) == (expected + "\n", "")


@pytest.mark.parametrize(
    ("threads", "hard", "raised"),
    [
        (64, 9000, "584 64 192"),
        (1000, 9000, "6200 1000 3000"),
        (64, 500, "500 64 108"),
        (1000, 900, "900 233 1"),
        (64, 150, "150 1 0"),
    ],
)
def test_descriptors_are_enough_for_all_threads(start: Start, threads: int, hard: int, raised: str) -> None:
    """A request that waits has two, a kept connection one; the limit is raised to what THREADS needs, if it may be.

    Else there are fewer connections that ask nothing, then fewer threads: a worker that can take no more of them would
    end, and a request that can't reach its backend would fail.
    """
    limit = f"import resource as r; n = r.RLIMIT_NOFILE; r.setrlimit(n, (100, {hard}))"
    code = f"{limit}; import runpy; c = runpy.run_path('gunicorn.conf.py')"
    code += "; print(r.getrlimit(n)[0], c['threads'], c['worker_class'].max_idle)"
    assert start("-c", code, THREADS=str(threads)).stdout == f"{raised}\n"


def test_idle_connections_outlive_those_in_front(start: Start) -> None:
    """nginx keeps its own for 60 s, browsers and Go's client for up to 90: whoever closes first loses no request."""
    code = "import runpy; print(runpy.run_path('gunicorn.conf.py')['keepalive'] > 90)"
    assert start("-c", code).stdout == "True\n"


# What python-dotenv would read otherwise, or from elsewhere, each in a setting that may be any text.
PECULIAR = {
    "LOG_FILE": "plain",
    "HF_SYSTEM": '"a b"',
    "HF_MODEL": "${HOME}/x",
    "OLLAMA_MODEL": "x${NOBODY:-y}",
    "OPENAI_MODEL": '"a\\tb"',
    "CLAUDE_MODEL": "a#b",
    "OPENAI_EMBED_MODEL": r"'it\'s'",
}


SHOWN = "print([getattr(settings, name.lower()) for name in {names}])"


BY_GUNICORN = f"import runpy; settings = runpy.run_path('service/gunicorn.conf.py')['settings']; {SHOWN}"


BY_FLASK = f"""
import os, sys
os.environ.pop("FLASK_SKIP_DOTENV", None)
os.chdir("service")
from flask import current_app
from flask.cli import cli
from llm_api import LLMAPI

@cli.command("shown")
def shown():
    settings = LLMAPI.of(current_app).settings
    {SHOWN}

cli.main(["--app", "wsgi", "shown"])
"""


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("where", ["service/.env", "service/.flaskenv", ".env"])
def test_flask_reads_what_gunicorn_reads(start: Start, tmp_path: Path, where: str, installed: bool) -> None:
    """python-dotenv's own reading of .env, or of what only it looks for, changes nothing."""
    folder = tmp_path / "service"
    folder.mkdir()
    for name in ("wsgi.py", "gunicorn.conf.py"):
        (tmp_path / name).rename(folder / name)
    if not installed:
        (folder / "dotenv.py").write_text("raise ModuleNotFoundError")
    lines = "".join(f"{name}={value}\n" for name, value in PECULIAR.items())
    (folder / ".env").touch()
    (tmp_path / where).write_text(lines)
    above = lines if where == ".env" else ""
    gunicorn, flask = (
        start("-c", code.replace("{names}", str(list(PECULIAR))), env_file=above) for code in (BY_GUNICORN, BY_FLASK)
    )
    assert flask.stdout == gunicorn.stdout != ""
    assert ("plain" in flask.stdout) is (where == "service/.env")
    assert ("python-dotenv" in flask.stderr) is (not installed)


# --- what a process loads, and what several tell


@pytest.mark.parametrize(
    ("storage", "loaded"), [("memory://", []), (NOBODY_LISTENS, ["limits", "redis"])], ids=["memory", "redis"]
)
def test_the_packages_are_loaded_only_for_a_redis(storage: str, loaded: list[str], log_path: Path) -> None:
    """Who counts in memory pays nothing for them."""
    settings = f"llm_backend='stub', log_file={str(log_path)!r}, rate_limit='1/minute', rate_limit_storage={storage!r}"
    code = (
        f"import sys; from llm_api import Settings, create_app; app = create_app(Settings({settings}));"
        "assert app.test_client().post('/generate', json={'prompt': 'Hi'}).status_code == 200;"
        "print(sorted({'limits', 'redis'} & set(sys.modules)))"
    )
    ended = python("-c", code)
    assert ended.stdout == f"{loaded}\n", ended.stderr


def test_workers_are_summed(tmp_path: Path) -> None:
    """With gunicorn's folder, any worker tells the numbers of all, those of dead ones too."""
    code = (
        "from llm_api import Settings, create_app\n"
        f"app = create_app(Settings(llm_backend='stub', llm_fallback=(), log_file={str(tmp_path / 'log')!r}))\n"
        "client = app.test_client()\n"
        "client.post('/generate', json={'prompt': 'x'}, buffered=True)\n"
        "print(client.get('/metrics').text)"
    )
    environ = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def worker() -> str:
        ended = python("-c", code, env=environ)
        assert ended.stderr == ""
        return ended.stdout

    counted = 'llm_api_requests_total{backend="stub",code="200",operation="generate",status="ok"} '
    assert f"{counted}1.0\n" in worker()
    assert f"{counted}2.0\n" in worker()
