"""What every test needs: an app of its own, with a log of its own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from llm_api import Settings, create_app
from llm_api.backends import Backend

# Installed, it comes by itself; here the package is only a folder.
pytest_plugins = ["llm_api.testing"]


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "log.jsonl"


@pytest.fixture
def make_app(log_path: Path) -> Callable[..., Flask]:
    """Return a maker of apps; its keywords are fields of Settings. Without any: the stub, no retries, no fallback."""

    def make(**settings: Any) -> Flask:
        given = {"llm_backend": "stub", "llm_fallback": (), "max_retries": 0, "log_file": str(log_path)} | settings
        return create_app(Settings(**given))

    return make


@pytest.fixture
def make_client(make_app: Callable[..., Flask]) -> Callable[..., FlaskClient]:
    """As `make_app`, but return a client of the app."""
    return lambda **settings: make_app(**settings).test_client()


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what makes apps use the given backends where their settings name them."""

    def use(*backends: Backend) -> None:
        known = {backend.name: backend for backend in backends}
        monkeypatch.setattr("llm_api.exchange.exchange.make_backend", lambda name, settings: known[name])

    return use


@pytest.fixture
def serve(use: Callable[..., None], make_client: Callable[..., FlaskClient]) -> Callable[..., FlaskClient]:
    """Return a maker of clients whose chain is the given backends."""

    def make(first: Backend, *others: Backend, **settings: Any) -> FlaskClient:
        use(first, *others)
        names = tuple(backend.name for backend in others)
        return make_client(**{"llm_backend": first.name, "llm_fallback": names} | settings)

    return make


@pytest.fixture
def log_lines(log_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """Return a reader of the log; it fails on a line that is not JSON."""

    def read() -> list[dict[str, Any]]:
        lines = log_path.read_bytes().split(b"\n") if log_path.exists() else [b""]
        assert lines.pop() == b"", "the log ends with a newline"
        return [json.loads(line) for line in lines]

    return read
