"""Real, tiny training runs on drawn people."""

import csv

import pytest
import torch
from rich.console import Console

from training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from training.datasets.synthetic import write_synthetic
from training.recipe import find_recipe
from training.trainer import LAST, LOG, TrainingError, train
from training.validation import network_embedder

TINY = {
    "network.frame_height": "64",
    "network.frame_width": "32",
    "network.backbone": "resnet18_ibn_a_x0_75",
    "resolutions": "[]",
    "batch.people": "4",
    "schedule.evaluate_every": "1",
    "schedule.warm_up": "1",
    "validation_share": "0.3",
    "precision": "fp32",
    "losses.ranked_list": "0.5",
    "losses.center": "5e-4",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    write_synthetic(folder, people=12, cameras=2, frames=4, seed=3, size=(64, 32))
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    """Sums in one order: runs can be compared bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(data, out, epochs, **options):
    overrides = TINY | {"schedule.epochs": str(epochs), **options.pop("overrides", {})}
    return train(find_recipe("bundled"), [data], out, overrides=overrides, console=Console(quiet=True), **options)


def rows(out):
    with (out / LOG).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_learns_and_leaves_a_checkpoint_that_rebuilds_the_network(data, tmp_path):
    best = run(data, tmp_path, 6)
    losses = [float(row["total"]) for row in rows(tmp_path)]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.05
    checkpoint = load_checkpoint(best)
    (accuracy,) = checkpoint.accuracy
    assert accuracy["queries"] > 0
    assert 0 <= accuracy["map"] <= 100
    embed = network_embedder(checkpoint.build(), torch.device("cpu"))
    assert embed(torch.zeros(1, 4, 64, 32, 3, dtype=torch.uint8).numpy()).shape == (1, 384)
    assert checkpoint.recipe["network"]["backbone"] == "resnet18_ibn_a_x0_75"
    assert not checkpoint.progress  # the model to use carries no optimiser


def test_resuming_goes_on_bit_for_bit(data, tmp_path, monkeypatch):
    run(data, tmp_path / "whole", 2)

    # The same recipe, stopped after its first epoch.
    from training import trainer  # noqa: PLC0415 - patched below

    log = trainer.Run._log

    def stop(self, row):
        log(self, row)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.Run, "_log", stop)
    with pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "parts", 2)
    monkeypatch.setattr(trainer.Run, "_log", log)
    run(data, tmp_path / "parts", 2, resume=True)

    whole, parts = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "parts"))
    assert parts.progress["epoch"] == 2
    for name, value in whole.state_dict.items():
        assert torch.equal(value, parts.state_dict[name]), name
    assert [row["total"] for row in rows(tmp_path / "whole")] == [row["total"] for row in rows(tmp_path / "parts")]


def test_a_model_of_other_data_does_not_claim_the_recipes_card(data, tmp_path):
    checkpoint = load_checkpoint(run(data, tmp_path / "lobby", 1))
    assert checkpoint.recipe["name"] == "lobby"
    assert "Market-1501" not in checkpoint.training_data + checkpoint.data_terms
    assert f"{data.name}: 24 tracklets" in checkpoint.training_data
    assert checkpoint.data_terms == "not stated"


def test_nobody_set_aside_is_said(data, tmp_path, capsys):
    overrides = TINY | {"schedule.epochs": "1", "validation_share": "0.0"}
    best = train(find_recipe("bundled"), [data], tmp_path, overrides=overrides, console=Console(width=200))
    assert "Nobody is set aside" in capsys.readouterr().out
    assert load_checkpoint(best).accuracy == []


def test_a_run_is_neither_overwritten_nor_resumed_with_another_recipe(data, tmp_path):
    with pytest.raises(TrainingError, match="no run to resume"):
        run(data, tmp_path, 1, resume=True)
    run(data, tmp_path, 1)
    with pytest.raises(TrainingError, match="holds a run already"):
        run(data, tmp_path, 1)
    with pytest.raises(CheckpointError, match="another recipe"):
        run(data, tmp_path, 1, resume=True, overrides={"losses.triplet_margin": "0.5"})


def test_foreign_files_are_not_checkpoints(data, tmp_path):
    (tmp_path / "text.pt").write_text("no weights here")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    for name in ("text.pt", "other.pt", "missing.pt"):
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(tmp_path / name)


def test_weights_of_another_network_are_named(data, tmp_path):
    checkpoint = load_checkpoint(run(data, tmp_path, 1))
    del checkpoint.state_dict["bottleneck.weight"]
    save_checkpoint(checkpoint, tmp_path / "broken.pt")
    with pytest.raises(CheckpointError, match=r"bottleneck\.weight"):
        load_checkpoint(tmp_path / "broken.pt").build()
