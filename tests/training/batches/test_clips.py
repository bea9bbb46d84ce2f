import threading
import time

import pytest
import torch

from training.batches.clips import ClipSource
from training.datasets.catalog import read_training
from training.recipe import find_recipe, load_recipe

RECIPE = load_recipe(
    find_recipe("bundled"), {"batch.people": "4", "resolutions": "[]", "network.frame_height": "64", "seed": "5"}
)


@pytest.fixture(scope="module")
def tracklets(data):
    return read_training([data])


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("clips", "labels", "erased"))


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_go_on_from_any_step(tracklets, workers):
    source = ClipSource(tracklets, RECIPE)
    whole = list(source.batches(1, 0, 3))
    assert len(whole) == sum(len(source.plan(epoch)) for epoch in (1, 2, 3)) == 9
    rest = list(ClipSource(tracklets, RECIPE, workers=workers).batches(2, 1, 3))
    assert len(rest) == 5
    assert all(same(a, b) for a, b in zip(whole[4:], rest, strict=True))
    assert not same(whole[0], whole[3])


def test_parts_are_the_whole_batch_divided(tracklets):
    whole = next(ClipSource(tracklets, RECIPE).batches(1, 0, 1))
    parts = [next(ClipSource(tracklets, RECIPE, part=part, parts=2).batches(1, 0, 1)) for part in (0, 1)]
    for name in ("clips", "labels", "erased"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    with pytest.raises(ValueError, match="8 clips cannot be divided among 3 processes"):
        ClipSource(tracklets, RECIPE, parts=3)


def test_batches_of_the_next_epoch_are_made_during_this_one(tracklets, monkeypatch):
    made, make = [], ClipSource._make

    def watched(self, epoch, number, indices):
        made.append((epoch, number))
        return make(self, epoch, number, indices)

    monkeypatch.setattr(ClipSource, "_make", watched)
    batches = ClipSource(tracklets, RECIPE, workers=2).batches(1, 0, 3)
    next(batches)
    deadline = time.monotonic() + 10
    while not any(epoch == 2 for epoch, _ in made) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert any(epoch == 2 for epoch, _ in made)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("clips")]
