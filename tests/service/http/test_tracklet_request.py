import numpy as np
import pytest

from model.space import EmbeddingSpace
from service.http.problems import Problem
from service.http.tracklet_request import check_embedding

SPACE = EmbeddingSpace("0123456789abcdef", 32, "a model")


@pytest.mark.parametrize("scale", [1.0, 1e-320, 1e-160, 1e160, 1e308])
def test_an_embedding_of_any_length_is_normalised(scale: float) -> None:
    values = np.random.default_rng(1).uniform(-1, 1, 32)
    values[0] = 1
    unit = check_embedding((values * scale).tolist(), None, SPACE)
    assert unit.dtype == np.float32
    atol = 0.02 if scale == 1e-320 else 1e-6  # so small, a float has few digits left
    np.testing.assert_allclose(unit, values / np.linalg.norm(values), atol=atol)


@pytest.mark.parametrize("values", [[0.0] * 32, [float("nan")] * 32, [float("inf")] * 32])
def test_embeddings_without_a_direction_are_refused(values: list[float]) -> None:
    with pytest.raises(Problem) as problem:
        check_embedding(values, None, SPACE)
    assert (problem.value.status, problem.value.errors[0].field) == (400, "embedding")


@pytest.mark.parametrize("components", [1, 31, 33])
def test_embeddings_of_another_length_are_of_another_space(components: int) -> None:
    with pytest.raises(Problem) as problem:
        check_embedding([1.0] * components, None, SPACE)
    assert (problem.value.status, problem.value.errors[0].field) == (409, "embedding")


def test_the_embedding_space_is_compared_before_the_length() -> None:
    with pytest.raises(Problem) as problem:
        check_embedding([1.0], "0" * 16, SPACE)
    assert (problem.value.status, problem.value.errors[0].field) == (409, "embedding_space")
    assert check_embedding([1.0] * 32, SPACE.name, SPACE).shape == (32,)
