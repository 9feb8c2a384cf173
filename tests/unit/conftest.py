"""A far end and a gunicorn that are mocked, and a clock that tests move."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import Clock
from providers import FarEnd

MEMORY = Path("/dev/shm")


def pytest_configure() -> None:
    """What tests write stays in memory where it has room: disks take half a minute to remove 20,000 small folders."""
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2**30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture
def far_end() -> Iterator[FarEnd]:
    with FarEnd() as mock:
        yield mock


@pytest.fixture
def gunicorn(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Stand in for gunicorn, which takes a second to tell the doctor its configuration; a test may change it."""
    said, really_run = {"graceful_timeout": "130", "bind": "['127.0.0.1:8000']"}, subprocess.run

    def run(command: list[str], **kwargs: Any) -> subprocess.CompletedProcess[str]:
        if "gunicorn" not in command:
            return really_run(command, **kwargs)
        assert command[1:] == ["-m", "gunicorn", "--print-config", "wsgi:app"]
        output = "".join(f"{name:20} = {value}\n" for name, value in said.items())
        return subprocess.CompletedProcess(command, 0, output, "")

    monkeypatch.setattr("subprocess.run", run)
    return said


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock of deadlines, breakers and health; only the test moves it."""
    clock = Clock()
    for module in ("runtime.deadline", "exchange.breaker", "exchange.health"):
        monkeypatch.setattr(f"llm_api.{module}.time", clock)
    return clock


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What /health waits for; a busy machine must not make tests fail."""
    monkeypatch.setattr("llm_api.exchange.health.PATIENCE_SECONDS", 10)
