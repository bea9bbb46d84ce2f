"""Combine several examples of one person, and of other people, into the vectors that a search compares."""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Combine: TypeAlias = Literal["mean", "max"]
"""How examples are combined: a record is compared with their mean, or with each of them, and its best score counts."""

REJECT_WEIGHT: Final = 0.3
"""Weight of the mean of the rejected examples. Measured on people set aside: docs/feedback.md."""
_MIN_LENGTH: Final = 1e-3
"""A combined vector that is shorter than this is mostly rounding errors of vectors that cancel out."""


def combine_examples(
    examples: NDArray[np.float32],
    cameras: Sequence[str | None],
    rejects: NDArray[np.float32],
    combine: Combine = "mean",
) -> NDArray[np.float32]:
    """Return the vectors `float32 [Q, D]` of unit length with which records are compared.

    `mean`: the mean of each camera's examples, scaled to unit length, then the mean over cameras, so that a camera with
    many examples does not outweigh the others; Q is 1. `max`: the examples themselves; Q is E.

    From each of these vectors, `REJECT_WEIGHT` times the mean of the rejected examples is subtracted (Rocchio,
    "Relevance feedback in information retrieval", 1971), and the result is scaled to unit length. One example without
    rejected ones is returned as it is.

    Args:
        examples: unit vectors `[E, D]` of one person, at least one.
        cameras: the camera of each example; examples without one count as one camera.
        rejects: unit vectors `[R, D]` of other people; R may be 0.
        combine: how.

    Raises:
        ValueError: the vectors cancel out, so that no direction is left.
    """
    if len(examples) == 1 and not len(rejects):
        return examples
    queries = _unit(examples.astype(np.float64))
    if combine == "mean":
        groups = [[row for row, camera in enumerate(cameras) if camera == name] for name in dict.fromkeys(cameras)]
        queries = _unit(np.stack([_unit(queries[group].mean(axis=0)) for group in groups]).mean(axis=0))[None]
    if len(rejects):
        queries = _unit(queries - REJECT_WEIGHT * _unit(rejects.astype(np.float64)).mean(axis=0))
    return queries.astype(np.float32)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if (lengths < _MIN_LENGTH).any():
        raise ValueError("the examples cancel out, so no direction is left to search in")
    scaled: NDArray[np.float64] = vectors / lengths
    return scaled
