"""The recipe for unseen sites from training to export, on drawn people and from random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from model.bundle import WEIGHTS_FILE, Bundle
from tests.training.runs import assert_same_log, assert_same_state, rows
from tests.training.teachers import write_teacher
from training.datasets.synthetic.dataset import write_synthetic
from training.datasets.tracklet import Tracklet
from training.export.export import export_bundle
from training.importing.third_party_weights import WeightsError
from training.loop import run as run_module
from training.loop.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from training.loop.distributed import Ranks
from training.loop.run import clip_source
from training.loop.teacher import TeacherError
from training.loop.trainer import Interruption, TrainingError, train
from training.recipe import find_recipe, load_recipe

TINY = {
    "network.frame_height": "64",
    "network.frame_width": "32",
    "network.embedding": "16",
    "network.attention_channels": "8",
    "start.weights": "none",
    "batch.people": "4",
    "optimiser.head_steps": "1",
    "schedule.epochs": "2",
    "schedule.evaluate_every": "1",
    "validation_share": "0.3",
}

LIVE = TINY | {"batch.composites": "6", "schedule.steps": "3", "network.embedding": "16", "teacher.crops": "2"}


@pytest.fixture(scope="module")
def live_teacher(tmp_path_factory):
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def run(data, out, teacher, overrides=None, **options):
    changes = TINY | (overrides or {})
    console = Console(quiet=True)
    return train(
        find_recipe("unseen-sites"), [data], out, overrides=changes, console=console, teacher=teacher, **options
    )


def test_log_has_the_losses_of_the_teacher(data, mean_bundle, tmp_path):
    best = run(data, tmp_path / "run", mean_bundle)
    last = rows(tmp_path / "run")[-1]
    assert float(last["distillation"]) > 0
    assert float(last["relation"]) > 0
    checkpoint = load_checkpoint(best)
    assert checkpoint.people
    assert checkpoint.network_spec.embedding == 16


def test_missing_teacher_is_an_error(data, tmp_path):
    with pytest.raises(TrainingError, match="give its bundle with --teacher"):
        run(data, tmp_path / "run", None)


def test_interrupted_run_continues_to_the_same_bits(data, mean_bundle, tmp_path, monkeypatch, one_thread):
    run(data, tmp_path / "all", mean_bundle)
    requests = iter([False] * 3 + [True] * 9)
    with monkeypatch.context() as patch:
        patch.setattr(
            Interruption, "requested", property(lambda self: next(requests), lambda self, value: None), raising=False
        )
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "parts", mean_bundle)
    run(data, tmp_path / "parts", mean_bundle, resume=True)
    assert_same_log(tmp_path / "all", tmp_path / "parts")
    one, other = (load_checkpoint(tmp_path / name / "last.pt") for name in ("all", "parts"))
    assert_same_state(one, other)
    assert one.progress["steps"] > 3


def test_run_continues_under_another_name_and_description(data, mean_bundle, tmp_path):
    run(data, tmp_path / "run", mean_bundle, {"schedule.epochs": "1"})
    path = tmp_path / "run" / "last.pt"
    checkpoint = load_checkpoint(path)
    save_checkpoint(replace(checkpoint, recipe=checkpoint.recipe | {"name": "earlier-name", "winograd": False}), path)
    run(data, tmp_path / "run", mean_bundle, {"schedule.epochs": "1"}, resume=True)


def test_best_checkpoint_has_the_averaged_weights_and_the_last_one_its_own(data, mean_bundle, tmp_path):
    best = load_checkpoint(run(data, tmp_path / "run", mean_bundle, {"schedule.epochs": "1"}))
    last = load_checkpoint(tmp_path / "run" / "last.pt")
    name = "embedding.weight"
    assert torch.equal(best.state_dict[name], last.progress["average"]["weights"][name])
    assert not torch.equal(best.state_dict[name], last.state_dict[name])


@pytest.mark.parametrize(("people", "whole"), [(2122, True), (14, False)])
def test_the_card_holds_for_all_people_of_its_datasets_only(people, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "kind_of", lambda path: "market1501")
    recipe = load_recipe(find_recipe("unseen-sites"))
    tracklets = [Tracklet(str(number), "c1", (), "t") for number in range(people)]
    described = run_module.describe_data(recipe, [Path("market.tar")], tracklets, None, tmp_path, Path("models/osnet"))
    assert ("645 of its training people" in described.card.training_data) == whole
    if not whole:
        assert described.card.training_data == "market.tar: 14 tracklets; teacher: osnet"


class TestLiveTeacher:
    """Batches that are made on the device, and a teacher that looks at them."""

    def run(self, data, out, teacher, **options):
        recipe, console = find_recipe("unseen-sites-live"), Console(quiet=True)
        return train(recipe, [data], out, overrides=LIVE, console=console, teacher=teacher, **options)

    def test_interrupted_run_continues_to_the_same_bits(self, data, live_teacher, tmp_path, monkeypatch, one_thread):
        self.run(data, tmp_path / "whole", live_teacher)
        requests = iter([False] * 4 + [True] * 9)
        with monkeypatch.context() as patch:
            patch.setattr(
                Interruption,
                "requested",
                property(lambda self: next(requests), lambda self, value: None),
                raising=False,
            )
            with pytest.raises(KeyboardInterrupt):
                self.run(data, tmp_path / "parts", live_teacher)
        self.run(data, tmp_path / "parts", live_teacher, resume=True)
        assert_same_log(tmp_path / "whole", tmp_path / "parts")
        whole, parts = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "parts"))
        assert_same_state(whole, parts)
        assert float(rows(tmp_path / "parts")[-1]["distillation"]) > 0

    def test_a_run_is_not_resumed_with_another_teacher(self, data, live_teacher, tmp_path):
        self.run(data, tmp_path / "run", live_teacher)
        other = write_teacher(tmp_path / "other", seed=4)
        with pytest.raises(CheckpointError, match="the run began with another teacher"):
            self.run(data, tmp_path / "run", other, resume=True)

    def test_features_of_another_length_are_refused_before_training(self, data, live_teacher, tmp_path):
        changes = LIVE | {"network.embedding": "32"}
        with pytest.raises(TrainingError, match=r"set network\.embedding = 16"):
            train(find_recipe("unseen-sites-live"), [data], tmp_path / "run", overrides=changes, teacher=live_teacher)

    def test_a_teacher_of_clips_is_refused(self, data, tmp_path):
        teacher = write_teacher(tmp_path / "clips", clip_length=4)
        with pytest.raises(TeacherError, match="a live teacher single frames"):
            self.run(data, tmp_path / "run", teacher)

    def test_several_processes_are_refused(self):
        recipe = load_recipe(find_recipe("unseen-sites-live"), LIVE)
        with pytest.raises(ValueError, match=r"batch\.on_device trains in one process \(got 2\)"):
            clip_source([], recipe, Ranks(0, 2, torch.device("cpu")), None)


class TestStart:
    def test_run_starts_from_the_weights_beside_a_bundle(self, data, mean_bundle, tmp_path):
        best = run(data, tmp_path / "run", mean_bundle, {"schedule.epochs": "1"})
        report = export_bundle(best, tmp_path / "bundle", crops=data)
        Bundle.load(report.path)
        with np.load(report.path / WEIGHTS_FILE) as weights:
            assert not [name for name in weights.files if name.startswith("classifier")]
            assert weights["base.head.weight"].dtype == np.float16
        slow = {"optimiser.learning_rate": "1e-12", "optimiser.trunk_rate": "1e-12", "schedule.epochs": "1"}
        again = run(data, tmp_path / "again", mean_bundle, slow, start=report.path)
        one, other = load_checkpoint(best).state_dict, load_checkpoint(again).state_dict
        for name in ("base.head.weight", "embedding.weight", "attention_conv.weight"):
            torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-3)
        assert not torch.equal(one["classifier.weight"], other["classifier.weight"])

    def test_checkpoint_of_the_same_people_gives_its_classifier_too(self, data, mean_bundle, tmp_path):
        best = run(data, tmp_path / "run", mean_bundle, {"schedule.epochs": "1"})
        slow = {"optimiser.learning_rate": "1e-12", "optimiser.trunk_rate": "1e-12", "schedule.epochs": "1"}
        same = run(data, tmp_path / "same", mean_bundle, slow, start=best)
        name = "classifier.weight"
        torch.testing.assert_close(load_checkpoint(same).state_dict[name], load_checkpoint(best).state_dict[name])
        fewer = run(data, tmp_path / "fewer", mean_bundle, slow | {"validation_share": "0.5"}, start=best)
        assert load_checkpoint(fewer).people != load_checkpoint(best).people

    def test_weights_of_another_network_are_an_error(self, data, mean_bundle, tmp_path):
        best = run(data, tmp_path / "run", mean_bundle, {"schedule.epochs": "1"})
        with pytest.raises(WeightsError, match=r"another network than the recipe's \(resnet18\)"):
            run(
                data,
                tmp_path / "other",
                mean_bundle,
                {"network.backbone": "resnet18", "freeze.blocks": "0", "freeze.statistics": "false",
                 "freeze.depthwise": "false"},
                start=best,
            )  # fmt: skip

    def test_bundle_without_weights_is_an_error(self, data, mean_bundle, tmp_path):
        with pytest.raises(WeightsError, match=r"has no weights\.npz: export the model again"):
            run(data, tmp_path / "run", mean_bundle, start=mean_bundle)


class TestSite:
    def fine_tune(self, data, out, **options):
        changes = {name: value for name, value in TINY.items() if name != "batch.people"}
        changes |= {"schedule.epochs": "1", "schedule.steps": "2"} | options.pop("overrides", {})
        return train(find_recipe("site"), [data], out, overrides=changes, console=Console(quiet=True), **options)

    def test_recipe_needs_a_start(self, data, tmp_path):
        with pytest.raises(TrainingError, match=r"starts from a model that was trained on other sites: .* --start"):
            self.fine_tune(data, tmp_path / "site")

    def test_recipe_continues_from_a_model_without_a_teacher(self, data, mean_bundle, tmp_path):
        best = run(data, tmp_path / "run", mean_bundle, {"schedule.epochs": "1"})
        tuned = self.fine_tune(data, tmp_path / "site", start=best, overrides={"validation_share": "0"})
        assert load_checkpoint(tuned).recipe["name"] == "site"
        assert rows(tmp_path / "site")[-1]["distillation"] == ""

    def test_too_few_people_are_told_how_many_are_needed(self, mean_bundle, data, tmp_path):
        best = run(data, tmp_path / "run", mean_bundle, {"schedule.epochs": "1"})
        few = tmp_path / "few"
        write_synthetic(few, people=5, cameras=2, frames=2, seed=3, size=(64, 32))
        with pytest.raises(TrainingError, match=r"needs 8 people .* but the training set has 5: give more people"):
            self.fine_tune(few, tmp_path / "site", start=best, overrides={"validation_share": "0"})


@pytest.mark.parametrize(
    ("name", "size"),
    [("unseen-sites", (128, 64)), ("unseen-sites-160", (160, 80)), ("unseen-sites-unfrozen", (160, 80))],
)
def test_recipe_is_read(name, size):
    recipe = load_recipe(find_recipe(name))
    assert recipe.frame_size(1) == size
    assert recipe.batch.sampler == "sites"
    assert recipe.losses.need_teacher
