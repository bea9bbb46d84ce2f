"""Which clips of a tracklet are embedded."""

from collections import Counter

import cv2
import numpy as np
import pytest

from training.datasets.tracklet import Tracklet
from training.evaluation.embed import FeatureError, embed_tracklets, random_clips, read_clips


def test_random_clips_do_not_overlap_and_each_arrangement_is_equally_likely(rng):
    drawn = Counter()
    for _ in range(3000):
        clips = random_clips(7, 2, 2, rng)
        assert clips.shape == (2, 2)
        assert (np.diff(clips, axis=1) == 1).all()
        drawn[tuple(clips[:, 0].tolist())] += 1
    # Two clips of two frames fit into seven frames in ten ways.
    assert set(drawn) == {(i, j) for i in range(4) for j in range(i + 2, 6)}
    assert min(drawn.values()) > 230
    assert max(drawn.values()) < 370


def test_short_tracklets_give_the_random_clips_that_fit(rng):
    assert random_clips(11, 4, 4, rng).shape == (2, 4)
    assert random_clips(8, 4, 4, rng).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert random_clips(3, 4, 4, rng).tolist() == [[0, 1, 2, 0]]
    with pytest.raises(ValueError, match="at least 1"):
        random_clips(8, 4, 0, rng)


def test_random_clips_depend_on_the_seed_and_the_tracklet_only(tmp_path):
    def tracklet(name):
        paths = []
        for index in range(40):
            path = tmp_path / f"{name}-{index:02d}.png"
            cv2.imwrite(str(path), np.full((32, 16, 3), 6 * index, np.uint8))
            paths.append(path)
        return Tracklet("p", "c", tuple(paths), name)

    def read(tracklet, seed):
        clips = read_clips(
            tracklet, frame_size=(32, 16), clip_length=4, max_clips=2, clip_choice="random", clip_seed=seed
        )
        return (clips[:, :, 0, 0, 0] // 6).tolist()

    one, other = tracklet("one"), tracklet("other")
    first = read(one, 1)
    assert read(other, 1) != first
    assert read(one, 2) != first
    assert read(one, 1) == first
    assert all(clip == list(range(clip[0], clip[0] + 4)) for clip in first)


def test_feature_that_is_not_finite_is_an_error(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((32, 16, 3), np.uint8))
    tracklet = Tracklet("p", "c", (tmp_path / "1.png",), "t")
    with pytest.raises(FeatureError, match=f"feature of {tmp_path} is not finite"):
        embed_tracklets(
            lambda clips: np.full((len(clips), 4), np.nan, np.float32),
            [tracklet],
            frame_size=(32, 16),
            clip_length=2,
            clip_weights="equal",
        )
