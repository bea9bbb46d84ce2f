"""Drawn people for benchmarks, which would otherwise draw many more of them at full size."""

from pathlib import Path

import pytest

from training.datasets.synthetic.dataset import write_synthetic


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tracklets of ten frames."""
    folder = tmp_path_factory.mktemp("people")
    write_synthetic(folder, people=2, cameras=1, frames=10, seed=1, size=(128, 64))
    return folder
