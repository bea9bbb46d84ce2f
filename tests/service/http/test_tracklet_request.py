from pathlib import Path

import numpy as np
import pytest

from model.bundle import Bundle
from service.http.problems import Problem
from service.http.tracklet_request import check_embedding


@pytest.fixture
def loaded(bundle: Path) -> Bundle:
    return Bundle.load(bundle)


@pytest.mark.parametrize("scale", [1.0, 1e-320, 1e-160, 1e160, 1e308])
def test_an_embedding_of_any_length_is_normalised(loaded: Bundle, scale: float) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, 32)
    values[0] = 1
    unit = check_embedding((values * scale).tolist(), None, loaded)
    assert unit.dtype == np.float32
    atol = 0.02 if scale == 1e-320 else 1e-6  # so small, a float has few digits left
    np.testing.assert_allclose(unit, values / np.linalg.norm(values), atol=atol)


@pytest.mark.parametrize("values", [[1.0] * 31, [1.0] * 33, [0.0] * 32, [float("nan")] * 32, [float("inf")] * 32])
def test_embeddings_without_a_direction_in_this_space_are_refused(loaded: Bundle, values: list[float]) -> None:
    with pytest.raises(Problem) as problem:
        check_embedding(values, None, loaded)
    assert (problem.value.status, problem.value.errors[0].field) == (400, "embedding")


def test_the_embedding_space_is_compared_before_the_length(loaded: Bundle) -> None:
    with pytest.raises(Problem) as problem:
        check_embedding([1.0], "0" * 16, loaded)
    assert problem.value.status == 409
    assert check_embedding([1.0] * 32, loaded.embedding_space, loaded).shape == (32,)
