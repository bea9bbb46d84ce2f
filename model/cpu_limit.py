"""How many CPU threads this process may really use.

``os.cpu_count()`` counts the machine's CPUs; a container usually has fewer. As many threads as the machine has CPUs,
under a quota of two, spend most of each period throttled.
"""

import math
import os
from pathlib import Path


def available_cpus(root: Path = Path("/")) -> int:
    """Count the CPUs that affinity (cpusets included) and the cgroup quota (v1 or v2) leave, at least 1.

    A quota of 1.5 CPUs counts as 2: two threads then use all of it, one would waste a third.
    ``root`` is where ``/proc`` and ``/sys`` are looked for; tests pass a drawn tree.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(root)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def _cgroup_quota(root: Path) -> float | None:
    """Return the tightest quota, in CPUs, of this process's cgroups and their ancestors; None if there is none."""
    quotas = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            quotas += [_v2_quota(folder) for folder in _lineage(root, ("", "unified"), path)]
        elif "cpu" in controllers.split(","):
            quotas += [_v1_quota(folder) for folder in _lineage(root, (controllers, "cpu"), path)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _lineage(root: Path, mounts: tuple[str, ...], path: str) -> list[Path]:
    """List a cgroup's folder and its ancestors up to the mount.

    Inside a container without a cgroup namespace, ``path`` is the host's and absent below the mount, where the
    container's own limits lie directly; walking up to the mount finds them in either case.
    """
    relative = Path(path.lstrip("/"))
    if ".." in relative.parts:
        relative = Path()
    folders = []
    for mount in dict.fromkeys(mounts):
        base = root / "sys/fs/cgroup" / mount
        folders += [base / relative, *(base / parent for parent in relative.parents)]
    return folders


def _v2_quota(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) > 0 else None


def _v1_quota(folder: Path) -> float | None:
    quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) > 0 else None


def _read(path: Path) -> str:
    """Read a small kernel file; where the kernel offers none, or hides it, there is no limit to know of."""
    try:
        return path.read_text()
    except OSError:
        return ""
