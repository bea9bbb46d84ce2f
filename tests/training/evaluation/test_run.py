import itertools
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from tests.bundles import make_bundle
from tests.training.datasets.layouts import write_prid2011
from training.datasets.synthetic.dataset import write_synthetic
from training.evaluation import run as run_module
from training.evaluation.run import EvaluationError, compare, evaluate, evaluate_splits
from training.loop.trainer import train
from training.recipe import find_recipe

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    write_synthetic(folder, people=10, cameras=2, frames=3, seed=5, size=(64, 32))
    return folder


def train_small(data, out, *, validation_share):
    overrides = {
        "network.frame_height": "64",
        "network.frame_width": "32",
        "resolutions": "[]",
        "batch.people": "4",
        "schedule.epochs": "1",
        "validation_share": str(validation_share),
    }
    return train(find_recipe("light"), [data], out, overrides=overrides, console=QUIET)


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    return train_small(data, tmp_path_factory.mktemp("run"), validation_share=0.3)


def test_checkpoint_is_evaluated_across_cameras(checkpoint, data):
    result = evaluate(checkpoint, [data], console=QUIET)
    figures = result.figures
    assert (figures["people"], figures["queries"], figures["gallery"]) == (10, 20, 20)
    low, high = result.intervals["mAP"]
    assert 0 <= low < figures["mAP"] < high <= 100
    assert json.loads(json.dumps(result.as_json(), allow_nan=False))["figures"]["mAP"] == figures["mAP"]
    assert result.frame_weights is not None
    weights = result.frame_weights(result.query[0])
    assert len(weights) == 4
    assert sum(weights) == pytest.approx(1)


def test_distance_feature_and_clips_change_what_is_measured(checkpoint, data):
    ways = [{}, {"metric": "euclidean"}, {"feature": "raw"}, {"rerank": True}]
    distances = [evaluate(checkpoint, [data], options=way, console=QUIET).distances for way in ways]
    for one, other in itertools.combinations(distances, 2):
        assert not np.allclose(one, other)


def test_validation_uses_only_people_set_aside(checkpoint, data):
    figures = evaluate(checkpoint, [data], options={"protocol": "validation"}, console=QUIET).figures
    assert 0 < figures["people"] < 10
    assert figures["queries"] == 2 * figures["people"]


def test_other_site_compares_no_query_with_its_own_camera(checkpoint, data):
    result = evaluate(checkpoint, [data], options={"protocol": "other-site"}, console=QUIET)
    assert (result.figures["queries"], result.figures["gallery"]) == (20, 10)
    cameras = np.array([t.camera for t in result.query])
    own = cameras[:, None] == cameras[None]
    assert np.isinf(result.distances[own]).all()
    assert np.isfinite(result.distances[~own]).all()
    assert result.rank.first_hit.max() <= 10


