import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from model.frames import FrameError, read_frame
from training.batches.clips import UNLABELLED, ClipSource, FrameCache
from training.datasets.catalog import read_training
from training.datasets.tracklet import Tracklet
from training.loop.teacher import TeacherTargets
from training.recipe import find_recipe, load_recipe

RECIPE = load_recipe(
    find_recipe("light"), {"batch.people": "4", "resolutions": "[]", "network.frame_height": "64", "seed": "5"}
)


@pytest.fixture(scope="module")
def tracklets(data):
    return read_training([data])


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("clips", "labels", "erased"))


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_continue_from_any_step(tracklets, workers):
    source = ClipSource(tracklets, RECIPE)
    full = list(source.batches(1, 0, 3))
    assert len(full) == sum(len(source.plan(epoch)) for epoch in (1, 2, 3)) == 9
    rest = list(ClipSource(tracklets, RECIPE, workers=workers).batches(2, 1, 3))
    assert len(rest) == 5
    assert all(same(a, b) for a, b in zip(full[4:], rest, strict=True))
    assert not same(full[0], full[3])


@pytest.mark.parametrize("steps", [2, 7])
def test_an_epoch_has_as_many_batches_as_the_recipe_says(tracklets, steps):
    recipe = RECIPE.model_copy(update={"schedule": RECIPE.schedule.model_copy(update={"steps": steps})})
    plan = ClipSource(tracklets, recipe).plan(1)
    assert len(plan) == steps
    assert plan[:2] == ClipSource(tracklets, RECIPE).plan(1)[:2]
    assert all(len(batch) == len(plan[0]) for batch in plan)


def test_sample_is_the_start_of_the_first_batch(tracklets):
    first = next(ClipSource(tracklets, RECIPE).batches(2, 0, 2))
    sample = ClipSource(tracklets, RECIPE).sample(2, 3)
    assert torch.equal(sample.clips, first.clips[:3])
    assert torch.equal(sample.labels, first.labels[:3])
    assert len(ClipSource(tracklets, RECIPE, part=1, parts=2).sample(2, 100).clips) == 4


def test_seed_of_the_batches_draws_anew_and_leaves_the_seed_of_the_recipe(tracklets):
    batches = RECIPE.batch.model_copy(update={"seed": 9})
    other = ClipSource(tracklets, RECIPE.model_copy(update={"batch": batches}))
    assert not same(next(other.batches(1, 0, 1)), next(ClipSource(tracklets, RECIPE).batches(1, 0, 1)))
    alike = ClipSource(tracklets, RECIPE.model_copy(update={"seed": 9}))
    assert same(next(other.batches(1, 0, 1)), next(alike.batches(1, 0, 1)))


def test_composites_come_after_the_people_and_have_no_label(tracklets, pictures):
    composites = tuple(Tracklet("", "", (path,), f"composite-{path.stem}") for path in pictures)
    angles = np.linspace(0, 1, len(tracklets) + len(composites))
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    targets = tuple(
        np.repeat(own[None], len(each.frames), axis=0)
        for own, each in zip(directions, (*tracklets, *composites), strict=True)
    )
    batches = RECIPE.batch.model_copy(update={"composites": 3})
    recipe = RECIPE.model_copy(update={"batch": batches})
    source = ClipSource(tracklets, recipe, teacher=TeacherTargets(targets, {}, composites))
    assert [batch[:-3] for batch in source.plan(1)] == ClipSource(tracklets, RECIPE).plan(1)
    batch = next(source.batches(1, 0, 1))
    assert batch.labels[-3:].tolist() == [UNLABELLED] * 3
    assert (batch.labels[:-3] >= 0).all()
    drawn = source.plan(1)[0]
    assert all(index >= len(tracklets) for index in drawn[-3:])
    np.testing.assert_allclose(batch.teacher, directions[drawn], atol=1e-6)
    assert source.people_digest() == ClipSource(tracklets, RECIPE).people_digest()
    with pytest.raises(ValueError, match=r"set teacher\.composites"):
        ClipSource(tracklets, recipe)


def test_parts_together_are_the_batch_of_one_process(tracklets):
    full = next(ClipSource(tracklets, RECIPE).batches(1, 0, 1))
    parts = [next(ClipSource(tracklets, RECIPE, part=part, parts=2).batches(1, 0, 1)) for part in (0, 1)]
    for name in ("clips", "labels", "erased"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(full, name))
    with pytest.raises(ValueError, match="8 clips cannot be divided among 3 processes"):
        ClipSource(tracklets, RECIPE, parts=3)


def test_batches_of_the_next_epoch_are_made_during_the_current_one(tracklets, monkeypatch):
    made, make = [], ClipSource._make

    def watched(self, epoch, number, indices):
        made.append((epoch, number))
        return make(self, epoch, number, indices)

    monkeypatch.setattr(ClipSource, "_make", watched)
    batches = ClipSource(tracklets, RECIPE, workers=2).batches(1, 0, 3)
    next(batches)
    deadline = time.monotonic() + 60
    while not any(epoch == 2 for epoch, _ in made) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert any(epoch == 2 for epoch, _ in made)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("clips")]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).integers(0, 255, (64, 32, 3), dtype=np.uint8)
        assert cv2.imwrite(str(path), noise)
    return paths


def test_cached_frames_are_the_decoded_frames_and_are_read_once(pictures: list[Path]) -> None:
    cache = FrameCache(10**6)
    wanted = [read_frame(path.read_bytes(), 32, 16) for path in pictures]
    first = [cache.read(path, 32, 16) for path in pictures]
    for path in pictures:
        path.unlink()
    again = [cache.read(path, 32, 16) for path in pictures]
    assert all(np.array_equal(a, b) for a, b in zip(wanted, first, strict=True))
    assert all(a is b for a, b in zip(first, again, strict=True))
    assert cache.used == 3 * 32 * 16 * 3
    with pytest.raises(ValueError, match="read-only"):
        again[0][0] = 0


def test_full_cache_accepts_no_more_frames_and_another_size_empties_it(pictures: list[Path]) -> None:
    each = 32 * 16 * 3
    cache = FrameCache(2 * each + 1)
    frames = [cache.read(path, 32, 16) for path in pictures]
    assert cache.used == 2 * each
    assert cache.read(pictures[0], 32, 16) is frames[0]
    assert cache.read(pictures[2], 32, 16) is not frames[2]
    assert cache.read(pictures[0], 16, 8).shape == (16, 8, 3)
    assert cache.used == 16 * 8 * 3


def test_file_that_is_not_an_image_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_bytes(b"no")
    with pytest.raises(FrameError):
        FrameCache(10**6).read(tmp_path / "no.jpg", 8, 8)
