"""Fixtures of the tests of training."""

import pytest
import torch

from tests.bundles import make_bundle
from training.datasets.synthetic.dataset import write_synthetic


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Twelve synthetic people, seen by two cameras."""
    folder = tmp_path_factory.mktemp("people")
    write_synthetic(folder, people=12, cameras=2, frames=4, seed=3, size=(64, 32))
    return folder


@pytest.fixture
def one_thread():
    """Run on one thread, so that sums have one order and runs can be compared to the bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def mean_bundle(tmp_path_factory):
    """A bundle of a small linear network, which can be a teacher."""
    return make_bundle(tmp_path_factory.mktemp("teacher") / "bundle", dimension=16, clip_length=1, frame_size=(64, 32))
