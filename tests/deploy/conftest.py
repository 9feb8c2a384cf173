"""nginx, Redis and the image beside the services and far ends of tests/faults. They go with the test."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from faults.conftest import behind, serve  # noqa: F401  (fixtures)
from faults.loads import not_tested

from .images import WHEELS, Buildah, Container, Image, container, copy_project
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


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image, built of a folder as a developer has it."""
    if os.geteuid():
        not_tested("only root can build an image here", fail=False)
    if not (WHEELS / ".done").exists():
        not_tested(f"{WHEELS} is not there (make build/wheels/.done)")
    folder = tmp_path_factory.mktemp("context")
    copy_project(folder)
    (folder / ".env").write_text("OPENAI_API_KEY=a-key-that-nobody-may-see\n")
    (folder / "logs").mkdir()
    (folder / "logs" / "log.jsonl").write_text("{}\n")
    buildah = Buildah(tmp_path_factory.mktemp("buildah"))
    try:
        buildah.make_base()
        yield buildah.build("llm-api", folder, VERSION="0.1.0", REVISION="abc")
    finally:
        buildah.close()


@pytest.fixture
def run(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Container]]:
    """Return a starter of containers with these settings."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(container(tmp_path_factory.mktemp("box"), image, settings))
