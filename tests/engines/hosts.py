"""Hosts of their own on this machine: network namespaces with a bridge between them."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from faults.loads import not_tested

NEW_NETWORK = 0x40000000  # CLONE_NEWNET, for setns(2)


class Host:
    """One of them, at an address that only they can reach."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be there: sockets of this thread, and the threads and processes that it begins."""
        with Path("/proc/thread-self/ns/net").open() as here, (Path("/run/netns") / self.name).open() as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())

    def pids(self) -> list[int]:
        """Return what runs there."""
        return [int(pid) for pid in _ip("netns", "pids", self.name).split()]

    def crash(self) -> None:
        """Kill -9 all that runs there."""
        while pids := [pid for pid in self.pids() if pid != os.getpid()]:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def link(self, state: str) -> None:
        """Set its link "down", which tells nobody, or "up"."""
        _ip("-n", self.name, "link", "set", "eth0", state)


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """Make hosts of these names, each of which reaches the others; what runs there is killed in the end."""
    if os.geteuid():
        not_tested("only root can make network namespaces", fail=False)
    prefix = f"llm-{os.getpid()}"
    bridge = f"{prefix}-net"
    made = [Host(f"{prefix}-{name}", f"10.99.0.{number}") for number, name in enumerate(names, 1)]
    try:
        _ip("netns", "add", bridge)
        _ip("-n", bridge, "link", "add", "br0", "type", "bridge")
        _ip("-n", bridge, "link", "set", "br0", "up")
        for number, host in enumerate(made):
            _ip("netns", "add", host.name)
            _ip("-n", bridge, "link", "add", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns", host.name)
            _ip("-n", bridge, "link", "set", f"p{number}", "master", "br0", "up")
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            _ip("-n", host.name, "link", "set", "lo", "up")
            host.link("up")
        yield made
    finally:
        for host in made:
            host.crash()
        for name in re.findall(rf"(?m)^{prefix}-\w+", _ip("netns", "list")):
            _ip("netns", "delete", name)


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")
