"""A far end that is mocked, a clock that tests move, and a runner of `flask llm logs`."""

from collections.abc import Callable, Iterator

import pytest
from fakes import Clock
from flask import Flask
from providers import FarEnd
from records import Run


@pytest.fixture
def far_end() -> Iterator[FarEnd]:
    with FarEnd() as mock:
        yield mock


@pytest.fixture
def logs(make_app: Callable[..., Flask]) -> Run:
    """Return a runner of `flask llm logs ARGUMENTS`; its keywords are settings."""
    return lambda *arguments, **settings: (
        make_app(**settings).test_cli_runner().invoke(args=["llm", "logs", *arguments])
    )


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
