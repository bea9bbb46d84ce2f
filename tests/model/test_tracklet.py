import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.tracklet import choose_frames, mean_embedding, normalise, split_into_clips, video_feature, weigh_clips


@pytest.mark.parametrize(
    ("frames", "clips"),
    [
        (1, [[0, 0, 0, 0]]),
        (2, [[0, 1, 0, 1]]),
        (4, [[0, 1, 2, 3]]),
        (5, [[0, 1, 2, 3], [4, 4, 4, 4]]),
        (6, [[0, 1, 2, 3], [4, 5, 4, 5]]),
        (7, [[0, 1, 2, 3], [4, 5, 6, 4]]),
    ],
)
def test_consecutive_clips_with_a_cyclic_end(frames, clips):
    np.testing.assert_array_equal(split_into_clips(frames, 4), clips)


@given(st.integers(1, 400), st.integers(1, 9))
def test_all_frames_are_used_once_except_for_repeated_ones(frames, length):
    clips = split_into_clips(frames, length)
    assert clips.dtype == np.int64
    assert clips.shape == (-(-frames // length), length)
    np.testing.assert_array_equal(clips.reshape(-1)[:frames], np.arange(frames))
    assert clips.max() == frames - 1


@given(st.integers(1, 400), st.integers(1, 9), st.integers(1, 60))
def test_max_clips_keeps_evenly_spaced_clips(frames, length, limit):
    every, kept = split_into_clips(frames, length), split_into_clips(frames, length, limit)
    assert len(kept) == min(limit, len(every))
    starts = kept[:, 0] // length
    np.testing.assert_array_equal(kept, every[starts])
    if len(kept) > 1:
        gaps = np.diff(starts)
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1


@pytest.mark.parametrize(
    ("frames", "limit", "starts"),
    [
        (5, 1, [0]),
        (12, 1, [4]),
        (16, 1, [4]),
        (17, 2, [4, 12]),
        (24, 2, [4, 16]),
        (22, 3, [0, 8, 16]),
        (40, 4, [4, 12, 24, 32]),
    ],
)
def test_middle_clips_of_equal_stretches_are_kept(frames, limit, starts):
    """One clip of 5 frames is the full clip, never the single remaining frame."""
    np.testing.assert_array_equal(split_into_clips(frames, 4, limit)[:, 0], starts)


@given(st.integers(1, 400), st.integers(1, 9), st.integers(1, 60))
def test_short_last_clip_is_kept_only_if_few_clips_are_left_out(frames, length, limit):
    clips = -(-frames // length)
    if clips >= 2 * limit:
        assert len(choose_frames(frames, length, limit)) == limit * length


@pytest.mark.parametrize("arguments", [(0, 4), (4, 0), (4, 4, 0), (-1, 4)])
def test_counts_below_one_are_errors(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        split_into_clips(*arguments)


def test_video_feature_is_the_unit_mean_of_unnormalised_clips():
    feature = video_feature([[3.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(feature, np.array([3.0, 1.0]) / np.sqrt(10), rtol=1e-6)
    assert feature.dtype == np.float32
    with pytest.raises(ValueError, match="clips, dimension"):
        video_feature(np.zeros((0, 4)))


@given(st.integers(1, 60), st.integers(1, 9))
def test_clips_weighted_by_frames_give_the_mean_over_frames(frames, length):
    indices = split_into_clips(frames, length)
    values = np.arange(frames, dtype=np.float64)[:, None] ** 2
    found = mean_embedding(values[indices].mean(axis=1), weigh_clips(indices, "frames"))
    # A short last clip repeats some frames more often than others, unless its length is a multiple of their number.
    if length % (frames % length or length) == 0:
        np.testing.assert_allclose(found, values.mean(axis=0), rtol=1e-5)
    assert weigh_clips(indices, "frames").sum() == frames
    assert weigh_clips(indices, "equal") is None


def test_one_clip_weighs_as_many_frames_as_it_has():
    indices = split_into_clips(5, 4)
    np.testing.assert_array_equal(weigh_clips(indices, "frames"), [4, 1])
    feature = video_feature([[1.0, 0.0], [0.0, 4.0]], weigh_clips(indices, "frames"))
    np.testing.assert_allclose(feature, np.array([1.0, 1.0]) / np.sqrt(2), rtol=1e-6)


def test_zero_vector_stays_zero():
    np.testing.assert_array_equal(normalise([[0.0, 0.0], [0.0, 2.0]]), [[0, 0], [0, 1]])


@given(st.integers(1, 400), st.integers(1, 9), st.integers(1, 60))
def test_splitting_the_chosen_frames_gives_the_chosen_clips(frames, length, most):
    chosen = choose_frames(frames, length, most)
    assert len(chosen) <= most * length
    np.testing.assert_array_equal(chosen[split_into_clips(len(chosen), length)], split_into_clips(frames, length, most))


def test_all_frames_are_chosen_by_default():
    np.testing.assert_array_equal(choose_frames(7, 4), range(7))
