from pathlib import Path

import numpy as np
import pytest

from tests.training.export.test_export import SPEC
from training.datasets.synthetic.dataset import write_synthetic
from training.datasets.tracklet import DatasetError
from training.export.reference import draw_clips, read_dataset_clips


def test_clips_are_spread_over_the_dataset(tmp_path: Path) -> None:
    write_synthetic(tmp_path, people=6, cameras=1, frames=3, seed=2)

    few = read_dataset_clips(tmp_path, SPEC, limit=3)
    every = read_dataset_clips(tmp_path, SPEC, limit=50)

    assert few.shape == (3, *SPEC.clip_shape)
    assert every.shape == (6, *SPEC.clip_shape)
    np.testing.assert_array_equal(few[[0, -1]], every[[0, -1]])


def test_drawn_people_are_the_same_for_a_seed() -> None:
    np.testing.assert_array_equal(draw_clips(SPEC, people=2, seed=7), draw_clips(SPEC, people=2, seed=7))
    assert (draw_clips(SPEC, people=2, seed=7) != draw_clips(SPEC, people=2, seed=8)).any()


def test_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images found"):
        read_dataset_clips(tmp_path, SPEC, limit=3)
