from pathlib import Path

import pytest

from model.memory_limit import memory_limit


def draw(root: Path, cgroup: str, files: dict[str, str]) -> Path:
    """The kernel's files as they are, below `root`."""
    texts = {"proc/self/cgroup": cgroup} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("cgroup", "files", "limit"),
    [
        ("0::/", {"memory.max": "4294967296"}, 4294967296),
        ("0::/", {"memory.max": "max"}, None),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "2000", "memory.max": "3000"}, 2000),
        ("0::/a/b", {"a/b/memory.max": "1000", "a/memory.max": "2000"}, 1000),
        ("0::/docker/1f", {"memory.max": "1000"}, 1000),  # the host's path, in a container's view
        ("0::/../../x", {"memory.max": "1000"}, 1000),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "5000"}, 5000),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("4:memory:/a\n3:cpu:/\n0::/", {"memory/a/memory.limit_in_bytes": "5000", "unified/memory.max": "max"}, 5000),
        ("3:cpu:/", {"memory/memory.limit_in_bytes": "5000"}, None),
    ],
)
def test_the_tightest_limit_counts(tmp_path: Path, cgroup: str, files: dict[str, str], limit: int | None) -> None:
    assert memory_limit(draw(tmp_path, cgroup, files)) == limit


def test_without_the_kernels_files_there_is_none(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
