"""The log: whether it is written, kept and shipped."""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from ...runtime.cores import lines_of
from ...web.service import Service
from .finding import Finding

FEW_BYTES = 2**30
MOUNTS = Path("/proc/self/mountinfo")
# What a container's root is: Docker's and containerd's, rootless Podman's.
LAYERS = ("overlay", "fuse.fuse-overlayfs")
RSYSLOG = Path("/etc/rsyslog.d")


def check(service: Service) -> Iterator[Finding]:
    """Yield what is found of the log, the space for it, and what ships it."""
    path = Path(service.settings.log_file)
    service.log.check()
    if service.log.failure:
        yield Finding("error", service.log.failure, f"give the service's user the right to write to {path.parent}")
        return
    if service.settings.logs_to_stdout:
        yield Finding("ok", "the log goes to standard output, which no command here can read back")
        return
    free = shutil.disk_usage(path.parent).free
    level = "ok" if free > FEW_BYTES else "warning"
    yield Finding(level, f"the log can be written; {free / 2**30:.1f} GiB are free", "rotate it, or make room")
    if path.exists() and path.stat().st_mode & stat.S_IROTH:
        yield Finding("warning", "every user of this machine may read the log", f"chmod o= {path}")
    if _kind_of_mount(path) in LAYERS:
        what = "the log is in the container's own layer, and is gone with the container"
        yield Finding("warning", what, f"mount a volume at {path.parent.resolve()}, or set LOG_FILE=/dev/stdout")
    yield from _shipper(path.resolve())


def _shipper(log: Path) -> Iterator[Finding]:
    """Yield the files of rsyslog that ship the log, but not what it is renamed to."""
    for path in sorted(RSYSLOG.glob("*.conf")):
        patterns = re.findall(r'^[^#\n]*?\bfile="([^"]+)"', "\n".join(lines_of(path)), re.MULTILINE | re.IGNORECASE)
        if any(log.match(pattern) for pattern in patterns) and not any(Path(f"{log}.1").match(p) for p in patterns):
            what = f"{path} ships {log.name}, but not {log.name}.1: what is renamed while rsyslog is down is lost"
            both = f'file="{str(log)[:-1]}*[{log.name[-1]}0-9]"'
            yield Finding("warning", what, f"{both}, as in deploy/rsyslog-sender.conf")


def _kind_of_mount(path: Path) -> str:
    """Return the type of the file system that `path` is on; "" where that can't be told."""
    kinds = {Path(words[4]): words[words.index("-") + 1] for words in map(str.split, lines_of(MOUNTS))}
    return next((kinds[folder] for folder in path.resolve().parents if folder in kinds), "")
