"""deploy/Dockerfile built by buildah over a base of this machine's Python, and run as a container's runtime runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from faults.loads import PROJECT, Door, children, eventually

from .parts import DEPLOY, tool

WHEELS = PROJECT / "build" / "wheels"
(BASE,) = re.findall(r"(?m)^ARG PYTHON=(\S+)", (DEPLOY / "Dockerfile").read_text())
# What each Debian has beside that which Python asks for.
LIBRARIES = ("libdl.so.2", "libgcc_s.so.1", "libpthread.so.0", "librt.so.1", "libstdc++.so.6", "libutil.so.1")
# A container of its own processes and mounts: its root can't be written, but for /dev/shm and the volumes; nobody in it
# is root or can become so. $1 is its root, $2 the folder that has the volumes, $3 its user, then its working folder and
# command.
CONTAINER = """
set -e
root=$1 home=$2 user=$3 folder=$4
shift 4
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs dev "$root/dev"
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
for device in null urandom; do touch "$root/dev/$device"; mount --bind "/dev/$device" "$root/dev/$device"; done
[ -z "$home" ] || mount --bind "$home/logs" "$root/app/logs"
[ -z "$home" ] || mount --bind "$home/socket" "$root/run/llm-api"
exec setpriv --no-new-privs --clear-groups --bounding-set=-all,+sys_chroot,+setgid,+setuid \
    unshare --root="$root" --wd="$folder" --setgid="${user#*:}" --setuid="${user%:*}" "$@"
"""


def make_base(root: Path) -> None:
    """Put this machine's Python, a shell and install into `root`, where Debian's image with Python has them."""
    name = f"python3.{sys.version_info.minor}"
    ours, library = Path(sys.base_prefix), root / "usr/local/lib" / name
    left_out = ("site-packages", "test", "idlelib", "tkinter", "_tkinter*", "config-*", "__pycache__")
    shutil.copytree(ours / "lib" / name, library, symlinks=True, ignore=shutil.ignore_patterns(*left_out))
    (pip,) = (library / "ensurepip" / "_bundled").glob("pip-*.whl")
    shutil.unpack_archive(pip, library / "site-packages", "zip")
    for folder in ("bin", "usr/bin", "usr/local/bin", "dev", "etc", "proc", "run", "tmp"):
        (root / folder).mkdir()
    programs = {ours / "bin" / name: root / "usr/local/bin/python3", Path("/bin/sh"): root / "bin/sh"}
    programs[Path(tool("install"))] = root / "usr/bin/install"
    for there, here in programs.items():
        shutil.copy(there, here)
    for other in ("python", name):
        (root / "usr/local/bin" / other).symlink_to("python3")
    said = subprocess.run(
        ["ldd", *programs, *library.glob("lib-dynload/*.so")], capture_output=True, text=True, check=True
    ).stdout
    libc = Path(re.search(r"=> (\S+/libc\.so\.6) ", said)[1])  # type: ignore[index]
    everywhere = {f"{libc.parent}/{name}" for name in LIBRARIES}
    for path in everywhere.union(re.findall(r"(/\S+) \(0x", said)):
        to = root / (path if "/ld-" in path else f"{libc.parent}/{Path(path).name}").lstrip("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)


def copy_project(folder: Path) -> None:
    """Copy what git has, or would take, of this project."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in filter(lambda name: (PROJECT / name).is_file(), names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)


