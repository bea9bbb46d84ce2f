import json

import pytest
from rich.console import Console

from tests.bundles import make_bundle
from training.datasets.synthetic import write_synthetic
from training.evaluation.run import EvaluationError, evaluate
from training.recipe import find_recipe
from training.trainer import train

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    write_synthetic(folder, people=10, cameras=2, frames=3, seed=5, size=(64, 32))
    return folder


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    overrides = {
        "network.frame_height": "64",
        "network.frame_width": "32",
        "resolutions": "[]",
        "batch.people": "4",
        "schedule.epochs": "1",
        "validation_share": "0.3",
    }
    return train(find_recipe("bundled"), [data], tmp_path_factory.mktemp("run"), overrides=overrides, console=QUIET)


def test_a_checkpoint_is_evaluated_across_cameras(checkpoint, data, tmp_path):
    figures = evaluate(checkpoint, [data], out=tmp_path, console=QUIET)
    assert (figures["people"], figures["queries"], figures["gallery"], figures["frames"]) == (10, 20, 20, 60)
    assert 0 <= figures["mAP"] <= 100
    assert json.loads((tmp_path / "evaluation.json").read_text()) == figures


def test_validation_is_on_the_people_set_aside_only(checkpoint, data):
    figures = evaluate(checkpoint, [data], protocol="validation", console=QUIET)
    assert 0 < figures["people"] < 10
    assert figures["queries"] == 2 * figures["people"]


def test_a_bundle_is_evaluated_on_mars_own_queries(shared_data, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    figures = evaluate(bundle, [shared_data / "mini-mars"], max_clips=1, console=QUIET)
    assert figures["queries"] == 8  # of 12: four people have no tracklet under another camera
    assert figures["gallery"] == 12


def test_a_model_that_set_nobody_aside_has_no_validation(data, tmp_path):
    overrides = {
        "network.frame_height": "64",
        "network.frame_width": "32",
        "resolutions": "[]",
        "batch.people": "4",
        "schedule.epochs": "1",
        "validation_share": "0.0001",
    }
    everyone = train(find_recipe("bundled"), [data], tmp_path, overrides=overrides, console=QUIET)
    with pytest.raises(EvaluationError, match="nobody"):
        evaluate(everyone, [data], protocol="validation", console=QUIET)


def test_what_does_not_fit_is_an_error(checkpoint, data):
    with pytest.raises(EvaluationError, match="MARS's layout"):
        evaluate(checkpoint, [data], protocol="mars", console=QUIET)
    with pytest.raises(EvaluationError, match="known are auto, mars"):
        evaluate(checkpoint, [data], protocol="cuhk", console=QUIET)
