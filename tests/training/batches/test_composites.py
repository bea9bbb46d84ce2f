from pathlib import Path

import cv2
import numpy as np
import pytest

from model.frames import read_frame
from training.batches.composites import HEIGHT, WIDTH, compose, make_composites, recolour
from training.datasets.folder import read_tracklets


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def plain(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), colour, np.uint8)


def test_upper_part_is_of_one_crop_and_lower_part_of_the_other(rng: np.random.Generator) -> None:
    white, black = plain((255, 255, 255)), plain((0, 0, 0))  # no recolouring changes them
    made = [compose(white, black, rng)[:, 0, 0] for _ in range(200)]
    halves = [each for each in made if each[-1] == 0]
    assert len(halves) == pytest.approx(150, abs=25)  # one in four is a whole crop
    assert all((each == 255).all() for each in made if each[-1] == 255)
    for column in halves:
        assert (np.diff(column.astype(int)) <= 0).all()
        border = int((column > 127).sum())
        assert 0.38 * HEIGHT < border < 0.64 * HEIGHT
        assert ((column > 12) & (column < 243)).sum() < 20


def test_colours_turn_and_shapes_stay(rng: np.random.Generator) -> None:
    crop = plain((200, 40, 40))
    crop[40:80, 20:40] = (20, 20, 20)
    hues = []
    for _ in range(200):
        changed = recolour(crop, rng)
        assert changed[:, :, :].reshape(-1, 3)[0].max() > changed[60, 30].max()  # the dark part stays darker
        hues.append(cv2.cvtColor(changed, cv2.COLOR_RGB2HSV_FULL)[0, 0, 0])
    kept = np.mean([min(hue, 256 - hue) < 4 for hue in np.array(hues, int)])
    assert kept == pytest.approx(0.5, abs=0.12)
    assert len(set(hues)) > 50


def test_same_seed_gives_the_same_files_which_are_used_again(data: Path) -> None:
    tracklets = read_tracklets(data)[:6]
    first = make_composites(tracklets, 5, seed=3)
    content = [each.frames[0].read_bytes() for each in first]
    assert len(set(content)) == 5
    assert read_frame(content[0], HEIGHT, WIDTH).shape == (HEIGHT, WIDTH, 3)
    assert {(each.person, each.camera) for each in first} == {("", "")}
    written = [each.frames[0].stat().st_mtime_ns for each in first]
    again = make_composites(tracklets, 7, seed=3)
    assert again[:5] == first
    assert [each.frames[0].stat().st_mtime_ns for each in again[:5]] == written
    for each in first:
        each.frames[0].unlink()
    assert [each.frames[0].read_bytes() for each in make_composites(tracklets, 5, seed=3)] == content
    other = [each.frames[0].read_bytes() for each in make_composites(tracklets, 5, seed=4)]
    assert not set(content) & set(other)
    assert make_composites(tracklets, 0, seed=3) == []
