"""What is installed is what stands in the locks: versions, hashes, a list of it all, and a wheel of one commit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .conftest import MINUTES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMED = {
    "dependencies": PROJECT["project"]["dependencies"],
    **PROJECT["project"]["optional-dependencies"],
    **PROJECT["dependency-groups"],
}
# What each lock holds, by make lock.
LOCKS = {
    "requirements.txt": ("dependencies", "server"),
    "deploy/requirements.txt": ("dependencies", "server", "redis", "otel"),
    "requirements-dev.txt": ("dependencies", "server", "redis", "otel", "hub", "dev"),
    "requirements-local.txt": ("packaged-model",),
    "requirements-tools.txt": ("tools",),
    "tests/engines/requirements.txt": ("engines",),
}


class Pin(NamedTuple):
    version: str
    hashes: list[str]


def pins(lock: str) -> dict[str, Pin]:
    """Return what a lock pins, by name."""
    found = {}
    for entry in re.split(r"\n(?=[a-z0-9])", (ROOT / lock).read_text()):
        if pinned := re.match(r"([\w.-]+)==([^ ;]+)", entry):
            found[canonicalize_name(pinned[1])] = Pin(pinned[2], re.findall(r"--hash=sha256:([0-9a-f]{64})\b", entry))
    return found


def make(*words: str, cwd: Path = ROOT, check: bool = True, **options: int) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "GIT_"))}
    tools = ROOT / "build" / "tools"
    return subprocess.run(
        ["make", "--silent", f"TOOLS={tools}", f"--old-file={tools}/.done", *words],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=MINUTES,
        check=check,
        **options,
    )


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_what_pyproject_asks_for(lock: str) -> None:
    """Each direct dependency is pinned in its range, and each pin has a hash; a forgotten make lock shows here."""
    pinned = pins(lock)
    wanted = [Requirement(text) for part in LOCKS[lock] for text in NAMED[part]]
    assert {pin.name for pin in wanted if canonicalize_name(pin.name) not in pinned} == set()
    assert [str(pin) for pin in wanted if pinned[canonicalize_name(pin.name)].version not in pin.specifier] == []
    assert [name for name, pin in pinned.items() if not pin.hashes] == []


@pytest.mark.parametrize(
    ("lock", "wider"),
    [("requirements.txt", "deploy/requirements.txt"), ("deploy/requirements.txt", "requirements-dev.txt")],
)
def test_the_same_versions_everywhere(lock: str, wider: str) -> None:
    """The image has what make run installs, and the tests have what is in the image, to the hash."""
    assert pins(lock).items() <= pins(wider).items()


@pytest.mark.parametrize("lock", LOCKS)
def test_no_lock_names_a_host(lock: str) -> None:
    """A lock holds wherever its reader's packages come from."""
    assert "://" not in (ROOT / lock).read_text()


def test_each_direct_dependency_is_explained() -> None:
    """docs/dependencies.md has a line for each package that pyproject.toml names for use, and for no other."""
    page = (ROOT / "docs" / "dependencies.md").read_text()
    rows = re.findall(r"(?m)^\| `([\w.-]+)`", page.partition("\n## Why ")[2])
    named = ["dependencies", *PROJECT["project"]["optional-dependencies"], "packaged-model"]
    assert sorted(rows) == sorted({Requirement(text).name for part in named for text in NAMED[part]})


def test_every_install_asks_for_hashes() -> None:
    """In Makefile, image and pages pip takes our locks with --require-hashes; what it takes without is known."""
    lines = []
    for name in ("Makefile", "README.md", "deploy/Dockerfile", "docs/deploy.md"):
        text = re.sub(r"(?m)^INSTALL := .*", "", (ROOT / name).read_text()).replace("\\\n", "")
        text = text.replace("$(INSTALL)", "pip install --require-hashes")
        lines += re.findall(r"pip (?:\S+ )*install\b[^`\n]*-r \S+", text)
    without = {line.rpartition("-r ")[2] for line in lines if "--require-hashes" not in line}
    assert len(lines) > 8
    assert without == {"requirements-transformers.txt", "$<"}  # torch's build is the user's; the benchmarks' peers


