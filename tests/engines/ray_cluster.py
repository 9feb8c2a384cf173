"""Ray Serve with examples/ray_serve.py over two hosts."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from e2e.far_ends import smollm2_file
from faults.loads import PROJECT, eventually

from .conftest import ENVIRONMENT
from .hosts import Host, hosts

START_SECONDS = 120
CPUS = 2
ONE = {"num_replicas": 1, "autoscaling_config": None}
# A replica on each host: what the tests of faults take away one of.
TWO = {"num_replicas": 2, "autoscaling_config": None, "max_replicas_per_node": 1}


class Cluster:
    """A head and another node, each a host, and a third host for who uses them."""

    def __init__(self, head: Host, node: Host, user: Host, home: Path) -> None:
        self.head, self.node, self.user = head, node, user
        self.home = home
        self.url = f"http://{head.address}:8000"
        self.environment = {
            "PATH": f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}",
            "HOME": str(home),
            "TMPDIR": str(home),
            "PYTHONPATH": str(PROJECT / "examples"),
            "MODEL": str(smollm2_file()),
            "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",  # or the head's replica would get nearly everything
        }

    def start_head(self) -> None:
        """Start Ray's head and Serve's controller."""
        self._start(self.head, "--head", "--port=6379", "--dashboard-host=127.0.0.1", f"--temp-dir={self.home}")
        eventually(lambda: self._asked("GET", "/api/version"), START_SECONDS)

    def start_node(self) -> None:
        """Start the other node, in place of one that may have been there; return when Ray knows which of them lives."""
        self.node.crash()
        self.node.link("up")
        known = self.nodes()
        self._start(self.node, f"--address={self.head.address}:6379")
        eventually(lambda: len(found := self.nodes()) == 2 and found - known, START_SECONDS)

    def _start(self, host: Host, *arguments: str) -> None:
        command = [ENVIRONMENT / "bin" / "ray", "start", f"--node-ip-address={host.address}", *arguments]
        command += [f"--num-cpus={CPUS}", "--object-store-memory=100000000", "--disable-usage-stats"]
        with host.entered(), (self.home / f"{host.name}.txt").open("ab") as output:
            subprocess.run(command, env=self.environment, stdout=output, stderr=subprocess.STDOUT, check=True)

    def nodes(self) -> set[str]:
        """Return the ids of the nodes that Ray takes for alive."""
        answer = self._asked("GET", "/api/v0/nodes") or {}
        found = answer.get("data", {}).get("result", {}).get("result", [])
        return {node["node_id"] for node in found if node["state"] == "ALIVE"}

    def deploy(self, **options: Any) -> None:
        """Deploy the example with these options of its deployment; return when all runs."""
        deployments = [{"name": "Engine"} | options]
        app = {"name": "engines", "route_prefix": "/", "import_path": "ray_serve:app", "deployments": deployments}
        asked = {"proxy_location": "EveryNode", "http_options": {"host": "0.0.0.0", "port": 8000}}
        eventually(lambda: self._put(asked | {"applications": [app]}), START_SECONDS)
        wanted = options.get("num_replicas", 1)
        eventually(lambda: self._app()["status"] == "RUNNING" and len(self.replicas()) == wanted, START_SECONDS)

    def _put(self, config: dict[str, Any]) -> bool:
        return self._asked("PUT", "/api/serve/applications/", config) is not None

    def _app(self) -> dict[str, Any]:
        found = self._asked("GET", "/api/serve/applications/") or {}
        app: dict[str, Any] = found.get("applications", {}).get("engines", {"status": None, "deployments": {}})
        assert app["status"] != "DEPLOY_FAILED", app
        return app

    def replicas(self) -> dict[str, int]:
        """Return the processes of the replicas that run, by their hosts' addresses."""
        replicas = self._app()["deployments"].get("Engine", {"replicas": []})["replicas"]
        running = {each["node_ip"]: each["pid"] for each in replicas if each["state"] == "RUNNING"}
        return {address: pid for address, pid in running.items() if Path(f"/proc/{pid}").exists()}

    def processes(self) -> list[int]:
        """Return all that Ray has begun, wherever it is."""
        mark, found = f"HOME={self.home}\0".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found

    def _asked(self, method: str, path: str, body: Any = None) -> Any:
        """Ask Ray's dashboard; return None where it does not answer, or not yet."""
        with self.head.entered():
            connection = http.client.HTTPConnection("127.0.0.1", 8265, timeout=30)
            try:
                connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                data = answer.read()
                return json.loads(data or b"{}") if answer.status == 200 else None
            except (OSError, http.client.HTTPException):
                return None
            finally:
                connection.close()


@contextmanager
def ray_cluster(home: Path) -> Iterator[Cluster]:
    """Run Ray over two hosts; its folder `home` must have a short name, for the sake of its sockets."""
    with hosts("head", "node", "user") as (head, node, user):
        cluster = Cluster(head, node, user, home)
        cluster.start_head()
        cluster.start_node()
        yield cluster
