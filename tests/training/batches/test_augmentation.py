import numpy as np
import pytest

from training.batches.augmentation import Augmentation

OFF = Augmentation(flip=0, pad=0, erase=0, colour=0)
FILL = np.array([124, 116, 104], np.uint8)


@pytest.fixture
def clip(rng):
    return rng.integers(1, 255, (4, 64, 32, 3), dtype=np.uint8)


def test_nothing_changes_if_all_is_off(rng, clip):
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


def test_exactly_the_erased_frames_are_labelled(rng, clip):
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


def test_same_random_stream_gives_the_same_clip(clip):
    draws = [Augmentation(colour=0.2).apply(clip, FILL, np.random.default_rng(3))[0] for _ in range(2)]
    np.testing.assert_array_equal(*draws)


def test_one_attempt_erases_as_few_frames_as_the_published_code(rng):
    """0.473 of the frames, measured, instead of 0.5, at 224x112."""
    clip = np.zeros((4, 224, 112, 3), np.uint8)
    once, many = (OFF.model_copy(update={"erase": 0.5, "erase_attempts": n}) for n in (1, 100))
    share = [np.mean([a.apply(clip, FILL, rng)[1].mean() for _ in range(1000)]) for a in (once, many)]
    assert 0.447 < share[0] < 0.499  # 4,000 frames: three standard deviations are 0.024
    assert 0.476 < share[1] < 0.524


def test_only_the_second_erasing_is_labelled(rng, clip):
    changed, labelled = [], []
    for _ in range(200):
        out, erased = OFF.model_copy(update={"erase": 0.5, "erase_twice": True}).apply(clip, FILL, rng)
        changed += [(a != b).any() for a, b in zip(out, clip, strict=True)]
        labelled += erased.tolist()
    changed, labelled = np.array(changed), np.array(labelled)
    assert changed[labelled].all()
    assert 0.43 < labelled.mean() < 0.57
    assert 0.40 < changed[~labelled].mean() < 0.60  # half of the frames without a label carry an erasing


def test_fill_is_the_mean_pixel_or_that_of_the_published_code():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    np.testing.assert_array_equal(Augmentation().fill(mean, std), [124, 116, 104])
    code = Augmentation(erase_fill="code").fill(mean, std)
    normalised = (code / 255 - mean) / std
    np.testing.assert_allclose(normalised, mean, atol=0.5 / 255 / 0.224)


def test_translation_resizes_the_padded_frame_or_crops_a_larger_one(rng):
    ramp = np.zeros((64, 32, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.linspace(40, 240, 64)[:, None], np.linspace(40, 240, 32)
    translated = OFF.model_copy(update={"crop": "translation", "pad": 10})
    outs = [translated.apply(ramp[None], FILL, rng)[0][0] for _ in range(200)]
    assert all(out.shape == ramp.shape and out.dtype == np.uint8 for out in outs)
    # Half of the frames are resized directly, with the padding as a black border.
    padded = np.pad(ramp, ((10, 10), (10, 10), (0, 0)))
    rows = np.clip((np.arange(64) + 0.5) * 84 / 64 - 0.5, 0, 83).round().astype(int)
    columns = np.clip((np.arange(32) + 0.5) * 52 / 32 - 0.5, 0, 51).round().astype(int)
    resized = padded[np.ix_(rows, columns)]
    plain = [np.abs(out.astype(int) - resized).mean() < 6 for out in outs]
    assert 65 < sum(plain) < 135
    crops = {out.tobytes() for out, is_plain in zip(outs, plain, strict=True) if not is_plain}
    assert len(crops) > 20  # of 9 x 5 places


def test_zoom_scales_height_and_width_about_the_centre_within_its_limit(rng):
    frame = np.zeros((1, 65, 33, 3), np.uint8)
    frame[:, 16:49, 8:25] = 255  # a box of 33 x 17 in the centre
    heights, widths = [], []
    for _ in range(60):
        out, _ = OFF.model_copy(update={"zoom": 0.25}).apply(frame, FILL, rng)
        rows, columns = (np.flatnonzero((out[0, :, :, 0] > 127).any(axis=axis)) for axis in (1, 0))
        assert abs(rows[0] + rows[-1] - 64) <= 1
        assert abs(columns[0] + columns[-1] - 32) <= 1
        heights.append(len(rows))
        widths.append(len(columns))
    assert 25 <= min(heights) < 29
    assert 38 < max(heights) <= 43
    assert 12 <= min(widths) < 15
    assert 19 < max(widths) <= 23
    assert abs(np.corrcoef(heights, widths)[0, 1]) < 0.5
