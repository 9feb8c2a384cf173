"""What every test needs: an app of its own, with a log of its own."""

import gc
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from records import Run
from werkzeug.routing import Rule

from llm_api import Settings, create_app
from llm_api.backends import Backend

# Installed, it comes by itself; here the package is only a folder.
pytest_plugins = ["llm_api.testing"]

# What Werkzeug works out of a rule.
COMPILED = ("arguments", "_converters", "_trace", "_parts", "_build", "_build_unknown")


def pytest_collection_finish() -> None:
    """What is there now stays: looking through 10,000 tests for garbage takes half a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _routes_are_compiled_once() -> Iterator[None]:
    """Werkzeug compiles each app's routes anew: 9 of the 10 ms that an app takes, and most tests make one."""
    compiled, compile_one = dict[object, dict[str, Any]](), Rule.compile

    def once(rule: Rule) -> None:
        where = rule.map.host_matching, rule.host, rule.subdomain
        key = rule.rule, rule.merge_slashes, repr(rule.defaults), *where, *rule.map.converters.values()
        if key not in compiled:
            compile_one(rule)
            compiled[key] = {name: vars(rule)[name] for name in COMPILED}
        vars(rule).update(compiled[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "compile", once)
        yield


@pytest.fixture
def named_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pytest that the test runs loads only the plug-ins it names: all installed ones take seconds."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "log.jsonl"


@pytest.fixture
def make_app(log_path: Path) -> Callable[..., Flask]:
    """Return a maker of apps; its arguments are backends, its keywords fields of Settings.

    Without any: the stub, no retries, no fallback.
    """

    def make(*backends: Backend, **settings: Any) -> Flask:
        first, *others = [backend.name for backend in backends] or ["stub"]
        given = {"llm_backend": first, "llm_fallback": tuple(others), "max_retries": 0, "log_file": str(log_path)}
        chosen = Settings(**given | settings)
        named = [backend for backend in backends if backend.name in (chosen.llm_backend, *chosen.llm_fallback)]
        return create_app(chosen, named or None)

    return make


@pytest.fixture
def make_client(make_app: Callable[..., Flask]) -> Callable[..., FlaskClient]:
    """As `make_app`, but return a client of the app."""
    return lambda *backends, **settings: make_app(*backends, **settings).test_client()


@pytest.fixture
def serve(make_client: Callable[..., FlaskClient]) -> Callable[..., FlaskClient]:
    """The same by the name of what its first argument is: the backends."""
    return make_client


@pytest.fixture
def log_lines(log_path: Path) -> Callable[[], list[dict[str, Any]]]:
    """Return a reader of the log; it fails on a line that is not JSON."""

    def read() -> list[dict[str, Any]]:
        lines = log_path.read_bytes().split(b"\n") if log_path.exists() else [b""]
        assert lines.pop() == b"", "the log ends with a newline"
        return [json.loads(line) for line in lines]

    return read


@pytest.fixture
def logs(make_app: Callable[..., Flask]) -> Run:
    """Return a runner of `flask llm logs ARGUMENTS`; its keywords are settings."""
    return lambda *arguments, **settings: (
        make_app(**settings).test_cli_runner().invoke(args=["llm", "logs", *arguments])
    )


@pytest.fixture(scope="session")
def require() -> Callable[..., None]:
    """Skip where packages are missing; fail where CI is set, since there nothing may be left untested."""

    def check(*packages: str) -> None:
        for package in packages:
            if importlib.util.find_spec(package) is None:
                say = pytest.fail if os.environ.get("CI") else pytest.skip
                say(f"{package} is not installed: this part of the service is NOT TESTED here")

    return check
