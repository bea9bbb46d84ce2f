"""Small real training runs on synthetic people."""

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.training.runs import PROGRAM, TINY, arguments, assert_same_log, assert_same_state, rows, run
from training.evaluation.embed import FeatureError
from training.evaluation.validation import network_embedder
from training.loop import run as run_module
from training.loop import trainer
from training.loop.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from training.loop.run import BEST, LAST
from training.loop.run_log import LOG, TENSORBOARD
from training.loop.trainer import DivergedError, Interruption, TrainingError, TrainingInterrupted, train
from training.recipe import find_recipe

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[3]
LIGHT_BACKBONE = "resnet18_ibn_a_x0_75"
"""Of the recipe `light`, where the width matters."""


def test_run_learns_and_writes_a_checkpoint_that_rebuilds_the_network(data, tmp_path):
    best = run(data, tmp_path, 6, overrides={"network.backbone": LIGHT_BACKBONE})
    losses = [float(row["total"]) for row in rows(tmp_path)]
    assert len(losses) == 6
    assert losses[-1] < losses[0] - 0.05
    checkpoint = load_checkpoint(best)
    (accuracy,) = checkpoint.accuracy
    assert accuracy["queries"] > 0
    assert 0 <= accuracy["map"] <= 100
    embed = network_embedder(checkpoint.build(), torch.device("cpu"))
    assert embed(torch.zeros(1, 4, 64, 32, 3, dtype=torch.uint8).numpy()).shape == (1, 384)
    assert checkpoint.recipe["network"]["backbone"] == LIGHT_BACKBONE
    assert not checkpoint.progress  # the model to use carries no optimiser


SMALL_STEPS = {"batch.people": "2", "optimiser.learning_rate": "1e-3"}
"""Five steps per epoch."""


CTRL_C_IN_THE_SECOND_STEP = """
import itertools, signal
from training.loop.run import Run
step, number = Run.step, itertools.count(1)
def interrupted(run, batch):
    if next(number) == 2:
        signal.raise_signal(signal.SIGINT)
    return step(run, batch)
Run.step = interrupted
"""
"""Sent from outside, the signal could come when a fast run is over."""


