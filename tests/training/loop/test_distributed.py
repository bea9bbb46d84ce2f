"""Two processes that torchrun starts, compared with one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import multiprocessing, nn
from torch.distributed.run import parse_args

from not3d.ports import free_port
from tests.training.runs import PROGRAM, arguments, rows, run
from training.loop.checkpoint import load_checkpoint
from training.loop.distributed import DeviceError, Ranks, SharedBatchNorm, join_processes
from training.loop.run import LAST

ROOT = Path(__file__).parents[3]
LOSSES = {
    "network.frame_height": "32",
    "schedule.evaluate_every": "2",
    "losses.osm_caa": "1.0",
    "losses.osm_caa_vectors": "classifier",
    "losses.ranked_list": "1.0",
    "losses.relation": "1.0",
    "optimiser.average": "0.9",
}
"""Adds to the losses of the recipe: all are then identity of clips and frames, triplet, ranked list, center, OSM-CAA,
erasing attention and relation to a teacher."""


DOUBLE = (
    """
import torch
torch.set_default_dtype(torch.float64)
"""
    + PROGRAM
)
"""`not3d` in double precision, because the first steps of Adam have full length even if a gradient is only rounding."""


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("one_thread", "double")
def test_two_processes_train_like_one_process(data, mean_bundle, tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    run(data, tmp_path / "one", 2, overrides=LOSSES, teacher=mean_bundle)
    program = tmp_path / "double.py"
    program.write_text(DOUBLE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(program)]
    done = subprocess.run(
        launch + arguments(data, tmp_path / "two", 2, "--teacher", str(mean_bundle), overrides=LOSSES),
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "scratch")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # Only the first process writes messages.
    assert "2 processes" in done.stderr
    assert done.stdout.count("best.pt") == 1

    one_log, two_log = rows(tmp_path / "one"), rows(tmp_path / "two")
    one, two = load_checkpoint(tmp_path / "one" / LAST), load_checkpoint(tmp_path / "two" / LAST)
    assert [row["epoch"] for row in two_log] == ["1", "2"]
    for a, b in zip(one_log, two_log, strict=True):
        parts = [name for name in a if a[name] and name not in ("seconds", "waiting")]
        assert {"identity", "frame_identity", "triplet", "ranked_list", "center", "osm_caa", "relation"} <= set(parts)
        for name in parts:
            assert float(b[name]) == pytest.approx(float(a[name]), rel=1e-5), (a["epoch"], name)
    assert {value.dtype for value in one.state_dict.values()} == {torch.float64, torch.int64}
    assert one.state_dict.keys() == two.state_dict.keys()
    for name, value in one.state_dict.items():
        torch.testing.assert_close(two.state_dict[name], value, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
    for name, value in one.progress["average"]["weights"].items():
        torch.testing.assert_close(two.progress["average"]["weights"][name], value, rtol=1e-5, atol=1e-7)
    centers = [checkpoint.progress["objective"]["centers"] for checkpoint in (one, two)]
    torch.testing.assert_close(*centers)


def batch_norm_of_a_part(rank, port, features, folder):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with join_processes("cpu") as ranks:
        norm = nn.Sequential(nn.BatchNorm2d(3))
        ranks.share_batch_norm(norm)
        assert isinstance(norm[0], SharedBatchNorm)
        part = features[2 * rank : 2 * rank + 2].clone().requires_grad_()
        out = norm(part)
        out.square().mul(torch.arange(out.numel()).view_as(out) + out.numel() * rank).sum().backward()
        assert ranks.any(rank == 1)
        assert not ranks.any(False)
        content = {
            "out": out.detach(),
            "gradient": part.grad,
            "state": norm.state_dict(),
            "weight": norm[0].weight.grad,
        }
        torch.save(content, folder / f"{rank}.pt")


def test_batch_norm_and_its_gradient_are_those_of_the_full_batch(tmp_path):
    features = torch.randn(4, 3, 5, 2, generator=torch.Generator().manual_seed(1)) * 3 + 5
    multiprocessing.spawn(batch_norm_of_a_part, (free_port(), features, tmp_path), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]

    norm, full = nn.Sequential(nn.BatchNorm2d(3)), features.clone().requires_grad_()
    out = norm(full)
    out.square().mul(torch.arange(out.numel()).view_as(out)).sum().backward()
    torch.testing.assert_close(torch.cat([half["out"] for half in halves]), out.detach())
    torch.testing.assert_close(torch.cat([half["gradient"] for half in halves]), full.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(halves[0]["weight"] + halves[1]["weight"], norm[0].weight.grad, rtol=1e-4, atol=1e-3)
    for name, value in norm.state_dict().items():
        for half in halves:
            torch.testing.assert_close(half["state"][name], value, msg=name)


def test_part_that_keeps_its_statistics_is_not_shared():
    network = nn.ModuleDict({"base": nn.Sequential(nn.BatchNorm2d(3)), "bottleneck": nn.BatchNorm1d(3)})
    Ranks(0, 2, torch.device("cpu")).share_batch_norm(network, kept=network["base"])
    assert type(network["base"][0]) is nn.BatchNorm2d
    assert type(network["bottleneck"]) is SharedBatchNorm


def test_documented_command_passes_the_option_start_to_not3d():
    given = ["--nproc-per-node", "2", "-m", "--", "not3d", "train", "recipe", "--start", "bundle"]
    parsed = parse_args(given)
    assert (parsed.training_script, parsed.training_script_args) == ("not3d", given[5:])
    assert "torchrun --nproc-per-node 2 -m -- not3d train" in (ROOT / "docs" / "train.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "must be auto, cpu or cuda"), ("mps", "got mps"), ("cuda", "finds no GPU")]
)
def test_device_that_does_not_exist_is_one_message(device, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match=message), join_processes(device):
        pass
