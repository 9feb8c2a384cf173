"""Each client's loop with the packaged model, which calls what it must and then answers what it likes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.service import LOCAL, Service, running

from .clients import run_loop

# Not those that leave the choice to the model: the parallel ones, and llm.
CLIENTS = [
    *("openai", "openai stream", "langchain", "pydantic_ai", "instructor", "openai_agents", "smolagents", "ai stream")
]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with SmolLM2, which may take its time: smolagents' prompt is long."""
    with running(tmp_path_factory.mktemp("smollm2"), **LOCAL, LLM_FALLBACK="none", REQUEST_TIMEOUT=300) as service:
        yield service


@pytest.mark.parametrize("client", CLIENTS)
def test_loop(client: str, service: Service, tmp_path: Path) -> None:
    """A call comes, its result goes in, and the loop ends."""
    run_loop(client, service, tmp_path)
