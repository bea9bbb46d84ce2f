"""What watchlists cost an enrolment: `python -m benchmarks.watchlists`.

Enrols single records of random vectors in a gallery without watchlists, and with so many watched examples that none of
them is near, in turn. Also measures the comparison alone, and enrolments that raise an alert each.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.gallery import Filter, Record
from service.gallery.checks import encode
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.watch.records import AlertRules, Watchlist, WatchVector

_NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--entries", type=int, nargs="+", default=[0, 100, 1000, 10_000])
    parser.add_argument("--enrolments", type=int, default=200)
    parser.add_argument("--per-watchlist", type=int, default=100, help="examples of one watchlist (%(default)s)")
    parser.add_argument("--cameras", type=int, default=0, help="cameras in the filter of each watchlist (%(default)s)")
    options = parser.parse_args()
    print("| watched examples | comparison, ms (median, 99 %) | enrolment, ms | enrolment with an alert, ms |")
    print("|---|---|---|---|")
    shape = Shape(options.dimension, options.per_watchlist, options.cameras)
    for row in measure(shape, options.entries, options.enrolments):
        print(row)


@dataclass(frozen=True)
class Shape:
    """Dimension of the vectors, examples of one watchlist, and cameras in its filter."""

    dimension: int
    per_watchlist: int
    cameras: int


def measure(shape: Shape, entries: Sequence[int], enrolments: int) -> list[str]:
    """Return one row for each number of entries; the galleries take turns, so that all see the same load."""
    dimension = shape.dimension
    folder = Path(tempfile.mkdtemp(prefix="not3d-watchlists-"))
    generator = np.random.default_rng(0)
    galleries = {count: _open(folder / str(count), shape, count, generator) for count in entries}
    compared: dict[int, list[float]] = {count: [] for count in entries}
    plain: dict[int, list[float]] = {count: [] for count in entries}
    raised: dict[int, list[float]] = {count: [] for count in entries}
    for number in range(enrolments):
        vector = _unit(generator, 1, dimension)[0]
        for count, gallery in galleries.items():
            record = _record(f"r{number}", vector)
            row, matcher = encode(record, dimension), gallery.matcher()
            compared[count].append(_timed(lambda matcher=matcher, row=row: matcher.match(row, 0)))  # type: ignore[misc]
            plain[count].append(_timed(lambda gallery=gallery, record=record: gallery.add(record)))  # type: ignore[misc]
            if matcher.entries:
                near = _record(f"near{number}", matcher.watchlists[0].vectors[0].vector)
                raised[count].append(_timed(lambda gallery=gallery, near=near: gallery.add(near)))  # type: ignore[misc]
    for gallery in galleries.values():
        gallery.close()
    shutil.rmtree(folder)
    return [
        f"| {count:,} | {_median(compared[count]):.3f}, {_high(compared[count]):.3f} | {_median(plain[count]):.2f} | "
        f"{f'{_median(raised[count]):.2f}' if raised[count] else ''} |"
        for count in entries
    ]


def _open(directory: Path, shape: Shape, entries: int, generator: np.random.Generator) -> EmbeddedGallery:
    gallery = EmbeddedGallery.open(
        directory, embedding_space="0123456789abcdef", dimension=shape.dimension, model_name="watchlists"
    )
    gallery.start_alerts(AlertRules())
    cameras = tuple(f"c{number}" for number in range(1, shape.cameras + 1)) or None
    for start in range(0, entries, shape.per_watchlist):
        vectors = _unit(generator, min(shape.per_watchlist, entries - start), shape.dimension)
        gallery.put_watchlist(
            Watchlist(
                name=f"w{start}",
                uid=f"w{start}",
                min_score=0.8,
                min_probability=None,
                prior=None,
                filter=Filter(camera_ids=cameras),
                cooldown=0.0,
                expires_at=None,
                created_at=_NOON,
                updated_at=_NOON,
                created_by="benchmark",
                vectors=tuple(WatchVector(each) for each in vectors),
            )
        )
    return gallery


def _record(id: str, vector: NDArray[np.float32]) -> Record:
    return Record(id, vector, "c1", _NOON, None, {}, 16, 1, _NOON)


def _unit(generator: np.random.Generator, count: int, dimension: int) -> NDArray[np.float32]:
    vectors = generator.standard_normal((count, dimension))
    scaled: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def _high(values: Sequence[float]) -> float:
    return float(np.percentile(values, 99))


if __name__ == "__main__":
    main()
