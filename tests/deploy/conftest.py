"""nginx and Redis beside the services and far ends of tests/faults. They go with the test."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from faults.conftest import behind, serve  # noqa: F401  (fixtures)

from .parts import Nginx, Redis, nginx_site, running_nginx


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Nginx]]:
    """Return a starter of nginx: deploy/nginx.conf before these addresses, with these replacements."""
    with ExitStack() as stack:

        def start(*servers: str, replace: dict[str, str] | None = None, site: str | None = None) -> Nginx:
            text = site or nginx_site(*servers, replace=replace or {})
            return stack.enter_context(running_nginx(tmp_path_factory.mktemp("nginx"), text))

        yield start


@pytest.fixture
def redis(tmp_path_factory: pytest.TempPathFactory, free_port: int) -> Iterator[Redis]:
    """A Redis of its own."""
    server = Redis(tmp_path_factory.mktemp("redis"), free_port)
    try:
        server.start()
        yield server
    finally:
        server.kill()
