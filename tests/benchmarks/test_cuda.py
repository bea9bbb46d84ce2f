"""The GPU's benchmark, rehearsed on the CPU: only CUDA itself is not tested."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cuda import count_macs
from model.bundle import BUNDLED, Bundle
from model.network import NetworkSpec, build_network
from tests.bundles import make_bundle
from tests.model.engines.networks import make_convolutional

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "cuda.sh"


def script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_script_rehearses_on_the_cpu(people: Path, tmp_path: Path) -> None:
    bundle = make_convolutional(tmp_path / "bundle")

    done = script(
        *("--device", "cpu", "--networks", "light", "--bundle", str(bundle.path)),
        *("--data", str(people), "--seconds", "0.2", "--batches", "1,4", "--clients", "1,2"),
        VENV=str(Path(sys.prefix)),
        SKIP_INSTALL="1",
    )

    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line.startswith("|")
    ]
    engines = [row for row in rows if row[0].startswith(("f32", "f16")) and row[1].isdigit()]
    assert [(row[0], row[1]) for row in engines] == [
        ("f16 on CUDA", "1"),
        ("f16 on CUDA", "4"),
        ("f32 on CUDA", "1"),
        ("f32 on CUDA", "4"),
    ]
    assert all(float(row[2]) > 0 for row in engines)
    assert all(float(row[-1]) < 1e-2 for row in engines)
    assert float(engines[0][-1]) > 0  # f16 differs
    clients = [row for row in rows if row[0] in {"1", "2"}]
    assert len(clients) == 2
    assert all(float(row[1]) > 0 for row in clients)
    assert "provider CPUExecutionProvider" in done.stdout
    assert "figures mean nothing" in done.stdout


def test_embeddings_that_differ_too_much_are_an_error(people: Path, tmp_path: Path) -> None:
    bundle = make_convolutional(tmp_path / "detour", detour=3000.0)

    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.cuda", "--device", "cpu", "--networks", "light"),
            *("--data", people, "--bundle", bundle.path, "--seconds", "0.05", "--batches", "1", "--clients", ""),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert done.returncode == 1
    assert "f16 on CUDA: a component is" in done.stderr


def test_dry_run_prints_the_commands() -> None:
    done = script("--dry-run", "--tensorrt", VENV="/nowhere/venv", CUDA_EXTRA="gpu")

    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].endswith("-m venv /nowhere/venv ")
    assert "download.pytorch.org" in said[1]
    assert "train\\,dev" in said[2] or "train,dev" in said[2]
    assert "REQUIRE_CUDA=1" in done.stderr
    tests = [word for word in done.stderr.split() if word.startswith("tests/")]
    assert tests
    assert all((ROOT / test).is_file() for test in tests)
    assert said[-1].strip() == "/nowhere/venv/bin/python -m benchmarks.cuda --tensorrt"


def test_cuda_13_installs_pytorch_from_the_package_index() -> None:
    said = script("--dry-run", VENV="/nowhere/venv", CUDA_EXTRA="gpu13").stdout

    assert "gpu13" in said
    assert "download.pytorch.org" not in said


@pytest.mark.parametrize(("version", "extra", "code"), [("11.8", None, 1), ("12.4", "gpu,", 0), ("13.0", "gpu13,", 0)])
def test_driver_decides_which_cuda(tmp_path: Path, version: str, extra: str | None, code: int) -> None:
    """A program that prints the header as nvidia-smi does stands for a machine with a driver."""
    tool = tmp_path / "nvidia-smi"
    header = f"| NVIDIA-SMI 570.86.15    Driver Version: 570.86.15    CUDA Version: {version}     |"
    tool.write_text(f"#!/bin/sh\necho '+----+'\necho '{header}'\n")
    tool.chmod(0o755)

    done = script("--dry-run", VENV="/nowhere/venv", PATH=f"{tmp_path}:{os.environ['PATH']}")

    assert done.returncode == code
    if extra:
        assert extra in done.stdout.replace("\\", "")
    else:
        assert "CUDA 11" in done.stderr


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine has a driver")
def test_missing_driver_is_an_error() -> None:
    done = script(VENV="/nowhere/venv")

    assert done.returncode == 1
    assert "no nvidia-smi" in done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_script_passes_shellcheck() -> None:
    subprocess.run(["shellcheck", SCRIPT], check=True)


def test_macs_equal_those_that_pytorch_counts() -> None:
    spec = Bundle.load(BUNDLED).spec
    network = build_network(NetworkSpec.model_validate(spec.recipe["network"])).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, spec.clip_length, 3, spec.frame_height, spec.frame_width))

    assert count_macs(BUNDLED / "model.onnx") == counter.get_total_flops() // 2


def test_macs_of_a_product(tmp_path: Path) -> None:
    """The small network's only product: 24 colours by 32 components."""
    assert count_macs(make_bundle(tmp_path / "bundle", dimension=32) / "model.onnx") == 24 * 32
