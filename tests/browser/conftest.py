"""A browser, the service, and nginx before it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import pytest
from e2e.service import running

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# What a site would write that gives the service a path of a host; the rest keeps nginx inside its folder.
# (Started by root it would work as nobody, who can't enter that folder; others it only warns.)
NGINX = """
daemon off;
user root;
pid {folder}/pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream app {{ server 127.0.0.1:{app}; }}
    server {{
        listen 127.0.0.1:{port};
        location /llm/ {{ proxy_pass http://app/; }}
    }}
}}
"""


def program(*names: str) -> str:
    """Return the path of the first of these programs that is there."""
    path = os.environ["PATH"] + ":/usr/sbin"
    return next(filter(None, (shutil.which(name, path=path) for name in names)), None) or not_tested(names[0])


def not_tested(missing: str) -> NoReturn:
    """Skip; fail where CI is set, since there nothing may be left untested."""
    say = pytest.fail if os.environ.get("CI") else pytest.skip
    say(f"{missing} is not installed: the pages are NOT TESTED here")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's own Chromium; Playwright's comes from elsewhere."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        not_tested("playwright")
    binary = program("chromium", "chromium-browser", "google-chrome")
    # Chromium's sandbox does not run as root, as CI does; the only pages are our own.
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"]) as it,
    ):
        yield it


@pytest.fixture(scope="session")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the service."""
    with running(tmp_path_factory.mktemp("service"), LLM_BACKEND="stub") as service:
        yield f"http://127.0.0.1:{service.port}"


@pytest.fixture(scope="session")
def prefixed(direct: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the service behind nginx, which strips /llm."""
    folder = tmp_path_factory.mktemp("nginx")
    binary = program("nginx")
    # nginx takes over a socket that listens already (NGINX is how it gets those of its own predecessor): the port is
    # ours from the start, and who comes too early waits in it.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, app=direct.rpartition(":")[2], port=port))
        command = [binary, "-p", folder, "-c", folder / "nginx.conf", "-e", "stderr"]
        env = os.environ | {"NGINX": f"{listening.fileno()};"}
        nginx = subprocess.Popen(command, pass_fds=[listening.fileno()], env=env)
    try:
        yield f"http://127.0.0.1:{port}/llm"
    finally:
        nginx.terminate()
        nginx.wait(timeout=10)


@pytest.fixture(params=["direct", "prefixed"])
def address(request: pytest.FixtureRequest) -> str:
    """Where the service is: at the top of a host, and under a path of one."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of its own, without the others' cache."""
    with browser.new_context() as context:
        yield context.new_page()
