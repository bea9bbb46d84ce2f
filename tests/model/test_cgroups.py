import os
from pathlib import Path

import pytest

from model.cgroups import available_cpus, memory_limit

AFFINITY = {0, 1, 2, 3, 4, 5, 6, 7}


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: AFFINITY)


def draw(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_affinity_is_counted_without_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_cpus(tmp_path) == 8

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert available_cpus(tmp_path) == 2


def test_cpus_of_the_machine_are_counted_without_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cpus(tmp_path) == 6

    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus(tmp_path) == 1


@pytest.mark.parametrize(
    ("cpu_max", "expected"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("20000 100000\n", 1),
        ("max 100000\n", 8),
        ("9900000 100000\n", 8),
        ("", 8),
        ("nonsense", 8),
    ],
)
def test_v2_quota_in_a_container(tmp_path: Path, cpu_max: str, expected: int) -> None:
    draw(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": cpu_max})

    assert available_cpus(tmp_path) == expected


def test_v2_quota_is_the_smallest_of_all_ancestors(tmp_path: Path) -> None:
    draw(
        tmp_path,
        {
            "proc/self/cgroup": "0::/service.slice/search/worker\n",
            "sys/fs/cgroup/service.slice/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/service.slice/search/cpu.max": "500000 100000\n",
            "sys/fs/cgroup/service.slice/search/worker/cpu.max": "max 100000\n",
        },
    )

    assert available_cpus(tmp_path) == 3


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize(("quota", "expected"), [("250000", 3), ("-1", 8)])
def test_v1_quota(tmp_path: Path, mount: str, quota: str, expected: int) -> None:
    draw(
        tmp_path,
        {
            "proc/self/cgroup": f"5:memory:/docker/abc\n4:{mount}:/docker/abc\n1:name=systemd:/docker/abc\n",
            f"sys/fs/cgroup/{mount}/docker/abc/cpu.cfs_quota_us": f"{quota}\n",
            f"sys/fs/cgroup/{mount}/docker/abc/cpu.cfs_period_us": "100000\n",
        },
    )

    assert available_cpus(tmp_path) == expected


def test_v1_quota_is_read_at_the_mount_if_the_path_is_the_hosts(tmp_path: Path) -> None:
    draw(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )

    assert available_cpus(tmp_path) == 4


def test_both_versions_are_read_on_a_hybrid_system(tmp_path: Path) -> None:
    draw(
        tmp_path,
        {
            "proc/self/cgroup": "3:cpuset:/\n1:cpu:/box\n0::/box\n",
            "sys/fs/cgroup/unified/box/cpu.max": "600000 100000\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "500000\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
        },
    )

    assert available_cpus(tmp_path) == 5


def test_a_path_outside_the_namespace_does_not_leave_the_mount(tmp_path: Path) -> None:
    draw(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../../other\n",
            "sys/fs/cgroup/cpu.max": "200000 100000\n",
            "sys/other/cpu.max": "100000 100000\n",
        },
    )

    assert available_cpus(tmp_path) == 2


def test_this_machine_has_at_least_one_cpu() -> None:
    assert 1 <= available_cpus() <= 8


@pytest.mark.parametrize(
    ("cgroup", "files", "limit"),
    [
        ("0::/", {"memory.max": "4294967296"}, 4294967296),
        ("0::/", {"memory.max": "max"}, None),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "2000", "memory.max": "3000"}, 2000),
        ("0::/a/b", {"a/b/memory.max": "1000", "a/memory.max": "2000"}, 1000),
        ("0::/docker/1f", {"memory.max": "1000"}, 1000),  # the path on the host, as a container sees it
        ("0::/../../x", {"memory.max": "1000"}, 1000),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "5000"}, 5000),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("4:memory:/a\n3:cpu:/\n0::/", {"memory/a/memory.limit_in_bytes": "5000", "unified/memory.max": "max"}, 5000),
        ("3:cpu:/", {"memory/memory.limit_in_bytes": "5000"}, None),
    ],
)
def test_memory_limit_is_the_smallest_of_all_ancestors(
    tmp_path: Path, cgroup: str, files: dict[str, str], limit: int | None
) -> None:
    texts = {f"sys/fs/cgroup/{name}": f"{text}\n" for name, text in files.items()}

    assert memory_limit(draw(tmp_path, {"proc/self/cgroup": f"{cgroup}\n"} | texts)) == limit


def test_memory_limit_is_none_without_cgroups(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
