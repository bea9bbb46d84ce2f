"""Fixtures for the tests of several packages."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

# A shell ignores Ctrl-C for its background processes, and the programs that the tests interrupt inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real footage for tests, never committed: `NOT3D_SHARED_DATA`, otherwise `shared/data` next to the checkout."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("NOT3D_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"needs real footage, which is not in the repository: no {folder} (set NOT3D_SHARED_DATA)")
    return folder
