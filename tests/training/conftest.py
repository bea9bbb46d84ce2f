"""Fixtures of the tests of training."""

import pytest
import torch

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
