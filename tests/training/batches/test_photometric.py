import numpy as np
import pytest

from training.batches.augmentation import Augmentation
from training.batches.photometric import Photometric


@pytest.fixture
def frame(rng):
    small = rng.integers(0, 256, (16, 8, 3), dtype=np.uint8)
    return np.ascontiguousarray(small.repeat(4, axis=0).repeat(4, axis=1))


def change(frame, rng, **settings):
    return Photometric(**settings).draw(frame.shape[:2], rng)(frame)


def test_nothing_changes_by_default(frame, rng):
    np.testing.assert_array_equal(change(frame, rng), frame)


def test_grey_leaves_three_equal_channels_of_the_same_brightness(frame, rng):
    grey = change(frame, rng, grey=1)
    assert (grey == grey[..., :1]).all()
    luma = frame @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[..., 0], luma, atol=1)


@pytest.mark.parametrize("settings", [{"blur": 1}, {"low_resolution": 1}])
def test_blur_and_low_resolution_take_away_detail(frame, rng, settings):
    detail = lambda image: np.abs(np.diff(image.astype(int), axis=0)).mean()  # noqa: E731
    noisy = rng.integers(0, 256, frame.shape, dtype=np.uint8)
    changed = [change(noisy, rng, **settings) for _ in range(20)]
    assert {image.shape for image in changed} == {frame.shape}
    assert np.mean([detail(image) for image in changed]) < 0.8 * detail(noisy)


def test_gamma_brightens_or_darkens_all_values_in_order(frame, rng):
    means = set()
    for _ in range(20):
        changed = change(frame, rng, gamma=0.5)
        order = np.argsort(frame.ravel(), kind="stable")
        assert (np.diff(changed.ravel()[order].astype(int)) >= 0).all()
        means.add(np.sign(changed.mean() - frame.mean()))
    assert means >= {-1.0, 1.0}


@pytest.mark.parametrize("settings", [{"jpeg": 1}, {"noise": 1}])
def test_jpeg_and_noise_stay_near_the_frame(frame, rng, settings):
    changed = change(frame, rng, **settings)
    difference = np.abs(changed.astype(int) - frame)
    assert 0 < difference.mean() < 40
    assert changed.dtype == np.uint8


def test_all_frames_of_a_clip_are_changed_alike(frame, rng):
    still = Augmentation(flip=0, pad=0, erase=0, camera=Photometric(gamma=0.9, saturation=0.9, noise=1, jpeg=1))
    out, _ = still.apply(np.stack([frame] * 3), np.zeros(3, np.uint8), rng)
    assert not np.array_equal(out[0], frame)
    np.testing.assert_array_equal(out[0], out[1])
    np.testing.assert_array_equal(out[0], out[2])


def test_erased_pixels_are_not_changed_by_the_camera(frame, rng):
    fill = np.array([1, 2, 3], np.uint8)
    erasing = Augmentation(flip=0, pad=0, erase=1, camera=Photometric(noise=1, grey=1))
    out, erased = erasing.apply(frame[None], fill, rng)
    assert erased.all()
    assert (out[0] == fill).all(axis=-1).sum() >= 0.02 * 64 * 32 * 0.9
