"""Real programs in processes of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from faults.loads import PROJECT, Door, eventually, not_tested

DEPLOY = PROJECT / "deploy"
# As deploy/nginx.conf is included by Debian's, but with nothing outside of a folder; it may run as root or not.
NGINX = """
daemon off;
worker_processes 2;
pid {home}/nginx.pid;
{user}
events {{}}
http {{
    log_format tested '$status $llm_api_id [$upstream_addr] $request_method';
    access_log {home}/access.log tested;
    client_body_temp_path {home}/client_body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    gzip on;
    gzip_types *;
    include {home}/site.conf;
}}
"""


def tool(name: str) -> str:
    """Return a program's path; where it is missing the test is skipped, or fails in CI."""
    found = shutil.which(
        name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin:{PROJECT}/build/prometheus/usr/bin"
    )
    if found is None:
        not_tested(f"{name} is not there (.ci/run has what to install)")
    return found


def replaced(text: str, replacements: dict[str, str]) -> str:
    """Return `text` with each of these strings, which must be there, replaced."""
    for old, new in replacements.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def nginx_site(*servers: str, replace: dict[str, str]) -> str:
    """Return deploy/nginx.conf before the given servers, at a port of this machine only."""
    line = re.compile(r"server unix:/run/llm-api/gunicorn\.sock (.*;)")
    text = replaced((DEPLOY / "nginx.conf").read_text(), {"listen 80;": "listen 127.0.0.1:{port};"} | replace)
    assert len(line.findall(text)) == 1
    return line.sub(lambda found: "\n    ".join(f"server {server} {found[1]}" for server in servers), text)


def unit() -> dict[str, list[str]]:
    """Return what deploy/llm-api.service says, by name."""
    said: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", (DEPLOY / "llm-api.service").read_text(), re.MULTILINE):
        said.setdefault(name, []).append(value)
    return said


class Nginx(Door):
    """One nginx; `site` has a {port} in it."""

    def __init__(self, home: Path, site: str) -> None:
        super().__init__(home)
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.port = sock.getsockname()[1]
        if "$llm_api_id" not in site:
            site = 'map "" $llm_api_id { default -; }\n' + site
        (home / "site.conf").write_text(site.replace("{port}", str(self.port)))
        # Its workers could not enter a test's folder as another user.
        user = "" if os.geteuid() else "user root;"
        (home / "nginx.conf").write_text(NGINX.format(home=home, user=user))
        with (home / "output.txt").open("ab") as output:
            command = [tool("nginx"), "-p", home, "-c", home / "nginx.conf", "-e", "stderr"]
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    def wait_until_up(self) -> None:
        """Return when it takes connections."""
        eventually(self._listens)

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.output()
        with suppress(OSError):
            self.connect().close()
            return True
        return False

    def passed(self, method: str = r"\w+") -> list[tuple[str, str, list[str]]]:
        """Return what its log says of each request: its status, its id, and the servers that were tried."""
        log = (self.home / "access.log").read_text()
        lines = re.findall(rf"^(\d+) (\S+) \[(.*)\] {method}$", log, re.MULTILINE)
        return [(status, name, servers.split(", ")) for status, name, servers in lines]


@contextmanager
def running_nginx(home: Path, site: str) -> Iterator[Nginx]:
    """Run nginx in the empty folder `home`."""
    nginx = Nginx(home, site)
    try:
        nginx.wait_until_up()
        yield nginx
    finally:
        nginx.process.terminate()
        nginx.process.wait(10)


class Redis:
    """One redis-server that keeps nothing."""

    def __init__(self, home: Path, port: int) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        command = [tool("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir"]
        with (self._home / "output.txt").open("ab") as output:
            self._process = subprocess.Popen([*command, self._home], stdout=output, stderr=subprocess.STDOUT)
        eventually(lambda: self.said("PING") == "+PONG\r\n")

    def said(self, command: str) -> str:
        """Return its answer to an inline command, "" where there is none."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
            sock.sendall(f"{command}\r\nQUIT\r\n".encode())
            return b"".join(iter(lambda: sock.recv(65_536), b"")).decode().removesuffix("+OK\r\n")
        return ""

    def signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once; it forgets everything."""
        if self._process:
            self._process.kill()
            self._process.wait()
