import io

import numpy as np
import pytest

from model.frames import read_frame, resize_frame
from model.pillow_bicubic import resize_like_pillow
from model.spec import Preprocessing

PIL = pytest.importorskip("PIL")
Image = pytest.importorskip("PIL.Image")


def test_pixels_are_those_of_pillow(rng):
    sizes = [(128, 64, 224, 112), (256, 128, 224, 112), (160, 60, 224, 112), (37, 91, 224, 112), (224, 112, 224, 112),
             (224, 60, 224, 112), (500, 112, 224, 112), (300, 300, 224, 112), (1, 1, 8, 8), (1, 1, 1, 1), (1, 50, 9, 4),
             (50, 1, 9, 4), (224, 112, 1, 1), (41, 223, 32, 205), (16, 12, 7, 7)]  # fmt: skip
    sizes += [tuple(side) for side in np.exp(rng.uniform(0, np.log(200), (30, 4))).astype(int).tolist()]
    # The height loses twice as many pixels as the width, one more and one less.
    tall = [(120, 80, 100, 70), (121, 80, 100, 70), (119, 80, 100, 70), (1080, 420, 256, 128), (700, 150, 224, 112)]
    earlier = int(PIL.__version__.split(".")[0]) < 13  # always begins with the rows
    for height, width, to_height, to_width in [*sizes, *tall]:
        if earlier and height > to_height and height - to_height > 2 * (width - to_width):
            continue
        smooth = np.add.outer(np.linspace(0, 200, height), np.linspace(0, 55, width))[..., None] + [0, 10, -20]
        noise = rng.integers(0, 256, (height, width, 3))
        edges = np.where(rng.random((height, width, 1)) < 0.5, 0, 255) + np.zeros(3)
        for frame in (smooth, noise, edges):
            pixels = np.clip(frame, 0, 255).astype(np.uint8)[:, ::-1]  # not contiguous
            expected = np.asarray(Image.fromarray(pixels).resize((to_width, to_height), Image.Resampling.BICUBIC))
            got = resize_like_pillow(pixels, to_height, to_width)
            assert got.shape == (to_height, to_width, 3)
            assert got.dtype == np.uint8
            assert got.flags.c_contiguous
            assert np.abs(got.astype(int) - expected).max() <= 1, (height, width, to_height, to_width)
            assert (got != expected).mean() < 1e-3


def test_a_file_gives_the_frame_that_pillow_gives(rng):
    picture = Image.fromarray(rng.integers(0, 256, (500, 250, 3)).astype(np.uint8))
    for kind in ("JPEG", "PNG"):
        file = io.BytesIO()
        picture.save(file, kind)
        expected = np.asarray(Image.open(file).convert("RGB").resize((112, 224), Image.Resampling.BICUBIC)).astype(int)
        frame = read_frame(file.getvalue(), 224, 112, resampling="pil-bicubic")
        assert np.abs(frame - expected).max() <= 1, kind
        # The usual pixels are others, and a JPEG is then decoded at half its size.
        assert np.abs(read_frame(file.getvalue(), 224, 112) - expected).max() > 4, kind
    pixels = np.asarray(picture)
    np.testing.assert_array_equal(resize_frame(pixels, 224, 112, "pil-bicubic"), resize_like_pillow(pixels, 224, 112))


def test_only_another_resampling_is_written_so_that_embedding_spaces_keep_their_names():
    usual = Preprocessing(version="2", mean=(0, 0, 0), std=(1, 1, 1))
    assert "resampling" not in usual.model_dump(mode="json")
    pillow = Preprocessing(version="2", resampling="pil-bicubic", mean=(0, 0, 0), std=(1, 1, 1))
    assert pillow.model_dump(mode="json")["resampling"] == "pil-bicubic"
    assert Preprocessing.model_validate_json(pillow.model_dump_json()) == pillow
    assert Preprocessing.model_validate_json(usual.model_dump_json()) == usual
