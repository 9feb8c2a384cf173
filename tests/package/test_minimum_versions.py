"""The lower bounds of pyproject.toml are true: the tests that need no far end pass with exactly these."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Callable

from .conftest import ROOT, Environment

# Schemathesis and the vendors' clients, which these need, want newer versions.
WITH_OTHERS = ("fronts", "openapi", "embeddings", "messages", "ollama_front", "properties", "responses")
PROCESSES = [f"tests/e2e/test_{name}.py" for name in ("starts", "terminal", "readme_flask", "readme_readers")]
WHAT_TESTS_NEED = ("pytest", "pytest-xdist", "responses", "greenlet")


def test_unit_tests_with_the_oldest_versions(make_environment: Callable[[], Environment]) -> None:
    """Each dependency as old as pyproject.toml allows; what those need in turn is new."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    oldest = [
        bound.replace(">=", "==")
        for bound in [*project["dependencies"], *extras["server"], *extras["redis"], *extras["otel"]]
    ]
    assert all("==" in pin for pin in oldest)
    environment = make_environment()
    environment.install(*oldest, *WHAT_TESTS_NEED)
    others = shutil.ignore_patterns(".git", ".venv", "build", "logs", "__pycache__", "*cache")
    shutil.copytree(ROOT, environment.home, ignore=others, dirs_exist_ok=True)
    ignored = (word for name in WITH_OTHERS for word in ("--ignore", f"tests/unit/test_{name}.py"))
    ran = environment.run("-m", "pytest", "-n", "2", "--dist", "worksteal", *ignored, "tests/unit", *PROCESSES)
    print(ran.stdout[-5000:])
    assert re.search(r"^\d+ passed(, \d+ skipped)? in", ran.stdout.splitlines()[-1]), ran.stderr
