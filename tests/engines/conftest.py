"""Services and engines. They go with the test."""

from __future__ import annotations

import pytest
from faults.conftest import serve  # noqa: F401  (a fixture)
from faults.loads import PROJECT, not_tested

ENVIRONMENT = PROJECT / "build" / "engines"


@pytest.fixture(autouse=True, scope="session")
def _environment() -> None:
    if not (ENVIRONMENT / ".done").exists():
        not_tested(f"{ENVIRONMENT} is not there (make build/engines/.done)")
