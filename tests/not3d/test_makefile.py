"""The Makefile, with a Python that only prints its arguments; and the locks that it installs."""

import os
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PYTHON = """#!/bin/sh
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
printf '<%s>' "$@"; echo
"""
SERVE, DEVELOP = (
    [
        f"<-m><pip><install><--require-hashes><-r><requirements/build.txt><-r><requirements/{lock}.txt>",
        "<-m><pip><install><--no-deps><--no-build-isolation><--editable><.>",
    ]
    for lock in ("cpu", "dev")
)

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def make(folder: Path, *arguments: str) -> list[str]:
    """Run make as from a shell: variables of a make that runs these tests would override those of the Makefile."""
    inherited = (
        "MAKEFLAGS",
        "MAKEOVERRIDES",
        "MFLAGS",
        "MAKELEVEL",
        "VENV",
        "PYTHON",
        "TRACKLETS",
        "PYTEST_ARGS",
        "WORKERS",
    )
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    command = ["make", "--silent", f"PYTHON={folder / 'python'}", *arguments]
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


@needs_make
@pytest.mark.parametrize("place", [".venv", "my environment"])
def test_the_environment_is_made_once(checkout: Path, place: str) -> None:
    assert make(checkout, "demo", f"VENV={place}") == [f"<-m><venv><{place}>", *SERVE, "<-m><not3d><demo>"]
    assert make(checkout, "demo", f"VENV={place}") == ["<-m><not3d><demo>"]
    assert make(checkout, "demo-site", f"VENV={place}") == ["<-m><not3d><demo-site>"]
    *installed, tests = make(checkout, "test", f"VENV={place}", "PYTEST_ARGS=-k 'a b'")
    assert installed == DEVELOP
    assert tests.startswith("<-m><pytest><--numprocesses><2>")
    assert tests.endswith("<-k><a b>")
    assert make(checkout, "lint", f"VENV={place}")[0] == "<-m><ruff><check><.>"


@needs_make
@pytest.mark.parametrize(("changed", "target", "installed"), [("cpu", "install", SERVE), ("dev", "lint", DEVELOP)])
def test_a_changed_lock_is_installed(checkout: Path, changed: str, target: str, installed: list[str]) -> None:
    make(checkout, target)
    now = time.time()
    for file in (checkout / "pyproject.toml", *(checkout / "requirements").iterdir()):
        os.utime(file, (now - 7200, now - 7200))
    for stamp in (checkout / ".venv").glob(".*"):
        os.utime(stamp, (now - 3600, now - 3600))
    assert not set(make(checkout, target)) & set(installed)
    (checkout / "requirements" / f"{changed}.txt").touch()
    assert make(checkout, target)[:2] == installed


@needs_make
def test_variables_of_an_outer_make_do_not_reach_the_tests(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", " -- VENV=elsewhere")
    monkeypatch.setenv("VENV", "elsewhere")
    assert make(checkout, "install")[0] == "<-m><venv><.venv>"


@needs_make
def test_the_folder_of_tracklets_may_have_any_name(checkout: Path) -> None:
    assert make(checkout, "demo", "TRACKLETS=my people's tracklets")[-1] == "<-m><not3d><demo><my people's tracklets>"


@needs_make
def test_locks_and_sbom_are_written_by_tools_of_their_own(checkout: Path) -> None:
    first, install, *compiled = make(checkout, "lock")
    assert (first, install) == (
        "<-m><venv><build/tools>",
        "<-m><pip><install><--require-hashes><-r><requirements/tools.txt>",
    )
    written = [re.search(r"<--output-file><(.+?)>", line) for line in compiled]
    assert sorted(name[1] for name in written if name) == [f"requirements/{lock.name}" for lock in LOCKS]
    assert all("<--generate-hashes>" in line and "<--upgrade>" in line for line in compiled)
    assert "<--output-file><dist/sbom.json>" in make(checkout, "sbom")[-1]


def packages(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ]+)", lock.read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_each_locked_package_has_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert packages(lock)
    assert not re.search(r"^[^#\n]*(://|--index|--find-links)", text, re.MULTILINE)
    for entry in re.split(r"\n(?=[a-z])", text)[1:]:
        assert "--hash=sha256:" in entry, entry


def test_what_serves_is_tested_in_the_same_versions() -> None:
    tested = packages(ROOT / "requirements/dev.txt")
    assert packages(ROOT / "requirements/milvus.txt").items() <= tested.items()
    assert packages(ROOT / "requirements/cpu.txt").items() <= packages(ROOT / "requirements/milvus.txt").items()


def test_locks_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"] | {"": project["dependencies"]}

    def names(*wanted: str) -> set[str]:
        found = {re.split(r"[<>=]", requirement)[0] for extra in wanted for requirement in extras[extra]}
        inner = {
            extra for name in found if (match := re.fullmatch(r"not3d\[(.+)\]", name)) for extra in match[1].split(",")
        }
        plain = {name.partition("[")[0] for name in found if not name.startswith("not3d[")}
        return plain | (names(*inner) if inner else set())

    for lock, wanted in {"cpu": ["cpu"], "milvus": ["cpu", "milvus"], "gpu": ["gpu"], "gpu13": ["gpu13"]}.items():
        assert names("", *wanted) <= packages(ROOT / f"requirements/{lock}.txt").keys(), lock
    everything = names(*extras.keys() - {"gpu", "gpu13"})
    assert everything <= packages(ROOT / "requirements/dev.txt").keys()
