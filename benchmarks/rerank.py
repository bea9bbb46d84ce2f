"""Time and memory of k-reciprocal re-ranking at MARS's size: `python -m benchmarks.rerank`.

Features are drawn like those of a real gallery: clusters of people, several tracklets each, and distractors.
"""

import argparse
import resource
import sys
import time

import numpy as np
from numpy.typing import NDArray

from model.ranking import cosine_scores, k_reciprocal_rerank

QUERIES, GALLERY, DIMENSION, PEOPLE = 1_980, 11_310, 2_048, 630


def draw_features(
    rows: int, dimension: int, people: int, rng: np.random.Generator, spread: float = 1.0
) -> NDArray[np.float32]:
    """Return `float32 [rows, dimension]`: three quarters near `people` centres, the rest anywhere."""
    centers = np.random.default_rng(0).standard_normal((people, dimension), dtype=np.float32)
    features = spread * rng.standard_normal((rows, dimension), dtype=np.float32)
    known = 3 * rows // 4
    features[:known] += centers[rng.integers(0, people, known)]
    return features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--gallery", type=int, default=GALLERY)
    parser.add_argument("--dimension", type=int, default=DIMENSION)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    query, gallery = (
        draw_features(rows, options.dimension, PEOPLE, rng) for rows in (options.queries, options.gallery)
    )
    print(f"{options.queries:,} queries against {options.gallery:,}, {options.dimension:,} dimensions")
    started = time.perf_counter()
    cosine_scores(query, gallery)
    print(f"cosine      {time.perf_counter() - started:7.1f} s")
    started = time.perf_counter()
    distances = k_reciprocal_rerank(query, gallery)
    print(
        f"re-ranking  {time.perf_counter() - started:7.1f} s, {distances.shape[0]:,} x {distances.shape[1]:,} distances"
    )
    scale = 1 if sys.platform == "darwin" else 1024
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30:7.2f} GiB, of this process")


if __name__ == "__main__":
    main()
