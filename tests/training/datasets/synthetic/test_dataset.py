"""The synthetic dataset is deterministic, can be read, and its people are recognisable."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from training.datasets.folder import read_tracklets
from training.datasets.synthetic.dataset import draw_person, write_synthetic
from training.datasets.synthetic.scene import draw_camera
from training.datasets.synthetic.walker import View, draw_walker


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jpg"))}


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_synthetic(tmp_path / name, people=2, cameras=2, frames=3, seed=5)
    first = files_below(tmp_path / "a")
    assert first == files_below(tmp_path / "b")
    assert len(set(first.values())) == 2 * 2 * 3


def test_another_seed_gives_other_people(tmp_path: Path) -> None:
    for seed in (5, 6):
        write_synthetic(tmp_path / str(seed), people=1, cameras=1, frames=2, seed=seed)
    assert not set(files_below(tmp_path / "5").values()) & set(files_below(tmp_path / "6").values())


def test_more_people_and_cameras_do_not_change_the_others(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "few", people=1, cameras=1, frames=2, seed=5)
    write_synthetic(tmp_path / "more", people=2, cameras=2, frames=2, seed=5)
    assert files_below(tmp_path / "few").items() <= files_below(tmp_path / "more").items()


def test_written_tracklets_are_read_back(tmp_path: Path) -> None:
    written = write_synthetic(tmp_path, people=2, cameras=3, frames=2, seed=1, size=(96, 48))
    assert read_tracklets(tmp_path) == written
    assert [(t.person, t.camera) for t in written[:3]] == [("0001", "c1"), ("0001", "c2"), ("0001", "c3")]
    image = cv2.imread(str(written[0].frames[0]))
    assert image is not None
    assert image.shape == (96, 48, 3)


def draw(seed: int, yaw: float, phase: float = 0.5) -> NDArray[np.float32]:
    canvas = np.full((128, 64, 3), 0.6, dtype=np.float32)
    person = draw_person(np.random.default_rng(seed))
    draw_walker(canvas, person, View(yaw, 0.1, 112.0, (32.0, 122.0), 0.0, 0.0), phase)
    return canvas


def test_walker_is_upright_inside_the_frame_and_moves() -> None:
    drawn = np.abs(draw(1, 0.3) - 0.6).max(axis=2) > 0.02
    rows, columns = np.flatnonzero(drawn.any(axis=1)), np.flatnonzero(drawn.any(axis=0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    assert 90 <= height <= 124
    assert 0.2 < width / height < 0.6
    step = np.abs(draw(1, 0.3, 0.5) - draw(1, 0.3, 2.0)).max(axis=2) > 0.05
    # The legs move more than head and shoulders.
    assert step[70:].sum() > 2 * step[:40].sum()


def test_front_and_back_are_different() -> None:
    assert float(np.abs(draw(3, 0.0) - draw(3, np.pi)).mean()) > 0.003


def test_cameras_shift_colours(tmp_path: Path) -> None:
    """The mean colour of a person differs between cameras about as much as between people."""
    tracklets = write_synthetic(tmp_path, people=6, cameras=3, frames=2, seed=11, size=(128, 64))
    means: dict[tuple[str, str], NDArray[np.float64]] = {}
    for t in tracklets:
        image = cv2.imread(str(t.frames[0]))
        assert image is not None
        means[t.person, t.camera] = image[30:90, 20:44].reshape(-1, 3).mean(axis=0)
    nearest_is_right = 0
    for (person, camera), mean in means.items():
        others = [(float(np.linalg.norm(mean - other)), p) for (p, c), other in means.items() if c != camera]
        nearest_is_right += min(others)[1] == person
    assert nearest_is_right < 0.8 * len(means)


@pytest.mark.parametrize("index", range(6))
def test_each_camera_has_a_background_wider_than_the_frame(index: int) -> None:
    camera = draw_camera(np.random.default_rng(index), index, 64, 32)
    assert camera.background.shape == (64, 256, 3)
    assert camera.background.min() >= 0
    assert camera.background.max() <= 1
    assert camera.background.std() > 0.02
