import numpy as np
import pytest

from training.augmentation import Augmentation

OFF = Augmentation(flip=0, pad=0, erase=0, colour=0)
FILL = np.array([124, 116, 104], np.uint8)


@pytest.fixture
def clip(rng):
    return rng.integers(1, 255, (4, 64, 32, 3), dtype=np.uint8)


def test_nothing_is_changed_when_all_is_off(rng, clip):
    out, erased = OFF.apply(clip, FILL, rng)
    np.testing.assert_array_equal(out, clip)
    assert not erased.any()


def test_flip_is_drawn_for_each_frame(rng, clip):
    flipped = 0
    for _ in range(50):
        out, _ = OFF.model_copy(update={"flip": 0.5}).apply(clip, FILL, rng)
        for frame, original in zip(out, clip, strict=True):
            mirrored = np.array_equal(frame, original[:, ::-1])
            assert mirrored or np.array_equal(frame, original)
            flipped += mirrored
    assert 70 < flipped < 130  # of 200; five standard deviations are 35


def test_crops_shift_by_at_most_the_padding_and_fill_with_zero(rng, clip):
    seen = set()
    for _ in range(60):
        out, _ = OFF.model_copy(update={"pad": 2}).apply(clip[:1], FILL, rng)
        shifts = [
            (dy, dx)
            for dy in range(-2, 3)
            for dx in range(-2, 3)
            if np.array_equal(out[0], np.pad(clip[0], ((2, 2), (2, 2), (0, 0)))[2 - dy : 66 - dy, 2 - dx : 34 - dx])
        ]
        assert len(shifts) == 1
        seen.add(shifts[0])
    assert len(seen) > 15


def test_erased_frames_are_labelled_and_only_they(rng, clip):
    share = []
    for _ in range(100):
        out, erased = OFF.model_copy(update={"erase": 0.5}).apply(clip, FILL, rng)
        for frame, original, label in zip(out, clip, erased, strict=True):
            changed = (frame != original).any(axis=2)
            assert changed.any() == label
            if label:
                assert (frame[changed] == FILL).all()
                rows, columns = np.where(changed)
                box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1) / changed.size
                assert 0.01 < box < 0.45
        share.append(erased.mean())
    assert 0.38 < np.mean(share) < 0.62


def test_colour_is_the_same_for_all_frames_of_a_clip(rng):
    grey = np.full((4, 8, 8, 3), 100, np.uint8)
    out, _ = OFF.model_copy(update={"colour": 0.3}).apply(grey, FILL, rng)
    assert len(np.unique(out.reshape(-1, 3), axis=0)) == 1
    assert (out != grey).any()


def test_the_same_stream_gives_the_same_clip(clip):
    draws = [Augmentation(colour=0.2).apply(clip, FILL, np.random.default_rng(3))[0] for _ in range(2)]
    np.testing.assert_array_equal(*draws)
