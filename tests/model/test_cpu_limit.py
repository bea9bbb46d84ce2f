import os
from pathlib import Path

import pytest

from model.cpu_limit import available_cpus

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


def test_without_cgroups_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_cpus(tmp_path) == 8

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert available_cpus(tmp_path) == 2


def test_without_affinity_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_v2_takes_the_tightest_of_all_ancestors(tmp_path: Path) -> None:
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


def test_v1_path_of_the_host_falls_to_the_container_s_mount(tmp_path: Path) -> None:
    draw(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )

    assert available_cpus(tmp_path) == 4


def test_hybrid_systems_are_read_in_both_ways(tmp_path: Path) -> None:
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


def test_this_machine_has_at_least_one() -> None:
    assert 1 <= available_cpus() <= 8
