"""What importing costs: time, and modules that most never need."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from .conftest import ROOT

SECONDS = 0.3
ENGINES = ("torch", "transformers", "xllamacpp", "huggingface_hub")
SLOW = (*ENGINES, "numpy", "requests", "jsonschema", "limits", "redis")


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def cpu_seconds(code: str) -> float:
    """Return the processor's time, which a busy machine stretches less than the clock's."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    python(code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("more", ["llm_api.LLMAPI", "llm_api.create_app(llm_api.Settings(llm_backend='stub'))"])
def test_what_is_not_imported(more: str) -> None:
    """Neither the import nor an app with the stub loads what only some requests need."""
    assert python(f"import sys, llm_api; {more}; print(*(m for m in {SLOW} if m in sys.modules))") == "\n"


def test_import_time() -> None:
    """What a host imports takes less than 0.3 s; on a machine where Flask alone takes 0.15 s, less than two Flasks."""
    runs = [(cpu_seconds("import flask"), cpu_seconds("from llm_api import LLMAPI")) for _ in range(7)]
    flask, ours = (min(times) for times in zip(*runs, strict=True))
    print(f"import flask: {flask:.3f} s; from llm_api import LLMAPI: {ours:.3f} s")
    assert ours < max(SECONDS, 2 * flask)
