"""How much memory this process may use before the kernel ends it."""

from pathlib import Path

UNLIMITED = 2**60
"""Version 1 writes a number near 2^63 where there is no limit."""


def memory_limit(root: Path = Path("/")) -> int | None:
    """The tightest limit, in bytes, of this process's cgroups (v1 or v2) and their ancestors; None without one.

    `root` is where `/proc` and `/sys` are looked for; tests pass a drawn tree.
    """
    limits = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            places, name = ("", "unified"), "memory.max"
        elif "memory" in controllers.split(","):
            places, name = (controllers, "memory"), "memory.limit_in_bytes"
        else:
            continue
        # In a container's own namespace the path is the host's; the limit lies at the mount, where walking up ends.
        relative = Path(path.lstrip("/"))
        folders = [relative, *relative.parents] if ".." not in relative.parts else [Path()]
        for place in places:
            limits += [_read(root / "sys/fs/cgroup" / place / folder / name).strip() for folder in folders]
    numbers = [int(limit) for limit in limits if limit.isdigit()]
    return min((number for number in numbers if 0 < number < UNLIMITED), default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