def test_another_file_is_refused(tmp_path: Path) -> None:
    """pip takes no file whose hash is not in the lock."""
    lock = tmp_path / "lock.txt"
    lock.write_text(f"itsdangerous=={pins('requirements.txt')['itsdangerous'].version} --hash=sha256:{'0' * 64}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "-d", tmp_path, "-r", lock]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=MINUTES)
    assert ran.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in ran.stderr


def test_two_wheels_have_the_same_bytes(tmp_path: Path) -> None:
    """make wheel of one commit gives the same file, whatever the folder, the time, the umask and what lies about."""
    wheels = []
    for name, umask in (("here", 0o022), ("and there", 0o077)):
        folder = tmp_path / name / "clone"
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True, umask=umask)
        if wheels:
            (folder / "llm_api" / "left_over.py").touch()
            (folder / "llm_api" / "types.py").touch()
            os.utime(folder / "llm_api" / "errors.py", (1e9, 1e9))
        make("wheel", cwd=folder, umask=umask)
        (wheel,) = (folder / "dist").glob("*.whl")
        wheels.append(wheel.read_bytes())
    assert wheels[0] == wheels[1]


def test_the_list_of_what_is_in_it(tmp_path: Path) -> None:
    """make sbom writes CycloneDX with each package of the image and the model, its version and its hashes."""
    make("sbom")
    found = json.loads((ROOT / "build" / "sbom.json").read_text())
    locked = pins("deploy/requirements.txt") | pins("requirements-local.txt")
    assert found["bomFormat"] == "CycloneDX"
    assert {canonicalize_name(part["name"]): part["version"] for part in found["components"]} == {
        name: pin.version for name, pin in locked.items()
    }
    hashes = {each["content"] for part in found["components"] for each in part["externalReferences"][0]["hashes"]}
    assert hashes == {each for pin in locked.values() for each in pin.hashes}


class OSV(BaseHTTPRequestHandler):
    """A service of the kind that pip-audit asks: werkzeug has a hole."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        hole = {"id": "PYSEC-TEST-1", "summary": "a hole", "affected": [], "aliases": []}
        body = json.dumps({"vulns": [hole]} if asked["package"]["name"] == "werkzeug" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


def test_an_audit() -> None:
    """make audit names a package with a known hole; where its service is not reached it fails too, and says so."""
    with ThreadingHTTPServer(("127.0.0.1", 0), OSV) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asking = f"AUDIT=-s osv --osv-url http://127.0.0.1:{server.server_port}"
        found = make("audit", asking, check=False)
        server.shutdown()
    assert found.returncode != 0
    assert re.search(r"werkzeug +[\d.]+ +PYSEC-TEST-1", found.stdout)
    assert "holes are known" in found.stdout
    assert "flask " not in found.stdout
    away = make("audit", asking, check=False)
    assert away.returncode != 0
    assert "nothing could be audited" in away.stdout
    assert "PYSEC" not in away.stdout


SKIPPED = "Name  Skip Reason\n----- -----------\nattrs not found"
HOLE = "Name     Version ID     Fix Versions\n-------- ------- ------ ------------\nwerkzeug 3.1.9   PYSEC-1 3.2"


@pytest.mark.parametrize(
    ("printed", "code", "said"),
    [
        ("", 0, ""),
        (SKIPPED, 0, "what is listed above could not be audited"),
        (f"{HOLE}\n{SKIPPED}", 1, "holes are known"),
    ],
)
def test_what_was_not_audited(tmp_path: Path, printed: str, code: int, said: str) -> None:
    """A package that the service does not know is no success, and hides no hole of another."""
    (tmp_path / "bin").mkdir()
    (tmp_path / ".done").touch()
    auditor = tmp_path / "bin" / "pip-audit"
    auditor.write_text(f"#!/bin/sh\ncat <<'END'\n{printed}\nEND\nexit {code}\n")
    auditor.chmod(0o755)
    ran = make("audit", f"TOOLS={tmp_path}", f"--old-file={tmp_path}/.done", check=False)
    assert ran.stdout.strip().startswith(printed)
    assert (ran.returncode != 0, said in ran.stdout) == (bool(said), True)
