"""A far end that is mocked, and a runner of `flask llm logs`."""

from collections.abc import Callable, Iterator

import pytest
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
