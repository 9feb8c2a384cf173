"""deploy/Dockerfile: what is in the image, and how it runs where nothing but its log may be written."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faults.loads import children, eventually, figure
from faults.upstreams import OPENAI, UNTIL_CLOSED, Peer, Script, Upstream

from .images import Container, Image
from .parts import tool

MEGABYTES = 120  # above its base
USER = 10001
READ_ONLY = """
import os
for path in ("/app/x", "/opt/venv/x", "/tmp/x", "/run/llm-api/x", "/etc/x"):
    try:
        open(path, "w")
        print("written", path)
    except OSError as error:
        pass
print(os.getuid(), os.getgid(), os.getgroups(), os.getpid())
"""


def test_what_it_says_of_itself(image: Image) -> None:
    """It runs as a user without rights; it has its version and revision, and a volume for the log."""
    config = image.config
    assert config["User"] == f"{USER}:{USER}"
    assert config["Labels"]["org.opencontainers.image.version"] == "0.1.0"
    assert config["Labels"]["org.opencontainers.image.revision"] == "abc"
    assert list(config["Volumes"]) == ["/app/logs"]
    assert config["Cmd"] == ["gunicorn", "wsgi:app"]


def test_what_is_in_it(image: Image) -> None:
    """It has the code and its packages, no pip for them, no tests, no .env and no log; it is small."""
    app = {path.name for path in (image.root / "app").iterdir()}
    assert app - {"__pycache__"} == {"llm_api", "wsgi.py", "gunicorn.conf.py", "logs"}
    assert list((image.root / "app" / "logs").iterdir()) == []
    assert not list((image.root / "opt" / "venv").glob("lib/*/site-packages/pip*"))
    said = subprocess.run(["du", "-sm", image.root / "opt", image.root / "app"], capture_output=True, text=True).stdout
    size = sum(map(int, re.findall(r"(?m)^\d+", said)))
    figure("image", f"{size} MB above its base")
    assert size <= MEGABYTES


def test_nothing_may_be_written(image: Image) -> None:
    """Its user can't write to its root, is in no group but its own, and is the first process."""
    ran = image.run("python", "-c", READ_ONLY)
    assert (ran.stdout, ran.stderr) == (f"{USER} {USER} [] 1\n", "")


def test_what_may_be_written_where_its_root_is_not_read_only(image: Image) -> None:
    """Without the runtime's help too, its user may write to the log's folder and a socket's alone, and in /tmp."""
    ours = ["(", "-perm", "-o+w", "-o", "-user", str(USER), ")"]
    command = [tool("find"), image.root, "-xdev", "!", "-type", "l", *ours]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert {path.removeprefix(str(image.root)) for path in found} <= {"/app/logs", "/run/llm-api", "/tmp"}


def test_it_serves(image: Image, run: Callable[..., Container]) -> None:
    """It answers, and writes its log to the volume, as its user; the commands work in it."""
    box = run(LLM_BACKEND="stub")
    assert box.say("Hello").text.startswith("[stub]")
    assert box.get("/health").status == 200
    assert "llm_api_requests_total{" in box.get("/metrics").body.decode()
    assert [path.name for path in box.volume.iterdir()] == ["log.jsonl"]
    assert [line["prompt"] for line in box.lines()] == ["Hello"]
    assert (box.volume / "log.jsonl").stat().st_uid == USER
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in (box.pid, *children(box.pid))} == {USER}
    assert "Warning" not in box.output()
    assert "the log can be written" in image.run("flask", "--app", "wsgi", "llm", "doctor", home=box.home).stdout
    box.terminate()
    assert box.wait() == 0


def test_sigterm(run: Callable[..., Container], behind: Callable[[Script], Upstream]) -> None:
    """A request that runs at SIGTERM is answered and has its line, and then all processes are gone."""
    came, go_on = threading.Event(), threading.Event()

    def slow(peer: Peer) -> None:
        came.set()
        assert go_on.wait(60)
        peer.send(UNTIL_CLOSED + OPENAI.whole)

    far_end = behind(slow)
    box = run(**OPENAI.settings(far_end))
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(box.say, "Hello")
        assert came.wait(60)
        box.terminate()
        eventually(lambda: "Handling signal: term" in box.output())
        go_on.set()
        assert answer.result().ok
    assert box.wait() == 0
    assert [line["status"] for line in box.lines()] == ["ok"]
    assert "SIGKILL" not in box.output()


def test_the_log_on_standard_output(run: Callable[..., Container]) -> None:
    """With LOG_FILE=/dev/stdout the lines are among what the container prints, and the volume stays empty."""
    box = run(LLM_BACKEND="stub", LOG_FILE="/dev/stdout")
    box.say("Hello")
    box.terminate()
    assert box.wait() == 0
    assert '"prompt": "Hello"' in box.output()
    assert list(box.volume.iterdir()) == []


def test_its_health(image: Image, run: Callable[..., Container]) -> None:
    """The check succeeds while it answers, and fails when nothing does."""
    kind, *check = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    assert ":8000/" in check[-1]
    assert image.environ["BIND"].endswith(":8000")
    box = run(LLM_BACKEND="stub")
    check[-1] = check[-1].replace(":8000/", f":{box.port}/")
    assert image.run(*check).returncode == 0
    box.terminate()
    box.wait()
    assert image.run(*check).returncode != 0
