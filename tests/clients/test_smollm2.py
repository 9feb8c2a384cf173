"""Each client's loop with the packaged model, which calls what it must and then answers what it likes."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.service import Service

from .clients import run_loop

# Not those that leave the choice to the model: the parallel ones, and llm.
CLIENTS = [
    *("openai", "openai stream", "langchain", "pydantic_ai", "instructor", "openai_agents", "smolagents", "ai stream")
]


@pytest.mark.parametrize("client", CLIENTS)
def test_loop(client: str, smollm2: Service, tmp_path: Path) -> None:
    """A call comes, its result goes in, and the loop ends."""
    lines = run_loop(client, smollm2, tmp_path)
    assert {line["backend"] for line in lines} == {"huggingface"}
