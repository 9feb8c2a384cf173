"""vLLM itself, on this machine's cores."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from e2e.far_ends import smollm2_file
from engines.test_router import free_ports
from faults.conftest import serve  # noqa: F401  (a fixture)
from faults.loads import PROJECT, eventually, not_tested

ENVIRONMENT = PROJECT / "build" / "vllm"
MODEL = ENVIRONMENT / "smollm2"
# It imports for half a minute on two idle cores, for minutes on busy ones.
START_SECONDS = 600
SEATS = 2
OPTIONS = ("--max-model-len=1024", f"--max-num-seqs={SEATS}", "--enforce-eager", "--dtype=bfloat16")


@dataclass(frozen=True)
class VLLM:
    """One that runs; `home` has what it prints."""

    home: Path
    url: str

    def count(self, what: str) -> int:
        """Return how many requests are `running` or `waiting`, by its metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:
            found = re.search(rf"(?m)^vllm:num_requests_{what}{{.*}} (\S+)$", answer.read().decode())
        assert found
        return int(float(found[1]))

    def statuses(self) -> set[str]:
        """Return the statuses of all its answers to completions."""
        return set(re.findall(r'"POST /v1/chat/completions HTTP/1.1" (\d+)', (self.home / "output.txt").read_text()))


@pytest.fixture(scope="session")
def model() -> Path:
    """SmolLM2 in the form that vLLM loads; making it takes a minute or two, once."""
    if not (ENVIRONMENT / ".done").exists():
        not_tested(f"{ENVIRONMENT} is not there (make build/vllm/.done)", fail=False)
    if not (MODEL / "config.json").exists():
        command = [ENVIRONMENT / "bin" / "python", Path(__file__).with_name("convert.py"), smollm2_file(), MODEL]
        subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    return MODEL


@contextmanager
def vllm_server(home: Path, model: Path, *options: str) -> Iterator[VLLM]:
    """Run `vllm serve` with room for two requests and these options."""
    # It looks for the version of a package by this name, and in that whether it is made for a CPU.
    told = home / "vllm-0+cpu.dist-info"
    told.mkdir()
    (told / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0+cpu\n")
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(home)}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    [port] = free_ports(1)
    where = ("--host=127.0.0.1", f"--port={port}", "--served-model-name=smollm2")
    command = [ENVIRONMENT / "bin" / "vllm", "serve", model, *where, *OPTIONS, *options]
    running = VLLM(home, f"http://127.0.0.1:{port}")
    with (home / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )

    def is_up() -> bool:
        assert process.poll() is None, (home / "output.txt").read_text()[-3000:]
        with suppress(OSError), urllib.request.urlopen(f"{running.url}/health") as answer:
            return bool(answer.status == 200)
        return False

    try:
        eventually(is_up, START_SECONDS)
        yield running
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its engine is a process of its own
        process.wait()
