"""Embeddings that clients send back: of this model's space and length, and pointing somewhere."""

import numpy as np
from numpy.typing import NDArray

from service.http.problems import Problem
from service.startup import Loaded


def check_embedding(values: list[float], space: str | None, loaded: Loaded) -> NDArray[np.float32]:
    """The embedding as float32 `[D]` of unit length.

    Raises:
        Problem: 409 for another embedding space, 400 for another length, NaN, infinities or a zero vector.
    """
    wanted = loaded.bundle.embedding_space
    if space is not None and space != wanted:
        reason = f"{space} is not this service's space {wanted}: vectors of two models cannot be compared; embed anew"
        raise Problem.of_field("embedding_space", reason, "other-embedding-space")
    dimension = loaded.bundle.spec.dimension
    if len(values) != dimension:
        raise Problem.of_field("embedding", f"{len(values)} components, this model's embeddings have {dimension}")
    vector = np.asarray(values, dtype=np.float64)
    if not np.isfinite(vector).all():
        raise Problem.of_field("embedding", "a component is NaN or infinite")
    largest = np.abs(vector).max()
    if largest == 0:
        raise Problem.of_field("embedding", "all components are zero, so it has no direction")
    vector /= largest  # first, since squares of very large or small components leave the range of floats
    return (vector / np.linalg.norm(vector)).astype(np.float32)
