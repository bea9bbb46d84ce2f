import cv2
import numpy as np
import pytest
import torch

from training.batches.augmentation import Augmentation
from training.batches.device_augmentation import DeviceAugmentation, Mixture, Recolouring, compress, place
from training.batches.photometric import Photometric

SIZE = (48, 24)
NONE = {"flip": 0.0, "pad": 0, "erase": 0.0}


@pytest.fixture
def crops(rng):
    """Smooth crops `[16, 3, H, W]`, as pictures are."""
    noise = rng.integers(0, 256, (16, *SIZE, 3), dtype=np.uint8)
    smooth = np.stack([cv2.GaussianBlur(each, (0, 0), 3) for each in noise])
    stretched = cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)
    return torch.from_numpy(np.asarray(stretched)).permute(0, 3, 1, 2).float()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


def placed(crops, generator, **settings):
    augmentation = DeviceAugmentation(Augmentation(**(NONE | settings)))
    return place(crops, augmentation.geometry(len(crops), SIZE, generator), SIZE)


def test_without_geometry_crops_do_not_change(crops, generator):
    torch.testing.assert_close(placed(crops, generator), crops, atol=1e-3, rtol=0)


def test_flip_mirrors(crops, generator):
    torch.testing.assert_close(placed(crops, generator, flip=1.0), crops.flip(3), atol=1e-3, rtol=0)


def test_shift_moves_by_whole_pixels_and_leaves_black(crops, generator):
    moved = placed(crops + 1, generator, pad=5)  # nothing else is black
    shifts = []
    for new, old in zip(moved, crops + 1, strict=True):
        inside = (new > 0).all(dim=0)
        rows, columns = inside.any(dim=1).nonzero()[:, 0], inside.any(dim=0).nonzero()[:, 0]
        top, left = int(rows[0]), int(columns[0])
        down = top or int(rows[-1]) - SIZE[0] + 1
        right = left or int(columns[-1]) - SIZE[1] + 1
        shifts.append((down, right))
        expected = torch.roll(old, (down, right), (1, 2)) * inside
        torch.testing.assert_close(new, expected, atol=2e-3, rtol=0)
    assert len(set(shifts)) > 8
    assert all(abs(side) <= 5 for shift in shifts for side in shift)


def test_zoom_changes_height_and_width_by_their_own_factors(generator):
    augmentation = DeviceAugmentation(Augmentation(**(NONE | {"zoom": 0.25})))
    maps = augmentation.geometry(1000, SIZE, generator)
    wide, tall = maps[:, 0, 0], maps[:, 1, 1]
    for factor in (wide, tall):
        assert 1 / 1.25 <= factor.min() < 0.82
        assert 1.22 < factor.max() <= 1.25
    assert abs(np.corrcoef(wide, tall)[0, 1]) < 0.1


def test_a_smaller_crop_repeats_its_border(crops):
    half = torch.tensor([[[2.0, 0, 0], [0, 2.0, 0]]]).repeat(len(crops), 1, 1)
    small = place(crops, half, SIZE)
    torch.testing.assert_close(small[:, :, 0, 0], crops[:, :, 0, 0], atol=1e-3, rtol=0)
    assert (small > 0).float().mean() > 0.9


@pytest.mark.parametrize("quality", [20, 40, 60, 80, 95])
def test_compression_gives_what_opencv_gives(crops, quality):
    found = compress(crops, torch.full((len(crops),), float(quality)))
    for ours, original in zip(found, crops, strict=True):
        picture = original.permute(1, 2, 0).numpy().astype(np.uint8)[..., ::-1]
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        expected = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32)
        loss = np.abs(expected - picture[..., ::-1].astype(np.float32)).mean()
        assert np.abs(ours.permute(1, 2, 0).numpy() - expected).mean() < max(1.5, 0.4 * loss)


def test_a_share_of_the_batch_is_changed(crops, generator, rng):
    camera = Photometric(noise=0.25)
    changed = DeviceAugmentation(Augmentation(camera=camera, **NONE)).photometry(crops, generator, rng)
    assert ((changed - crops).abs().amax(dim=(1, 2, 3)) > 0).sum() == 4


def test_a_share_of_less_than_one_crop_is_right_on_average(crops, generator, rng):
    augmentation = DeviceAugmentation(Augmentation(camera=Photometric(noise=0.05), **NONE))
    few = crops[:4]
    changed = [((augmentation.photometry(few, generator, rng) - few).abs().amax() > 0).item() for _ in range(300)]
    assert 0.12 < np.mean(changed) < 0.28


