"""Time and memory of k-reciprocal re-ranking at MARS's size: `python -m benchmarks.rerank`.

Features are drawn like those of a real gallery: clusters of people, several tracklets each, and distractors.
"""

import resource
import time

import numpy as np
from numpy.typing import NDArray

from model.ranking import cosine_scores, k_reciprocal_rerank

QUERIES, GALLERY, DIMENSION, PEOPLE = 1_980, 11_310, 2_048, 630


def draw_features(rows: int, dimension: int, people: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return `float32 [rows, dimension]`: three quarters near `people` centres, the rest anywhere."""
    centers = np.random.default_rng(0).standard_normal((people, dimension), dtype=np.float32)
    features = rng.standard_normal((rows, dimension), dtype=np.float32)
    known = 3 * rows // 4
    features[:known] += centers[rng.integers(0, people, known)]
    return features


def main() -> None:
    rng = np.random.default_rng(1)
    query, gallery = (draw_features(rows, DIMENSION, PEOPLE, rng) for rows in (QUERIES, GALLERY))
    print(f"{QUERIES:,} queries against {GALLERY:,}, {DIMENSION:,} dimensions")
    started = time.perf_counter()
    cosine_scores(query, gallery)
    print(f"cosine      {time.perf_counter() - started:7.1f} s")
    started = time.perf_counter()
    distances = k_reciprocal_rerank(query, gallery)
    seconds = time.perf_counter() - started
    print(f"re-ranking  {seconds:7.1f} s, {distances.shape[0]:,} x {distances.shape[1]:,} distances")
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak memory {peak / 2**30:7.2f} GiB, of this process")


if __name__ == "__main__":
    main()
