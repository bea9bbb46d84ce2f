"""How many CPUs and how much memory the kernel lets this process use (cgroups version 1 and 2, CPU affinity)."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_UNLIMITED = 2**60
"""Version 1 writes a number near 2^63 if there is no memory limit."""


def available_cpus(root: Path = Path("/")) -> int:
    """Count the CPUs that affinity (cpusets included) and the cgroup quotas leave, at least 1.

    `os.cpu_count()` counts the CPUs of the machine. With that many threads under a quota of two CPUs, a process is
    throttled most of the time. A quota of 1.5 CPUs counts as 2: two threads use all of it, one would waste a third.

    Args:
        root: the folder that holds `proc` and `sys`, for tests.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = []
    for version, folder in _find_cgroups(root, "cpu"):
        if version == 2:
            quota, _, period = _read(folder / "cpu.max").partition(" ")
        else:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            quotas.append(int(quota) / int(period))
    return max(1, min([cpus, *map(math.ceil, quotas)]))


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the memory limit of this process in bytes, or None if there is none.

    Args:
        root: the folder that holds `proc` and `sys`, for tests.
    """
    limits = [
        _read(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes"))
        for version, folder in _find_cgroups(root, "memory")
    ]
    numbers = [int(limit) for limit in limits if limit.isdigit()]
    return min((number for number in numbers if 0 < number < _UNLIMITED), default=None)


def _find_cgroups(root: Path, controller: str) -> Iterator[tuple[int, Path]]:
    """Yield the version and the folder of each cgroup of this process, and of all its ancestors up to the mount.

    The limits of every ancestor apply. In a container without a cgroup namespace the path is the host's: it is missing
    below the mount, and the container's own limits are at the mount itself, which the walk reaches in both cases.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            version, mounts = 2, ("", "unified")
        elif controller in controllers.split(","):
            version, mounts = 1, (controllers, controller)
        else:
            continue
        relative = Path(path.lstrip("/"))
        folders = [Path()] if ".." in relative.parts else [relative, *relative.parents]
        for mount in dict.fromkeys(mounts):
            yield from ((version, root / "sys/fs/cgroup" / mount / folder) for folder in folders)


def _read(path: Path) -> str:
    """Return the content of a kernel file, or "" (no limit) if the kernel does not offer it."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