def test_run_resumed_after_ctrl_c_is_the_same_to_the_bit(data, tmp_path):
    run(data, tmp_path / "uninterrupted", 2, overrides=SMALL_STEPS)

    program = CTRL_C_IN_THE_SECOND_STEP + PROGRAM
    command = [sys.executable, "-c", program, *arguments(data, tmp_path / "resumed", 2, overrides=SMALL_STEPS)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    stopped = load_checkpoint(tmp_path / "resumed" / LAST)
    assert (stopped.progress["epoch"], stopped.progress["tally"]["steps"]) == (0, 2)

    run(data, tmp_path / "resumed", 2, overrides=SMALL_STEPS, resume=True)
    uninterrupted, resumed = (load_checkpoint(tmp_path / name / LAST) for name in ("uninterrupted", "resumed"))
    assert resumed.progress["epoch"] == 2
    assert_same_state(uninterrupted, resumed)
    assert_same_state(*(load_checkpoint(tmp_path / name / BEST) for name in ("uninterrupted", "resumed")))
    assert_same_log(tmp_path / "uninterrupted", tmp_path / "resumed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_validation_is_repeated(data, tmp_path, monkeypatch, number):
    overrides = {"schedule.evaluate_every": "2"}
    run(data, tmp_path / "uninterrupted", 3, overrides=overrides)
    validate, handlers = run_module.validate, [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]

    def interrupted(*arguments):
        os.kill(os.getpid(), number)
        return validate(*arguments)

    monkeypatch.setattr(run_module, "validate", interrupted)
    with pytest.raises(TrainingInterrupted):
        run(data, tmp_path / "resumed", 3, overrides=overrides)
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers
    monkeypatch.setattr(run_module, "validate", validate)
    stopped = load_checkpoint(tmp_path / "resumed" / LAST).progress
    assert (stopped["epoch"], stopped["tally"]["steps"]) == (1, 2)

    run(data, tmp_path / "resumed", 3, overrides=overrides, resume=True)
    assert_same_state(*(load_checkpoint(tmp_path / name / LAST) for name in ("uninterrupted", "resumed")))
    assert_same_log(tmp_path / "uninterrupted", tmp_path / "resumed")


def test_fp16_skips_a_step_that_overflows(data, tmp_path, monkeypatch):
    weights, scales = [], []
    descend = run_module.Run._descend

    def watched(self, loss):
        if not scales:
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
        descend(self, loss)
        weights.append(self.network.base.conv1.weight.detach().clone())
        scales.append(self.scaler.get_scale())

    monkeypatch.setattr(run_module.Run, "_descend", watched)
    tiny = {"batch.people": "2", "batch.tracklets": "1", "network.frame_height": "32", "network.clip_length": "2"}
    best = run(data, tmp_path, 3, overrides=tiny | {"precision": "fp16", "schedule.evaluate_every": "3"})
    overflowed = [later < earlier for earlier, later in zip([2.0**24, *scales], scales, strict=False)]
    assert overflowed[0]
    assert not overflowed[-1]
    for number in range(1, len(weights)):
        assert torch.equal(weights[number], weights[number - 1]) == overflowed[number], number
    assert all(value.isfinite().all() for value in load_checkpoint(best).state_dict.values())
    assert load_checkpoint(tmp_path / LAST).progress["scaler"]["scale"] == scales[-1]


def test_loss_that_is_not_finite_ends_the_run(data, tmp_path):
    with pytest.raises(TrainingError, match="not finite in epoch 1"):
        run(data, tmp_path, 1, overrides=SMALL_STEPS | {"optimiser.learning_rate": "1e30"})
    assert not (tmp_path / LAST).exists()


def test_last_step_that_ruins_the_weights_ends_the_run_without_a_model(data, tmp_path):
    one_step = SMALL_STEPS | {"schedule.steps": "1", "optimiser.learning_rate": "1e308"}
    with pytest.raises(TrainingError, match=r"the weights are not finite after epoch 1 \(.*learning_rate"):
        run(data, tmp_path, 1, overrides=one_step)
    assert not (tmp_path / BEST).exists()
    assert not (tmp_path / LAST).exists()


def test_features_that_are_not_finite_end_the_run(data, tmp_path, monkeypatch):
    def overflow(*_arguments):
        raise FeatureError("infinite")

    monkeypatch.setattr(run_module, "validate", overflow)
    with pytest.raises(DivergedError, match="features are not finite after epoch 1: lower optimiser"):
        run(data, tmp_path, 1)
    assert not (tmp_path / BEST).exists()


def test_dead_attention_gives_one_warning_and_is_logged(data, tmp_path, capsys):
    for bias, dead in (("-9.0", True), ("1.0", False)):
        out = tmp_path / bias
        overrides = {"network.backbone": LIGHT_BACKBONE, "network.attention_bias": bias}
        run(data, out, 2, overrides=overrides, console=Console(width=300))
        said = capsys.readouterr().out
        assert said.count("attention is dead") == dead
        assert ("network.attention_bias" in said) == dead
        assert [float(row["dead_attention"]) == 1 for row in rows(out)] == [dead, dead]
        assert [float(row["attention_entropy"]) > 0.99999 for row in rows(out)] == [dead, dead]


def test_log_has_the_time_spent_waiting_and_is_in_tensorboard(data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(data, tmp_path, 2)
    log = rows(tmp_path)
    assert all(0 < float(row["waiting"]) < 1 for row in log)
    events = EventAccumulator(str(tmp_path / TENSORBOARD))
    events.Reload()
    for row in log:
        for tag, column in (("loss/total", "total"), ("map", "map"), ("loss/triplet", "triplet")):
            (value,) = [e.value for e in events.Scalars(tag) if e.step == int(row["epoch"])]
            assert value == pytest.approx(float(row[column]), rel=1e-4)


def test_compiled_network_learns_the_same_at_each_resolution(data, tmp_path, monkeypatch):
    # Without the C++ compiler, which takes a minute for each frame size.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    sizes = "[{from_epoch=1, height=48, width=32}, {from_epoch=2, height=64, width=32}]"
    overrides = {"resolutions": sizes, "network.backbone": "resnet18_x0_75", "optimiser.learning_rate": "1e-6"}
    run(data, tmp_path / "eager", 2, overrides=overrides)
    best = run(data, tmp_path / "compiled", 2, overrides=overrides, compile=True)
    for eager, compiled in zip(rows(tmp_path / "eager"), rows(tmp_path / "compiled"), strict=True):
        assert float(compiled["total"]) == pytest.approx(float(eager["total"]), rel=1e-3)
    # The weights of a compiled network have the same names.
    load_checkpoint(best).build()


def test_transfer_loads_backbone_and_attention_only(data, tmp_path, monkeypatch):
    source = load_checkpoint(run(data, tmp_path / "source", 2))
    started = {}

    def no_training(started_run):
        started.update(started_run.network.state_dict())
        return tmp_path

    monkeypatch.setattr(trainer, "finish", no_training)
    overrides = {"seed": "2", "validation_share": "0.5", "start.transfer": "any"}
    run(data, tmp_path / "fresh", 1, overrides=overrides | {"start.transfer": "''"})
    fresh = dict(started)
    run(data, tmp_path / "transferred", 1, overrides=overrides, transfer=tmp_path / "source" / BEST)
    for name, value in source.state_dict.items():
        if name.startswith(("base.", "attention_")):
            assert torch.equal(started[name], value), name
        else:
            assert torch.equal(started[name], fresh[name]), name
    assert not torch.equal(fresh["base.conv1.weight"], source.state_dict["base.conv1.weight"])


def test_recipe_that_requires_a_checkpoint_says_so(data, tmp_path):
    with pytest.raises(TrainingError, match="starts from not3d on MARS"):
        run(data, tmp_path, 1, overrides={"start.transfer": "not3d on MARS"})


def test_model_of_other_data_does_not_get_the_card_of_the_recipe(data, tmp_path):
    checkpoint = load_checkpoint(run(data, tmp_path / "lobby", 1))
    assert checkpoint.recipe["name"] == "lobby"
    assert "Market-1501" not in checkpoint.training_data + checkpoint.data_terms
    assert f"{data.name}: 24 tracklets" in checkpoint.training_data
    assert checkpoint.data_terms == "not stated"


def test_missing_validation_people_give_a_warning(data, tmp_path, capsys):
    overrides = TINY | {"schedule.epochs": "1", "validation_share": "0.0"}
    best = train(find_recipe("light"), [data], tmp_path, overrides=overrides, console=Console(width=200))
    assert "No validation people" in capsys.readouterr().out
    assert load_checkpoint(best).accuracy == []


def test_run_is_neither_overwritten_nor_resumed_with_another_recipe(data, tmp_path):
    with pytest.raises(TrainingError, match="no run to resume"):
        run(data, tmp_path, 1, resume=True)
    run(data, tmp_path, 1)
    with pytest.raises(TrainingError, match="already holds a run"):
        run(data, tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"another losses\.triplet_margin"):
        run(data, tmp_path, 1, resume=True, overrides={"losses.triplet_margin": "0.5"})
    log = (tmp_path / LOG).read_text()
    run(data, tmp_path, 1, resume=True)
    assert (tmp_path / LOG).read_text() == log  # a finished run does not change


def test_run_of_an_earlier_version_is_resumed(data, tmp_path):
    """Its recipe has the removed key `winograd` and other descriptions."""
    run(data, tmp_path, 1)
    checkpoint = load_checkpoint(tmp_path / LAST)
    checkpoint.recipe.update(winograd=False, description="earlier text")
    checkpoint.recipe["start"] = checkpoint.recipe["start"] | {"transfer": "earlier text"}
    save_checkpoint(checkpoint, tmp_path / LAST)
    run(data, tmp_path, 1, resume=True)


@pytest.mark.parametrize("lost", ["optimiser", "random", "epoch"])
def test_damaged_state_of_a_run_is_one_message(data, tmp_path, lost):
    run(data, tmp_path, 1)
    last = load_checkpoint(tmp_path / LAST)
    del last.progress[lost]
    save_checkpoint(last, tmp_path / LAST)
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged, or of another version"):
        run(data, tmp_path, 1, resume=True)


def test_run_is_not_resumed_with_other_data(data, tmp_path):
    run(data, tmp_path / "run", 1)
    other = tmp_path / "other"
    shutil.copytree(data, other)
    with pytest.raises(CheckpointError, match=rf"other data, {data.name}: 24 tracklets, not other: 24 tracklets"):
        run(other, tmp_path / "run", 1, resume=True)
    same_name = tmp_path / "copy" / data.name
    shutil.copytree(data, same_name)
    (same_name / "0001").rename(same_name / "9001")
    with pytest.raises(CheckpointError, match="other data"):
        run(same_name, tmp_path / "run", 1, resume=True)


def test_split_of_data_without_splits_is_an_error(data, tmp_path):
    with pytest.raises(TrainingError, match="split 3: none of the datasets has splits"):
        run(data, tmp_path, 1, split=3)


def test_other_files_are_not_checkpoints(data, tmp_path):
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


def test_second_ctrl_c_interrupts_immediately(capsys):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interruption(Console()) as interruption:  # noqa: PT012
        assert not interruption.requested
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().out.count("Stopping after this step") == 1


def test_repeated_signals_are_ignored_in_a_process_of_torchrun(capsys):
    with Interruption(Console(), ignore_repeats=True) as interruption:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert interruption.requested
    assert capsys.readouterr().out.count("Stopping after this step") == 1
