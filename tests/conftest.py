"""What tests of several packages share."""

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real footage for tests, which is never committed: NOT3D_SHARED_DATA, else ``shared/data`` beside the checkout."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("NOT3D_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"needs real footage, which is not in the repository: no {folder} (set NOT3D_SHARED_DATA)")
    return folder
