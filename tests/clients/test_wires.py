"""Each client's loop before a far end on each wire, which calls what it is offered and answers beside a result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.service import Service, running
from faults.upstreams import CLAUDE, OLLAMA, OPENAI, Wire, upstream

from . import far_end
from .clients import calls_of, run_loop

# Each with the fronts that it can be told to speak to; none is Chat Completions.
FRONTS = {
    "langchain": ("", " responses", " messages", " ollama"),
    "pydantic_ai": ("", " responses", " messages"),
    "openai_agents": ("", " responses"),
    "ai": ("", " responses", " messages"),
    **dict.fromkeys(("instructor", "smolagents", "llm", "ollama_js"), ("",)),
}
CLIENTS = [client + front + way for client, fronts in FRONTS.items() for front in fronts for way in ("", " stream")]
CLIENTS += [
    client + way
    for client in ("openai", "openai responses", "anthropic", "ollama")
    for way in ("", " stream", " parallel", " stream parallel")
]


@pytest.fixture(scope="module", params=[OPENAI, CLAUDE, OLLAMA], ids=str)
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service before the far end."""
    wire: Wire = request.param
    with upstream(getattr(far_end, wire.name)) as server:
        server.probe = far_end.show
        settings = wire.settings(server) | {"LLM_FALLBACK": "none", "OPENAI_API_KEY": "far", "CLAUDE_API_KEY": "far"}
        with running(tmp_path_factory.mktemp(wire.name), **settings) as service:
            yield service


@pytest.mark.parametrize("client", CLIENTS)
def test_loop(client: str, service: Service, tmp_path: Path) -> None:
    """A call comes (two where two cities are asked about), their results go in under their ids, and it ends."""
    lines = run_loop(client, service, tmp_path)
    assert [given["city"] for _, given in calls_of(lines[0])] == (
        ["Paris", "Rome"] if "parallel" in client else ["Paris"]
    )
    assert len(lines) == (1 if client.startswith("instructor") else 2)
