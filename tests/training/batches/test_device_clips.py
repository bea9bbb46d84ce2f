from itertools import islice

import numpy as np
import pytest
import torch

from model.frames import read_frame
from tests.training.teachers import SIZE, write_teacher
from training.batches.clips import UNLABELLED
from training.batches.device_clips import DeviceClipSource
from training.datasets.folder import read_tracklets
from training.loop.live_teacher import LiveTeacher
from training.loop.teacher import TeacherSettings, teacher_targets
from training.recipe import find_recipe, load_recipe

PLAIN = {"flip": 0.0, "pad": 0, "erase": 0.0, "zoom": 0.0, "colour": 0.0, "camera": {}}
CPU = torch.device("cpu")


def recipe_of(**changes):
    values = {
        "network.frame_height": str(SIZE[0]),
        "network.frame_width": str(SIZE[1]),
        "batch.people": "4",
        "batch.tracklets": "2",
        "batch.composites": "6",
        "schedule.steps": "3",
        "schedule.epochs": "2",
    }
    return load_recipe(find_recipe("unseen-sites-live"), values | changes)


def without_augmentation(recipe):
    augmentation = recipe.augmentation.model_validate(PLAIN)
    return recipe.model_copy(update={"augmentation": augmentation})


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return write_teacher(tmp_path_factory.mktemp("teacher"))


@pytest.fixture(scope="module")
def tracklets(data):
    return read_tracklets(data)


def source_of(tracklets, recipe, teacher=None):
    live = None if teacher is None else LiveTeacher(teacher, recipe.teacher, CPU)
    return DeviceClipSource(tracklets, recipe, CPU, live)


def test_a_batch_without_augmentation_has_the_crops_and_labels_of_the_plan(tracklets, teacher):
    recipe = without_augmentation(recipe_of())
    source = source_of(tracklets, recipe, teacher)
    batch = next(source.batches(1, 0, 1))
    assert batch.clips.shape == (14, 1, *SIZE, 3)
    assert batch.labels[8:].tolist() == [UNLABELLED] * 6
    for clip, index, label in zip(batch.clips, source.plan(1)[0], batch.labels, strict=False):
        frames = [read_frame(path.read_bytes(), *SIZE) for path in tracklets[index].frames]
        nearest = min(np.abs(clip[0].numpy() - frame).max() for frame in frames)
        assert nearest < 0.01
        assert source.labels[tracklets[index].person] == label


def test_seed_epoch_and_step_decide_a_batch(tracklets, teacher):
    source = source_of(tracklets, recipe_of(), teacher)
    whole = list(source.batches(1, 0, 2))
    assert len(whole) == 6
    again = list(source_of(tracklets, recipe_of(), teacher).batches(1, 2, 2))
    for one, other in zip(whole[2:], again, strict=True):
        assert torch.equal(one.clips, other.clips)
        assert torch.equal(one.teacher, other.teacher)
    other_seed = next(source_of(tracklets, recipe_of(**{"batch.seed": "5"}), teacher).batches(1, 0, 1))
    assert not torch.equal(whole[0].clips, other_seed.clips)
    assert not torch.equal(whole[0].clips, whole[1].clips)


def test_a_live_teacher_sees_what_a_stored_one_saw(tracklets, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = TeacherSettings(live=True, crops=4, whiten=0.5, person_share=0.3)
    recipe = without_augmentation(recipe_of()).model_copy(update={"teacher": settings})
    source = source_of(tracklets, recipe, teacher)
    stored = teacher_targets(teacher, tracklets, settings, recipe.seed)
    batch = next(source.batches(1, 0, 1))
    for clip, target, index in zip(batch.clips, batch.teacher, source.plan(1)[0], strict=False):
        frames = [read_frame(path.read_bytes(), *SIZE) for path in tracklets[index].frames]
        number = int(np.argmin([np.abs(clip[0].numpy() - frame).max() for frame in frames]))
        assert float(target.numpy() @ stored.frames[index][number]) > 0.999
    for person, mean in stored.people.items():
        assert float(mean @ source.teacher.people[person]) > 0.999


def test_targets_of_mixtures_change_with_their_parts(tracklets, teacher):
    batches = list(islice(source_of(tracklets, recipe_of(), teacher).batches(1, 0, 1), 2))
    for batch in batches:
        lengths = batch.teacher.norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert not torch.equal(batches[0].teacher[8:], batches[1].teacher[8:])


def test_the_teacher_sees_geometry_only(tracklets, teacher):
    dark = recipe_of(**{"augmentation.camera.gamma": "1.0", "augmentation.erase": "1.0"})
    bright = recipe_of(**{"augmentation.camera.gamma": "0.0", "augmentation.erase": "0.0"})
    one, other = (next(source_of(tracklets, each, teacher).batches(1, 0, 1)) for each in (dark, bright))
    assert not torch.equal(one.clips, other.clips)
    assert torch.equal(one.teacher, other.teacher)


def test_a_sample_has_no_composites(tracklets, teacher):
    batch = source_of(tracklets, recipe_of(), teacher).sample(1, 3)
    assert len(batch.clips) == 3
    assert (batch.labels >= 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch.clip_length": "4"}, "batch.on_device needs batch.clip_length = 1"),
        ({"batch.on_device": "false"}, "teacher.live needs batch.on_device = true"),
        ({"teacher.live": "false"}, "set teacher.live = true"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(Exception, match=message):
        recipe_of(**changes)
