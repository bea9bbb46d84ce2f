from pathlib import Path

import numpy as np
import pytest

from training.batches.sampling import (
    CLIP_SAMPLING,
    PersonSampler,
    TrackletSampler,
    consecutive_frames,
    random_frames,
    restricted_random_frames,
)
from training.datasets.tracklet import Tracklet


@pytest.mark.parametrize(
    ("frames", "ranges"),
    [
        (1, [(0, 0)] * 4),
        (3, [(0, 0), (1, 1), (2, 2), (2, 2)]),
        (5, [(0, 0), (1, 1), (2, 2), (3, 4)]),
        (9, [(0, 1), (2, 3), (4, 5), (6, 8)]),
    ],
)
def test_restricted_sampling_covers_exactly_the_published_ranges(rng, frames, ranges):
    drawn = np.stack([restricted_random_frames(frames, 4, rng) for _ in range(400)])
    assert [(int(column.min()), int(column.max())) for column in drawn.T] == ranges


def test_consecutive_sampling_reaches_both_ends_and_repeats_the_last(rng):
    drawn = np.stack([consecutive_frames(6, 4, rng) for _ in range(200)])
    assert (np.diff(drawn, axis=1) == 1).all()
    assert set(drawn[:, 0]) == {0, 1, 2}
    np.testing.assert_array_equal(consecutive_frames(2, 4, rng), [0, 1, 1, 1])


@pytest.mark.parametrize(("frames", "starts"), [(3, {0}), (4, {0}), (5, {0}), (6, {0, 1}), (9, {0, 1, 2, 3, 4})])
def test_published_consecutive_sampling_never_reaches_the_last_frame(rng, frames, starts):
    drawn = np.stack([CLIP_SAMPLING["consecutive_code"](frames, 4, rng) for _ in range(200)])
    assert set(drawn[:, 0]) == starts
    assert drawn.max() == (frames - 2 if frames > 4 else frames - 1)


def test_random_frames_are_different_and_ordered_and_come_from_all_frames(rng):
    drawn = np.stack([random_frames(6, 4, rng) for _ in range(300)])
    assert (np.diff(drawn, axis=1) > 0).all()
    assert len({tuple(row) for row in drawn}) == 15  # all choices of 4 out of 6
    for _ in range(50):
        short = random_frames(3, 5, rng)
        assert set(short) == {0, 1, 2}
        assert (np.diff(short) >= 0).all()
        assert short.dtype == np.int64


@pytest.mark.parametrize("draw", [restricted_random_frames, consecutive_frames, random_frames])
def test_counts_below_one_are_errors(rng, draw):
    with pytest.raises(ValueError, match="at least 1"):
        draw(0, 4, rng)


def tracklets(cameras_of):
    return [
        Tracklet(person, camera, (Path("x.jpg"),), f"{person}{camera}{number}")
        for person, cameras in cameras_of.items()
        for number, camera in enumerate(cameras)
    ]


def test_each_person_occurs_once_per_epoch(rng):
    dataset = tracklets({str(p): "AABC" for p in range(9)})
    batches = list(PersonSampler(dataset, 4, 2).batches(rng))
    assert [len(batch) for batch in batches] == [8, 8]
    persons = [dataset[i].person for batch in batches for i in batch[::2]]
    assert len(set(persons)) == 8
    for batch in batches:
        for first, second in zip(batch[::2], batch[1::2], strict=True):
            assert dataset[first].person == dataset[second].person
            assert dataset[first].camera != dataset[second].camera


def test_tracklets_of_a_person_with_few_are_drawn_with_replacement(rng):
    dataset = tracklets({"a": "A", "b": "AB"})
    (batch,) = PersonSampler(dataset, 2, 4).batches(rng)
    drawn = [dataset[i].name for i in batch]
    assert sorted(set(drawn)) == ["aA0", "bA0", "bB1"]
    assert len(drawn) == 8


def test_without_spread_cameras_the_camera_does_not_matter(rng):
    dataset = tracklets({str(p): "AAAAAAAB" for p in range(4)})
    drawn = [PersonSampler(dataset, 4, 2, spread_cameras=False).batches(rng)[0] for _ in range(100)]
    pairs = [(dataset[a], dataset[b]) for batch in drawn for a, b in zip(batch[::2], batch[1::2], strict=True)]
    assert all(a.person == b.person and a.name != b.name for a, b in pairs)
    # One of 28 pairs in four has the only tracklet of camera B.
    assert 0.15 < np.mean([a.camera != b.camera for a, b in pairs]) < 0.35


def test_an_epoch_of_mars_has_78_batches(rng):
    dataset = tracklets({str(p): "AB" for p in range(625)})
    assert len(PersonSampler(dataset, 8, 4).batches(rng)) == 78


def test_sampler_of_luo_takes_all_tracklets(rng):
    dataset = tracklets({"a": "A" * 11, "b": "A" * 8, "c": "AB", "d": "A" * 9, "e": "B" * 12})
    for _ in range(20):
        batches = TrackletSampler(dataset, 2, 4).batches(rng)
        drawn = [index for batch in batches for index in batch]
        for batch in batches:
            assert len({dataset[i].person for i in batch[:4]}) == 1
            assert len({dataset[i].person for i in batch[4:]}) == 1
            assert dataset[batch[0]].person != dataset[batch[4]].person
        # 2 + 2 + 1 + 2 + 3 groups of four; only tracklets of c, who has two, occur twice.
        assert 3 <= len(batches) <= 5
        plenty = [i for i in drawn if dataset[i].person != "c"]
        assert len(plenty) == len(set(plenty))


@pytest.mark.parametrize("sampler", [PersonSampler, TrackletSampler])
def test_too_few_people_is_an_error(sampler):
    with pytest.raises(ValueError, match="needs 3 people"):
        sampler(tracklets({"a": "A", "b": "A"}), 3, 1)
