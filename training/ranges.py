"""Ranges of numbers in a recipe, from which a value is drawn."""

from typing import Annotated, TypeVar

from pydantic import AfterValidator

Number = TypeVar("Number", int, float)

LARGEST_SEED = 2**63 - 1
"""PyTorch takes no larger seed on all of its devices."""


def _check_order(bounds: tuple[Number, Number]) -> tuple[Number, Number]:
    low, high = bounds
    if low > high:
        raise ValueError(f"the first number must not be above the second (got {low:g} and {high:g})")
    return bounds


Ascending = Annotated[tuple[Number, Number], AfterValidator(_check_order)]
"""The lowest and the highest value."""
