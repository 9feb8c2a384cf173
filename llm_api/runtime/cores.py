"""How many cores this process may compute on: not the machine's, which cost a container with a quota a factor of 45."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Return the physical cores within this process's affinity (cpusets are in it) and its control groups' quota.

    `root` has `proc` and `sys`. 7.65 cores are 7: a thread that waits for its share of one holds up the others.
    """
    return max(1, math.floor(min([_physical(root), *_quotas(root)])))


def _physical(root: Path) -> int:
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    siblings = (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list" for cpu in ours)
    return len({tuple(lines_of(file)) or file for file in siblings})


def _quotas(root: Path) -> Iterator[float]:
    for folder in control_groups(root, "cpu"):
        old = [line for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us") for line in lines_of(folder / name)]
        quota, period = " ".join(lines_of(folder / "cpu.max") or old or ["max 1"]).split()
        if quota.isdecimal():  # neither max nor -1
            yield int(quota) / int(period)


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups, from its own up to the mount (cgroups(7))."""
    ours = {}
    for line in lines_of(root / "proc/self/cgroup"):
        _, names, path = line.split(":", 2)
        if not names or controller in names.split(","):
            ours["cgroup" if names else "cgroup2"] = path
    for line in lines_of(root / "proc/self/mountinfo"):
        mount, kind = line.split()[3:5], line.partition(" - ")[2].split()
        if kind[0] in ours and (kind[0] == "cgroup2" or controller in kind[2].split(",")):
            yield from _up(root / mount[1].lstrip("/"), mount[0], ours[kind[0]])


def _up(top: Path, mounted: str, path: str) -> Iterator[Path]:
    # in a container that shows the host's paths, the mount is the group itself
    below = Path(os.path.relpath(path, mounted))
    if ".." not in below.parts:
        yield from (top / folder for folder in (below, *below.parents))
    else:
        yield top


def lines_of(path: Path) -> list[str]:
    """Return the lines of a file of the system; none where it is not there."""
    with suppress(OSError):
        return path.read_text().splitlines()
    return []
