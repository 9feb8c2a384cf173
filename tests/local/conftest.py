"""Services as in e2e, and small models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.conftest import serve  # noqa: F401  (a fixture)


@pytest.fixture(scope="session")
def tiny_models(require: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the models of tiny_models.py."""
    require("torch", "transformers", "tokenizers")
    folder = tmp_path_factory.mktemp("tiny_models")
    subprocess.run(
        [sys.executable, Path(__file__).with_name("tiny_models.py"), folder], check=True, capture_output=True
    )
    return folder
