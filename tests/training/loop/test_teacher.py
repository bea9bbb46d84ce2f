from functools import partial
from pathlib import Path

import numpy as np
import pytest

from model.bundle import Bundle
from model.engines import open_engine
from model.tracklet import normalise
from training.datasets.folder import read_tracklets
from training.datasets.pictures import read_picture
from training.datasets.tracklet import Tracklet
from training.loop.teacher import (
    TeacherError,
    TeacherSettings,
    chosen_frames,
    embed_crops,
    make_targets,
    stored_features,
    teacher_targets,
)

PLAIN = TeacherSettings(crops=2, centre_cameras=False, person_share=0)


def tracklets_of(*people, frames=2):
    return [Tracklet(p, c, (Path("x.jpg"),) * frames, f"{p}{c}") for p in people for c in ("a", "b")]


def targets(tracklets, features, **settings):
    chosen = [chosen_frames(len(t.frames), 2) for t in tracklets]
    return make_targets(tracklets, chosen, features, PLAIN.model_copy(update=settings))


@pytest.mark.parametrize(
    ("count", "crops", "expected"), [(1, 2, [0]), (5, 1, [0]), (5, 2, [0, 4]), (9, 3, [0, 4, 8]), (2, 8, [0, 1])]
)
def test_chosen_frames_are_spread_over_the_tracklet(count, crops, expected):
    assert chosen_frames(count, crops) == expected


def test_targets_are_centred_features_of_unit_length_and_other_frames_get_the_mean(rng):
    tracklets = tracklets_of("1", "2", frames=3)
    features = rng.normal(size=(8, 6)).astype(np.float32)
    made = targets(tracklets, features)
    expected = normalise(normalise(features) - normalise(features).mean(axis=0))
    np.testing.assert_allclose(made.frames[0][[0, 2]], expected[:2], atol=1e-6)
    np.testing.assert_allclose(made.frames[0][1], normalise(expected[:2].mean(axis=0)), atol=1e-6)
    np.testing.assert_allclose(made.of(0, [0, 2]), normalise(expected[:2].mean(axis=0)), atol=1e-6)
    assert made.dimension == 6


def test_centring_subtracts_what_a_camera_adds(rng):
    tracklets = tracklets_of(*(str(p) for p in range(40)), frames=1)
    people = np.repeat(normalise(rng.normal(size=(40, 8))), 2, axis=0)
    cast = np.array([[0.0] * 8, [0.7] + [0.0] * 7])[np.arange(80) % 2]
    features = (people + cast).astype(np.float32)
    agreement = lambda made: np.mean([made.frames[i][0] @ made.frames[i + 1][0] for i in range(0, 80, 2)])  # noqa: E731
    assert agreement(targets(tracklets, features, centre_cameras=True)) > agreement(targets(tracklets, features)) + 0.05


def test_cameras_of_two_sites_with_one_name_are_not_mixed(rng):
    one = tracklets_of(*(f"{p}" for p in range(20)), frames=1)
    other = tracklets_of(*(f"cuhk03:{p}" for p in range(20)), frames=1)
    features = rng.normal(size=(80, 8)).astype(np.float32)
    features[40:] += 3
    made = targets([*one, *other], features, centre_cameras=True)
    between = np.concatenate(made.frames[:40]).mean(axis=0) @ np.concatenate(made.frames[40:]).mean(axis=0)
    assert abs(between) < 0.02


def test_whitening_reduces_what_changes_within_a_person(rng):
    tracklets = tracklets_of(*(str(p) for p in range(60)), frames=1)
    people = np.repeat(rng.normal(size=(60, 6)), 2, axis=0)
    noise = rng.normal(size=(120, 6)) * np.array([2.0, 0.1, 0.1, 0.1, 0.1, 0.1])
    features = (people + noise).astype(np.float32)
    agreement = lambda made: np.mean([made.frames[i][0] @ made.frames[i + 1][0] for i in range(0, 120, 2)])  # noqa: E731
    assert agreement(targets(tracklets, features, whiten=0.9)) > agreement(targets(tracklets, features)) + 0.1


def test_share_of_the_person_makes_views_more_similar(rng):
    tracklets = tracklets_of("1", "2", "3", frames=2)
    features = rng.normal(size=(12, 6)).astype(np.float32)
    alone, shared, whole = (targets(tracklets, features, person_share=share) for share in (0, 0.5, 1))
    similarity = [made.frames[0][0] @ made.frames[1][0] for made in (alone, shared, whole)]
    assert similarity[0] < similarity[1] < similarity[2] == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(whole.frames[0][0], whole.people["1"], atol=1e-6)


def test_whitening_without_two_crops_of_a_person_is_an_error(rng):
    tracklets = [Tracklet(p, "a", (Path("x.jpg"),)) for p in ("1", "2")]
    with pytest.raises(TeacherError, match=r"set teacher\.whiten = 0"):
        targets(tracklets, rng.normal(size=(2, 6)).astype(np.float32), whiten=0.5)


def test_composites_are_centred_by_themselves_and_whitened_like_the_others(rng):
    tracklets = tracklets_of(*(str(p) for p in range(20)), frames=1)
    composites = [Tracklet("", "", (Path("x.jpg"),), f"composite-{i}") for i in range(30)]
    features = rng.normal(size=(40, 6)).astype(np.float32)
    own = rng.normal(size=(30, 6)).astype(np.float32)
    chosen = [chosen_frames(len(t.frames), 2) for t in tracklets]
    settings = PLAIN.model_copy(update={"whiten": 0.5})
    made = make_targets(tracklets, chosen, np.concatenate([features, own + 5]), settings, composites)
    alone = make_targets(tracklets, chosen, features, settings)
    np.testing.assert_allclose(np.stack(made.frames[:40]), np.stack(alone.frames), atol=1e-6)
    assert len(made.frames) == 70
    assert made.composites == tuple(composites)
    targets = np.concatenate(made.frames[40:])
    np.testing.assert_allclose(np.linalg.norm(targets, axis=1), 1, atol=1e-5)
    assert np.abs(targets.mean(axis=0)).max() < 0.3  # their common part is gone
    assert "" not in made.people


def test_features_are_computed_once_and_stored(data, mean_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tracklets = read_tracklets(data)[:4]
    first = teacher_targets(mean_bundle, tracklets, PLAIN, 1)
    assert stored_features(Bundle.load(mean_bundle).embedding_space).is_file()
    calls = []
    monkeypatch.setattr(
        "training.loop.teacher.read_picture", lambda *given, **named: calls.append(1) or read_picture(*given, **named)
    )
    again = teacher_targets(mean_bundle, tracklets, PLAIN, 1)
    assert not calls
    np.testing.assert_array_equal(np.concatenate(again.frames), np.concatenate(first.frames))
    teacher_targets(mean_bundle, read_tracklets(data)[:5], PLAIN, 1)
    assert len(calls) == 2  # the two chosen crops of the tracklet that is new


def test_damaged_stored_features_count_as_missing(data, mean_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # Otherwise the fastest one is taken each time.
    monkeypatch.setattr("training.loop.teacher.open_engine", partial(open_engine, engine="onnxruntime"))
    paths = [t.frames[0] for t in read_tracklets(data)[:3]]
    expected = embed_crops(mean_bundle, paths)
    stored_features(Bundle.load(mean_bundle).embedding_space).write_bytes(b"PK damaged")
    np.testing.assert_array_equal(embed_crops(mean_bundle, paths), expected)
