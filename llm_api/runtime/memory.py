"""How much memory this process may still take: not the machine's, where a control group has a limit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from .cores import control_groups, lines_of

# By version: the limit, what is used, and of that what is given back when it is needed (memory.stat).
FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_bytes(root: Path = Path("/")) -> float:
    """Return the bytes that the machine and this process's control groups have left; infinity where neither says it.

    `root` has `proc` and `sys`.
    """
    available = [line.split()[1] for line in lines_of(root / "proc/meminfo") if line.startswith("MemAvailable:")]
    return max(0, min([*(int(kib) * 1024 for kib in available), *_left(root)], default=math.inf))


def _left(root: Path) -> Iterator[float]:
    for folder in control_groups(root, "memory"):
        for limit, used, given_back in FILES:
            stat = dict(line.split() for line in lines_of(folder / "memory.stat"))
            [most, now] = ["".join(lines_of(folder / name)) for name in (limit, used)]
            if most.isdecimal() and now.isdecimal():  # neither max nor missing
                yield int(most) - int(now) + int(stat.get(given_back, 0))
