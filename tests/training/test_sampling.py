from pathlib import Path

import numpy as np
import pytest

from training.datasets.tracklet import Tracklet
from training.sampling import PersonSampler, consecutive_frames, restricted_random_frames


@pytest.mark.parametrize(
    ("frames", "ranges"),
    [
        (1, [(0, 0)] * 4),
        (3, [(0, 0), (1, 1), (2, 2), (2, 2)]),
        (5, [(0, 0), (1, 1), (2, 2), (3, 4)]),
        (9, [(0, 1), (2, 3), (4, 5), (6, 8)]),
    ],
)
def test_restricted_sampling_fills_exactly_the_published_ranges(rng, frames, ranges):
    drawn = np.stack([restricted_random_frames(frames, 4, rng) for _ in range(400)])
    assert [(int(column.min()), int(column.max())) for column in drawn.T] == ranges


def test_consecutive_sampling_reaches_both_ends_and_repeats_the_last(rng):
    drawn = np.stack([consecutive_frames(6, 4, rng) for _ in range(200)])
    assert (np.diff(drawn, axis=1) == 1).all()
    assert set(drawn[:, 0]) == {0, 1, 2}
    np.testing.assert_array_equal(consecutive_frames(2, 4, rng), [0, 1, 1, 1])


@pytest.mark.parametrize("draw", [restricted_random_frames, consecutive_frames])
def test_counts_below_one_are_errors(rng, draw):
    with pytest.raises(ValueError, match="at least 1"):
        draw(0, 4, rng)


def tracklets(cameras_of):
    return [
        Tracklet(person, camera, (Path("x.jpg"),), f"{person}{camera}{number}")
        for person, cameras in cameras_of.items()
        for number, camera in enumerate(cameras)
    ]


def test_every_person_is_seen_once_an_epoch(rng):
    dataset = tracklets({str(p): "AABC" for p in range(9)})
    batches = list(PersonSampler(dataset, 4, 2).batches(rng))
    assert [len(batch) for batch in batches] == [8, 8]
    persons = [dataset[i].person for batch in batches for i in batch[::2]]
    assert len(set(persons)) == 8
    for batch in batches:
        for first, second in zip(batch[::2], batch[1::2], strict=True):
            assert dataset[first].person == dataset[second].person
            assert dataset[first].camera != dataset[second].camera


def test_a_person_with_few_tracklets_is_drawn_with_replacement(rng):
    dataset = tracklets({"a": "A", "b": "AB"})
    (batch,) = PersonSampler(dataset, 2, 4).batches(rng)
    drawn = [dataset[i].name for i in batch]
    assert sorted(set(drawn)) == ["aA0", "bA0", "bB1"]
    assert len(drawn) == 8


def test_too_few_people_is_an_error():
    with pytest.raises(ValueError, match="needs 3 people"):
        PersonSampler(tracklets({"a": "A", "b": "A"}), 3, 1)