def test_resolutions_are_drawn_from_the_whole_range(crops, generator, rng):
    augmentation = DeviceAugmentation(Augmentation(camera=Photometric(low_resolution=1.0), **NONE))
    detail = lambda each: (each[:, :, 1:] - each[:, :, :-1]).abs().mean().item()  # noqa: E731
    kept = [detail(augmentation.photometry(crops[:1], generator, rng)[0]) / detail(crops[0]) for _ in range(60)]
    assert max(kept) > 1.1 * min(kept)
    assert len({round(each, 3) for each in kept}) > 10


@pytest.mark.parametrize(
    "camera",
    [
        {"gamma": 0.5},
        {"saturation": 0.5},
        {"grey": 1.0},
        {"blur": 1.0, "blur_sigma": (2.0, 4.0)},
        {"low_resolution": 1.0},
        {"jpeg": 1.0},
        {"noise": 1.0},
    ],
)
def test_each_camera_change_changes_crops_and_keeps_their_range(crops, generator, rng, camera):
    augmentation = DeviceAugmentation(Augmentation(camera=Photometric(**camera), **NONE))
    changed = augmentation.photometry(crops, generator, rng)
    assert ((changed - crops).abs().amax(dim=(1, 2, 3)) > 0.5).float().mean() > 0.8
    assert changed.shape == crops.shape
    assert changed.min() >= 0
    assert changed.max() <= 255.001
    if "grey" in camera:
        assert (changed.amax(dim=1) - changed.amin(dim=1)).max() < 1e-2
    if {"blur", "low_resolution"} & set(camera):
        sharpness = [(each[:, :, 1:] - each[:, :, :-1]).abs().mean() for each in (changed, crops)]
        assert sharpness[0] < sharpness[1]


def test_colour_jitter_is_one_gain_and_one_contrast_for_a_crop(crops, generator, rng):
    bright = crops / 2 + 32  # no value is clipped
    changed = DeviceAugmentation(Augmentation(colour=0.2, **NONE)).photometry(bright, generator, rng)
    for new, old in zip(changed, bright, strict=True):
        for channel in range(3):
            slope, offset = np.polyfit(old[channel].flatten(), new[channel].flatten(), 1)
            torch.testing.assert_close(new[channel], slope * old[channel] + offset, atol=0.05, rtol=0)
            assert 0.6 < slope < 1.5


def test_erased_rectangles_have_the_colour_and_area_of_the_recipe(crops, generator):
    fill = torch.tensor([10.0, 20.0, 30.0])
    augmentation = DeviceAugmentation(Augmentation(**(NONE | {"erase": 0.5, "erase_area": (0.1, 0.3)})))
    many = crops.repeat(20, 1, 1, 1) + 40
    erased, which = augmentation.erase(many, fill, generator)
    assert 0.4 < which.float().mean() < 0.6
    inside = (erased == fill[:, None, None]).all(dim=1)
    assert torch.equal(inside.any(dim=(1, 2)), which)
    area = inside[which].float().mean(dim=(1, 2))
    assert area.min() > 0.06
    assert area.max() < 0.36
    torch.testing.assert_close(erased[~which], many[~which])
    shape = inside[which]
    filled = shape.any(dim=1)[:, None, :] & shape.any(dim=2)[:, :, None]
    assert torch.equal(filled, shape), "a rectangle"


def test_recolouring_keeps_grey_grey(generator):
    grey = torch.rand(64, 1, 8, 8, generator=generator).expand(-1, 3, -1, -1) * 255
    changed = Recolouring.draw(64, generator).apply(grey)
    assert (changed.amax(dim=1) - changed.amin(dim=1)).max() < 0.05
    red = torch.zeros(64, 3, 1, 1)
    red[:, 0] = 200
    hues = Recolouring.draw(64, generator).apply(red)[:, :, 0, 0].argmax(dim=1)
    assert set(hues.tolist()) == {0, 1, 2}


def test_mixtures_are_the_same_at_each_size(crops, generator):
    mixture = Mixture.draw(8, generator)
    first, second = crops[:8], crops[8:]
    large = mixture.apply(*(torch.nn.functional.interpolate(each, scale_factor=2) for each in (first, second)))
    small = mixture.apply(first, second)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(large, 2), small, atol=12, rtol=0)
    rows = mixture.weights(100)
    parted, mixed = rows[::2], rows[1::2]
    assert (parted[:, 0] > 0.9).all()
    assert (parted[:, -1] < 0.1).all()
    assert (mixed.std(dim=1) < 1e-6).all()


@pytest.mark.parametrize("setting", [{"crop": "translation"}, {"erase_fill": "code"}, {"erase_twice": True}])
def test_settings_of_the_published_code_are_refused(setting):
    with pytest.raises(ValueError, match=f"augmentation.{next(iter(setting))}"):
        DeviceAugmentation(Augmentation(**setting))
