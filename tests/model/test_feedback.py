import numpy as np
import pytest
from numpy.typing import NDArray

from model.feedback import REJECT_WEIGHT, combine_examples

NONE = np.empty((0, 3), np.float32)


def unit(*values: float) -> NDArray[np.float32]:
    vector = np.array(values, np.float32)
    return vector / np.float32(np.linalg.norm(vector))


def test_one_example_is_returned_bit_for_bit() -> None:
    example = unit(0.3, -0.2, 0.9)[None] * np.float32(1.0005)
    for combine in ("mean", "max"):
        np.testing.assert_array_equal(combine_examples(example, [None], NONE, combine), example)  # type: ignore[arg-type]


def test_the_mean_is_taken_per_camera_first() -> None:
    a, b, c = unit(1, 0, 0), unit(0.8, 0.6, 0), unit(0, 0, 1)
    found = combine_examples(np.stack([a, c, b]), ["door", None, "door"], NONE)
    door = (a + b) / np.linalg.norm(a + b)
    expected = (door + c) / np.linalg.norm(door + c)
    np.testing.assert_allclose(found, expected[None], atol=1e-6)


def test_max_keeps_each_example() -> None:
    examples = np.stack([unit(1, 0, 0), unit(0, 1, 0)])
    np.testing.assert_allclose(combine_examples(examples, ["a", "b"], NONE, "max"), examples, atol=1e-7)


@pytest.mark.parametrize("combine", ["mean", "max"])
def test_the_mean_of_rejected_examples_is_subtracted(combine: str) -> None:
    example, rejects = unit(1, 1, 0), np.stack([unit(0, 1, 0), unit(0, 0, 1)])
    (found,) = combine_examples(example[None], ["a"], rejects, combine)  # type: ignore[arg-type]
    expected = example - REJECT_WEIGHT * (rejects[0] + rejects[1]) / 2
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), atol=1e-6)


def test_examples_that_cancel_out_are_an_error() -> None:
    example = unit(1, 2, 3)
    with pytest.raises(ValueError, match="cancel out"):
        combine_examples(np.stack([example, -example]), ["a", "b"], NONE)
