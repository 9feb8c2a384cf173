"""The wheel, and environments that have it and nothing of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MINUTES = 900  # seconds; an index may be slow


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and an empty folder to be in."""

    python: Path
    home: Path

    def run(self, *args: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run its Python with these arguments and nothing of our environment's settings."""
        kept = {
            name: value for name, value in os.environ.items() if name.startswith("PIP_") or name in ("PATH", "HOME")
        }
        return subprocess.run(
            [str(self.python), *args],
            cwd=self.home,
            env=kept | {"FLASK_SKIP_DOTENV": "1"} | environ,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=MINUTES,
            check=False,
        )

    def install(self, *what: str) -> None:
        """Install packages."""
        ran = self.run("-m", "pip", "install", "--quiet", *what)
        assert ran.returncode == 0, ran.stderr


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: building leaves files."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "llm_api", source / "llm_api", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(made), str(source)]
    subprocess.run(command, check=True, timeout=MINUTES)
    (found,) = made.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Environment]:
    """Return a maker of empty environments."""

    def make() -> Environment:
        folder = tmp_path_factory.mktemp("environment")
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=MINUTES)
        (folder / "home").mkdir()
        return Environment(folder / "venv" / "bin" / "python", folder / "home")

    return make


@pytest.fixture(scope="session")
def installed(wheel: Path, make_environment: Callable[[], Environment]) -> Environment:
    """An environment with the wheel and pytest."""
    environment = make_environment()
    environment.install(str(wheel), "pytest")
    return environment
