"""The GPU's benchmark, rehearsed on the CPU, so that nothing but CUDA itself is untried."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cuda.gpu import Usage, count_macs, sheet_peak
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


def test_the_rehearsal_runs_from_the_script_to_the_tables(tmp_path: Path) -> None:
    bundle = make_convolutional(tmp_path / "bundle")

    done = script(
        *("--device", "cpu", "--networks", "light", "--bundle", str(bundle.path)),
        *("--seconds", "0.2", "--batches", "1,4", "--clients", "1,2"),
        VENV=str(Path(sys.prefix)),
        SKIP_INSTALL="1",
    )

    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line.startswith("|")
    ]
    engines = [row for row in rows if row[0] in {"f32", "f16"} and row[1].isdigit()]
    assert [(row[0], row[1]) for row in engines] == [("f32", "1"), ("f32", "4"), ("f16", "1"), ("f16", "4")]
    assert all(float(row[2]) > 0 for row in engines)
    assert all(float(row[-1]) < 1e-2 for row in engines)
    assert float(engines[-1][-1]) > 0  # f16 differs
    clients = [row for row in rows if row[0] in {"1", "2"}]
    assert len(clients) == 2
    assert all(float(row[1]) > 0 for row in clients)
    assert "provider CPUExecutionProvider" in done.stdout
    assert "figures mean nothing" in done.stdout


def test_embeddings_that_are_too_far_off_end_in_an_error(tmp_path: Path) -> None:
    bundle = make_convolutional(tmp_path / "detour", detour=3000.0)

    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.cuda", "--device", "cpu", "--networks", "light"),
            *("--bundle", bundle.path, "--seconds", "0.05", "--batches", "1", "--clients", ""),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert done.returncode == 1
    assert "f16: a component is" in done.stderr


def test_the_script_says_what_it_would_do() -> None:
    done = script("--dry-run", "--tensorrt", VENV="/nowhere/venv", CUDA_EXTRA="gpu")

    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0].endswith("-m venv /nowhere/venv ")
    assert "download.pytorch.org" in said[1]
    assert "train\\,dev" in said[2] or "train,dev" in said[2]
    assert "REQUIRE_CUDA=1" in done.stdout + done.stderr
    assert said[-1].strip() == "/nowhere/venv/bin/python -m benchmarks.cuda --tensorrt"


def test_cuda_13_takes_pytorch_from_the_package_index() -> None:
    said = script("--dry-run", VENV="/nowhere/venv", CUDA_EXTRA="gpu13").stdout

    assert "gpu13" in said
    assert "download.pytorch.org" not in said


@pytest.mark.parametrize(("version", "extra", "code"), [("11.8", None, 1), ("12.4", "gpu,", 0), ("13.0", "gpu13,", 0)])
def test_the_driver_decides_which_cuda(tmp_path: Path, version: str, extra: str | None, code: int) -> None:
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
def test_without_a_driver_it_is_said() -> None:
    done = script(VENV="/nowhere/venv")

    assert done.returncode == 1
    assert "no nvidia-smi" in done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck")
def test_the_script_is_sound() -> None:
    subprocess.run(["shellcheck", SCRIPT], check=True)


def test_macs_are_those_that_pytorch_counts() -> None:
    spec = Bundle.load(BUNDLED).spec
    network = build_network(
        NetworkSpec(
            backbone=spec.backbone,
            attention=spec.attention,
            attention_channels=128,
            frame_height=spec.frame_height,
            frame_width=spec.frame_width,
            clip_length=spec.clip_length,
        )
    ).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, spec.clip_length, 3, spec.frame_height, spec.frame_width))

    assert count_macs(BUNDLED / "model.onnx") == counter.get_total_flops() // 2


def test_macs_of_a_product(tmp_path: Path) -> None:
    """The small network's only product: 24 colours by 32 components."""
    assert count_macs(make_bundle(tmp_path / "bundle", dimension=32) / "model.onnx") == 24 * 32


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200, 143771 MiB, driver 570.1", 989.5),
        ("NVIDIA H200 NVL, 1 MiB, driver 1", 835.5),
        ("NVIDIA H100 80GB HBM3, 1 MiB, driver 1", 989.5),
        ("NVIDIA H100 PCIe, 1 MiB, driver 1", 756.0),
        ("NVIDIA A100-SXM4-80GB, 1 MiB, driver 1", 312.0),
        ("NVIDIA A10, 1 MiB, driver 1", 125.0),
        ("NVIDIA L40S, 1 MiB, driver 1", 362.1),
        ("Tesla T4, 1 MiB, driver 1", 65.0),
        ("NVIDIA T400, 1 MiB, driver 1", None),
        ("NVIDIA GH200 480GB, 1 MiB, driver 1", None),
    ],
)
def test_the_data_sheet_is_that_of_the_gpu(name: str, peak: float | None) -> None:
    assert sheet_peak(name) == peak


def test_usage_reads_what_nvidia_smi_says() -> None:
    usage = Usage(gpu=False)
    for line in ("10, 1000\n", "90, 3000\n", "80, 2000\n", "[N/A], 5000\n", ""):
        usage._add(line)

    assert str(usage) == "80 %, 3000 MiB"
