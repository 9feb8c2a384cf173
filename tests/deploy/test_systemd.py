"""deploy/llm-api.service, as far as that shows without systemd as process 1."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

from faults.loads import PROJECT, figure, running

from .parts import DEPLOY, replaced, tool, unit

UNIT = DEPLOY / "llm-api.service"
EXPOSURE = 2.0  # of 10; below 2.5 systemd says OK


def test_verify(tmp_path: Path) -> None:
    """systemd-analyze has no complaint about the unit, where the project is installed as its first lines say."""
    gunicorn = tmp_path / "srv" / ".venv" / "bin" / "gunicorn"
    gunicorn.parent.mkdir(parents=True)
    gunicorn.touch(0o755)
    there = tmp_path / UNIT.name
    there.write_text(replaced(UNIT.read_text(), {"/srv/llm-api": f"{tmp_path}/srv"}))

    command = [tool("systemd-analyze"), "verify", "--man=no", there]
    ran = subprocess.run(command, capture_output=True, text=True)

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_security() -> None:
    """systemd-analyze finds the service little exposed."""
    command = [tool("systemd-analyze"), "security", "--offline=true", "--no-pager", UNIT]
    said = subprocess.run(command, capture_output=True, text=True).stdout
    exposure = re.search(r"Overall exposure level .*: ([\d.]+) (\w+)", said)
    assert exposure, said
    figure("systemd", f"exposure {exposure[1]} of 10: {exposure[2]}")
    assert float(exposure[1]) <= EXPOSURE


def test_times() -> None:
    """systemd waits longer for the service than gunicorn for its workers, and that longer than a request lasts."""
    command = [sys.executable, "-m", "gunicorn", "--print-config", "wsgi:app"]
    env = {"FLASK_SKIP_DOTENV": "1", "PATH": "/usr/bin:/bin", "LLM_BACKEND": "stub", "REQUEST_TIMEOUT": "120"}
    said = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=True).stdout
    graceful = int(dict(re.findall(r"^(\w+) += (.*)$", said, re.MULTILINE))["graceful_timeout"])
    stop = int(unit()["TimeoutStopSec"][0])
    figure("systemd", f"a request 120 s, gunicorn {graceful} s, systemd {stop} s")
    assert stop >= graceful + 10 >= 120 + 20


def test_notify(tmp_path: Path) -> None:
    """Type=notify: gunicorn tells systemd that it is ready, once it listens where the unit says."""
    assert unit()["Type"] == ["notify"]
    assert shlex.split(unit()["ExecStart"][0])[1:] == ["wsgi:app"]
    home = tmp_path / "home"
    home.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        settings = {"NOTIFY_SOCKET": tmp_path / "notify", "BIND": f"unix:{tmp_path}/gunicorn.sock"}
        with running(home, LLM_BACKEND="stub", **settings) as service:
            assert b"READY=1" in systemd.recv(4096).split(b"\n")
            assert service.generate().ok
