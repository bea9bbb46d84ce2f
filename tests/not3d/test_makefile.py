"""The Makefile, with a Python that only says what it was asked to do."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
printf '<%s>' "$@"; echo
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def make(folder: Path, *arguments: str) -> list[str]:
    command = ["make", "--silent", f"PYTHON={folder / 'python'}", *arguments]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


@pytest.mark.parametrize("place", [".venv", "my environment"])
def test_the_environment_is_made_once(checkout: Path, place: str) -> None:
    first = make(checkout, "demo", f"VENV={place}")
    assert first == [f"<-m><venv><{place}>", "<-m><pip><install><--editable><.[cpu]>", "<-m><not3d><demo>"]
    assert make(checkout, "demo", f"VENV={place}") == ["<-m><not3d><demo>"]
    assert make(checkout, "test", f"VENV={place}", "PYTEST_ARGS=-k 'a b'") == [
        "<-m><pip><install><--editable><.[cpu,train,tune,bench,quantize,milvus,parquet,ray,dev]>",
        "<-m><pytest><-k><a b>",
    ]
    assert make(checkout, "lint", f"VENV={place}")[0] == "<-m><ruff><check><.>"


def test_tracklets_may_lie_in_any_folder(checkout: Path) -> None:
    assert make(checkout, "demo", "TRACKLETS=my people's tracklets")[-1] == "<-m><not3d><demo><my people's tracklets>"
