"""How many cores and how much memory a process may take, in each form of a limit: roots as the kernel has them."""

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_api.runtime.cores import usable_cores
from llm_api.runtime.memory import free_bytes

V2 = "30 23 0:26 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 30 0:28 {top} /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:29 {top} /sys/fs/cgroup/memory rw,nosuid shared:10 - cgroup cgroup rw,memory\n"
)
CPU = "sys/fs/cgroup/cpu,cpuacct"
Machine = Callable[..., Path]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return a maker of roots: the cores that each logical processor belongs to, the mounts, and other files."""

    def make(cores: str = "0123456789abcdef", mounts: str = "", group: str = "", **files: str) -> Path:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(len(cores))))
        files |= {"proc/self/mountinfo": mounts, "proc/self/cgroup": group}
        for number, core in enumerate(cores):
            files[f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"] = f"{core}\n"
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return make


def test_all_cores(machine: Machine) -> None:
    """Where nothing limits a process, all cores are its own."""
    assert usable_cores(machine()) == 16


def test_logical_processors_of_one_core_count_once(machine: Machine) -> None:
    """Two threads on one core get no more done than one."""
    assert usable_cores(machine(cores="00112233")) == 4


def test_machine_that_does_not_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc and /sys the logical processors are what there is to go by."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 7})
    assert usable_cores(tmp_path) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores(tmp_path) == 6


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux has it")
def test_affinity_of_this_process() -> None:
    """A process that may run on one processor, as in a cpuset, has one core."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 16), ("400000 100000", 4), ("765000 100000", 7), ("50000 100000", 1), ("6000000 100000", 16)],
)
def test_quota(machine: Machine, quota: str, cores: int) -> None:
    """cpu.max of version 2: 7.65 cores are 7, half a core is 1, and more than there are is all of them."""
    files = {"sys/fs/cgroup/cpu.max": f"{quota}\n"}
    assert usable_cores(machine(mounts=V2.format(top="/"), group="0::/\n", **files)) == cores


def test_quota_of_an_ancestor(machine: Machine) -> None:
    """The smallest quota on the way up to the mount counts."""
    files = {
        "sys/fs/cgroup/kube/pod/cpu.max": "300000 100000\n",
        "sys/fs/cgroup/kube/pod/main/cpu.max": "max 100000\n",
        "sys/fs/cgroup/kube/cpu.max": "900000 100000\n",
    }
    root = machine(mounts=V2.format(top="/"), group="0::/kube/pod/main\n", **files)
    assert usable_cores(root) == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1", 16), ("250000", 2)])
def test_quota_of_version_1(machine: Machine, quota: str, cores: int) -> None:
    """cpu.cfs_quota_us and its period, in the controller's own mount."""
    files = {f"{CPU}/web/cpu.cfs_quota_us": f"{quota}\n", f"{CPU}/web/cpu.cfs_period_us": "100000\n"}
    groups = "5:memory:/web\n4:cpu,cpuacct:/web\n0::/\n"
    assert usable_cores(machine(mounts=V1.format(top="/"), group=groups, **files)) == cores


def test_container_that_sees_its_own_part(machine: Machine) -> None:
    """A container's mount begins at its own group, whose path is still told as the host sees it."""
    files = {f"{CPU}/cpu.cfs_quota_us": "500000\n", f"{CPU}/cpu.cfs_period_us": "100000\n"}
    root = machine(mounts=V1.format(top="/docker/ab"), group="4:cpu,cpuacct:/docker/ab\n", **files)
    assert usable_cores(root) == 5


def test_container_that_is_told_the_hosts_path(machine: Machine) -> None:
    """Where the path lies outside the mount, the mount itself is all there is."""
    files = {"sys/fs/cgroup/cpu.max": "200000 100000\n"}
    root = machine(mounts=V2.format(top="/"), group="0::/../elsewhere\n", **files)
    assert usable_cores(root) == 2


MEMINFO = {"proc/meminfo": "MemTotal:  9000 kB\nMemFree:  1000 kB\nMemAvailable:  4000 kB\n"}


def memory(folder: str, limit: str, used: str, stat: str) -> dict[str, str]:
    names = (("memory.max", limit), ("memory.current", used), ("memory.stat", stat))
    return {f"sys/fs/cgroup/{folder}{name}": f"{value}\n" for name, value in names}


@pytest.mark.parametrize(
    ("limit", "used", "stat", "free"),
    [
        ("max", "1000", "inactive_file 0", 4_096_000),
        ("3000000", "1000000", "anon 5\ninactive_file 400000", 2_400_000),
        ("9000000", "1000000", "inactive_file 0", 4_096_000),
        ("1000", "3000", "inactive_file 0", 0),
    ],
)
def test_free_memory(machine: Machine, limit: str, used: str, stat: str, free: int) -> None:
    """What the machine has left, or less where the control group has; what it gives back is left too."""
    files = MEMINFO | memory("", limit, used, stat)
    assert free_bytes(machine(mounts=V2.format(top="/"), group="0::/\n", **files)) == free


def test_free_memory_of_an_ancestor(machine: Machine) -> None:
    """A pod has less left than its container may take."""
    files = MEMINFO | memory("pod/main/", "3000", "0", "anon 0") | memory("pod/", "5000", "4000", "inactive_file 0")
    assert free_bytes(machine(mounts=V2.format(top="/"), group="0::/pod/main\n", **files)) == 1000


def test_free_memory_of_version_1(machine: Machine) -> None:
    """The same under the first version's names, in the controller's own mount; no limit is a very large one."""
    group = "sys/fs/cgroup/memory/web/"
    files = {f"{group}memory.limit_in_bytes": "5000", f"{group}memory.usage_in_bytes": "4000"}
    files |= MEMINFO | {f"{group}memory.stat": "total_inactive_file 500\n"}
    files |= {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}
    groups = "5:memory:/web\n4:cpu,cpuacct:/\n0::/\n"
    assert free_bytes(machine(mounts=V1.format(top="/"), group=groups, **files)) == 1500


def test_memory_of_a_machine_that_does_not_tell(tmp_path: Path) -> None:
    """Without /proc nothing is known to be too much."""
    assert free_bytes(tmp_path) == math.inf
