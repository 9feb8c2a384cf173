"""Services, far ends and a small disk. They go with the test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .loads import Service, not_tested, running
from .upstreams import Script, Upstream, upstream


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Return a starter of services: gunicorn's arguments, and all the settings they have."""
    with ExitStack() as stack:
        yield lambda *arguments, **settings: stack.enter_context(
            running(tmp_path_factory.mktemp("service"), *arguments, **settings)
        )


@pytest.fixture
def behind() -> Iterator[Callable[[Script], Upstream]]:
    """Return a starter of upstreams."""
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(upstream(script))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB."""
    if os.geteuid():
        not_tested("only root can mount a disk", fail=False)
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "faults", folder], capture_output=True)
    if mounted.returncode:
        not_tested(f"no disk can be mounted ({mounted.stderr.decode().strip()})")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