def test_models_are_compared_on_the_validation_people_of_the_first(checkpoint, data, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    ours, other = compare([checkpoint, bundle], [data], options={"protocol": "validation"}, console=QUIET)
    assert [t.name for t in ours.query] == [t.name for t in other.query]
    assert 0 < ours.figures["people"] < 10
    assert ours.figures["model"] != other.figures["model"]
    alone = evaluate(checkpoint, [data], options={"protocol": "validation"}, console=QUIET)
    assert [alone.figures[name] for name in ("people", "rank-1", "mAP")] == [
        ours.figures[name] for name in ("people", "rank-1", "mAP")
    ]


def test_bundle_is_evaluated_on_the_queries_of_mars(shared_data, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    figures = evaluate(bundle, [shared_data / "mini-mars"], options={"max_clips": 1}, console=QUIET).figures
    assert figures["queries"] == 8  # of 12: four people have no tracklet from another camera
    assert figures["gallery"] == 12


def test_validation_needs_people_set_aside(data, tmp_path):
    checkpoint = train_small(data, tmp_path, validation_share=0.0001)
    with pytest.raises(EvaluationError, match="none of these people are validation people"):
        evaluate(checkpoint, [data], options={"protocol": "validation"}, console=QUIET)


def test_options_that_would_be_ignored_are_an_error(data, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    for options, cure in (
        ({"rerank_form": "published"}, "no effect without re-ranking: add --rerank"),
        ({"clip_choice": "random"}, "no effect on all clips: add --max-clips"),
    ):
        with pytest.raises(EvaluationError, match=cure) as error:
            evaluate(bundle, [data], options=options, console=QUIET)
        assert not str(error.value).startswith(":")


def test_unsuitable_options_are_an_error(checkpoint, data):
    with pytest.raises(EvaluationError, match="MARS's layout"):
        evaluate(checkpoint, [data], options={"protocol": "mars"}, console=QUIET)
    with pytest.raises(EvaluationError, match="choose auto, mars"):
        evaluate(checkpoint, [data], options={"protocol": "cuhk"}, console=QUIET)
    with pytest.raises(EvaluationError, match=r"metric: .*cosine"):
        evaluate(checkpoint, [data], options={"metric": "manhattan"}, console=QUIET)


def test_bundle_has_only_one_feature(data, tmp_path):
    with pytest.raises(EvaluationError, match="checkpoint instead"):
        evaluate(make_bundle(tmp_path / "bundle"), [data], options={"feature": "batch_normed"}, console=QUIET)


def test_all_splits_are_ten_evaluations_of_different_people(tmp_path):
    bundle, prid = make_bundle(tmp_path / "bundle"), write_prid2011(tmp_path, people=8)
    results = evaluate_splits(bundle, [prid], "all", console=QUIET)
    assert [result.figures["split"] for result in results] == list(range(10))
    assert {(result.figures["queries"], result.figures["gallery"]) for result in results} == {(4, 4)}
    assert len({tuple(tracklet.person for tracklet in result.query) for result in results}) > 1
    alone = evaluate(bundle, [prid], split=7, console=QUIET)
    assert (alone.query, alone.gallery) == (results[7].query, results[7].gallery)
    assert alone.figures["split"] == 7


def test_training_people_of_a_split_are_measured_across_cameras(tmp_path):
    bundle, prid = make_bundle(tmp_path / "bundle"), write_prid2011(tmp_path, people=8)
    test = evaluate(bundle, [prid], split=2, console=QUIET)
    train = evaluate(bundle, [prid], split=2, options={"protocol": "cross-camera"}, console=QUIET)
    assert train.figures["split"] == 2
    assert train.figures["queries"] == 8
    assert not {t.person for t in train.query} & {t.person for t in test.query}


def test_unsuitable_data_is_an_error(data, tmp_path):
    bundle = make_bundle(tmp_path / "bundle")
    write_synthetic(tmp_path / "one camera", people=3, cameras=1, frames=2, seed=5, size=(64, 32))
    with pytest.raises(EvaluationError, match=r"3 queries.*another camera"):
        evaluate(bundle, [tmp_path / "one camera"], console=QUIET)
    write_synthetic(tmp_path / "one person", people=1, cameras=2, frames=2, seed=5, size=(64, 32))
    with pytest.raises(EvaluationError, match="different people"):
        evaluate(bundle, [tmp_path / "one person"], console=QUIET)
    with pytest.raises(EvaluationError, match=r"split 3: .*no splits"):
        evaluate(bundle, [data], split=3, console=QUIET)
    with pytest.raises(EvaluationError, match=r"split all: .*no splits"):
        evaluate_splits(bundle, [data], "all", console=QUIET)


def test_data_without_a_right_answer_is_refused_before_anything_is_embedded(data, tmp_path, monkeypatch):
    for person in sorted(path for path in data.iterdir() if path.is_dir()):
        (camera, *_) = sorted(path for path in person.iterdir() if path.is_dir())
        shutil.copytree(camera, tmp_path / "one-camera" / person.name / camera.name)
    monkeypatch.setattr(run_module, "embed_tracklets", lambda *_arguments, **_options: pytest.fail("embedded"))
    with pytest.raises(EvaluationError, match="10 queries, 10 in the gallery: no query has a right answer"):
        evaluate(make_bundle(tmp_path / "bundle"), [tmp_path / "one-camera"], console=QUIET)
