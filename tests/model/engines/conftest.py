from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle import Bundle
from tests.bundles import make_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.load(make_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture
def damaged(tmp_path: Path) -> Bundle:
    """A bundle whose network no engine opens."""
    folder = make_bundle(tmp_path / "damaged")
    (folder / "model.onnx").write_bytes(b"no network")
    return Bundle.load(folder)


@pytest.fixture
def clips() -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (9, 4, 64, 32, 3), dtype=np.uint8)