class Buildah:
    """buildah with a store of its own in the empty folder `home`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._command = [tool("buildah"), "--storage-driver=overlay", f"--root={home}/store", f"--runroot={home}/run"]

    def do(self, *words: object, cwd: Path = PROJECT) -> str:
        """Return what it prints at its end."""
        command = [*self._command, *map(str, words)]
        ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
        return ran.stdout.strip()

    def make_base(self) -> None:
        """Make the image that deploy/Dockerfile begins from, of what this machine has."""
        root = self._home / "base"
        root.mkdir()
        make_base(root)
        container = self.do("from", "scratch")
        self.do("add", container, root, "/")
        self.do("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container)
        self.do("commit", "--rm", container, BASE)

    def build(self, name: str, context: Path, **arguments: str) -> Image:
        """Build deploy/Dockerfile of what is in `context`; its pip finds WHEELS and no index."""
        pip = self._home / "pip.conf"
        pip.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
        words = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
        volumes = ["--volume", f"{WHEELS}:/wheels:ro", "--volume", f"{pip}:/etc/pip.conf:ro"]
        isolated = ["--isolation=chroot", "--pull-never", "--format=docker", "--file=deploy/Dockerfile"]
        self.do("build", *isolated, *volumes, *words, "--tag", name, ".", cwd=context)
        return Image(self, name)

    def close(self) -> None:
        """Leave nothing mounted."""
        self.do("rm", "--all")
        self.do("rmi", "--all", "--force")
        for folder in ("store/overlay", "store"):
            subprocess.run(["umount", self._home / folder], capture_output=True)


class Image:
    """A built image: what it says of itself, and its files under `root`."""

    def __init__(self, buildah: Buildah, name: str) -> None:
        said = json.loads(buildah.do("inspect", "--type=image", name))
        self.config: dict[str, Any] = said["Docker"]["config"]
        self.environ = dict(line.split("=", 1) for line in self.config["Env"])
        self.root = Path(buildah.do("mount", buildah.do("from", "--pull-never", name)))

    def command(self, home: Path | str, *command: str) -> list[str]:
        """Return what runs this command, or the image's, in a container."""
        unshare = [tool("unshare"), "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", "-c", CONTAINER, "sh"]
        config = self.config
        place = [str(self.root), str(home), config["User"], config["WorkingDir"]]
        return [*unshare, *place, *(command or config["Cmd"])]

    def run(self, *command: str, home: Path | str = "") -> subprocess.CompletedProcess[str]:
        """Run one command to its end, with the volumes in `home`, if any."""
        return subprocess.run(
            self.command(home, *command), env=self.environ, capture_output=True, text=True, timeout=60
        )


class Container(Door):
    """The image's own command, at a port of this machine or a socket; `home` has its volumes and what it prints."""

    def __init__(self, home: Path, image: Image, settings: dict[str, object]) -> None:
        super().__init__(home)
        self.volume = home / "logs"
        for folder in (self.volume, home / "socket"):
            folder.mkdir()
            os.chown(folder, 10001, 10001)
        env = image.environ | {"BIND": "127.0.0.1:0"} | {name: str(value) for name, value in settings.items()}
        with (home / "output.txt").open("ab") as output:
            self._outer = subprocess.Popen(image.command(home), env=env, stdout=output, stderr=subprocess.STDOUT)

    def wait_until_up(self) -> None:
        """Return when it answers."""
        eventually(self._answers, 60)

    def _answers(self) -> bool:
        assert self._outer.poll() is None, self.output()
        if found := re.search(r"Listening at: (?:http://127\.0\.0\.1:(\d+)|unix:/run/llm-api/(\S+))", self.output()):
            self.port, self.path = int(found[1] or 0), found[2] and str(self.home / "socket" / found[2])
            with suppress(OSError):
                return self.get("/health/live").status == 200
        return False

    @property
    def pid(self) -> int:
        """Its first process, as this machine sees it."""
        (pid,) = children(self._outer.pid)
        return pid

    def terminate(self) -> None:
        """Ask it to end, as a runtime does."""
        os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        """Return how its first process ended."""
        return self._outer.wait(30)

    def lines(self) -> list[dict[str, Any]]:
        """Return the log that is on its volume."""
        return [json.loads(line) for line in (self.volume / "log.jsonl").read_text().splitlines()]

    def kill(self) -> None:
        """End it at once, if it is still there."""
        self._outer.kill()
        self._outer.wait()


@contextmanager
def container(home: Path, image: Image, settings: dict[str, object]) -> Iterator[Container]:
    """Run the image in the empty folder `home` with these settings."""
    made = Container(home, image, settings)
    try:
        made.wait_until_up()
        yield made
    finally:
        made.kill()
