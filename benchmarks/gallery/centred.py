"""What centred scores cost: `python -m benchmarks.gallery.centred`.

Enrols drawn tracklets of 100 cameras with and without the setting, and compares latency, start and the share of the ten
best records that are found. Each camera shifts its vectors four times as much as the bundled model's cameras do, so
that the lists of the approximate index are near the wrong camera more often than in real galleries. `--write` puts the
table into docs/figures/centring.md.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.centring import PAGE, put_into_page
from benchmarks.gallery.drawing import CAMERAS, Drawing, Population, Spread, number_of
from benchmarks.report import describe_machine
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.records import Filter

MARK = "benchmarks.gallery.centred"
SIZES, DIMENSION = (65_000, 200_000), 512
CAMERA_SHARE = 0.15
"""Of the variance within a person; 0.038 was measured."""
QUERIES, TOP, BATCH = 200, 10, 1024
_FILTERS = {
    "none": None,
    "half of the cameras": tuple(f"camera-{number}" for number in range(0, CAMERAS, 2)),
    "one camera": ("camera-3",),
}
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Drawn:
    """Rows `[N, D]` with their records, and queries `[Q, D]` with their cameras."""

    rows: Rows
    population: Population
    queries: Rows
    query_cameras: list[str]

    @property
    def cameras(self) -> NDArray[Any]:
        return np.array([one.camera_id for one in self.population.records(0, self.rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--dimension", type=int, default=DIMENSION)
    parser.add_argument("--folder", type=Path, help="folder for the galleries (default: the system's temporary folder)")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE}")
    options = parser.parse_args()
    lines = [describe_machine(), ""]
    lines += ["| records | index | scores | bulk, records/s | start | filter | median ms | p95 | recall@10 |"]
    lines += ["|" + "---|" * 9]
    print("\n".join(lines), flush=True)
    for size in options.sizes:
        drawn = draw(size, options.dimension)
        for centred in (False, True):
            folder = Path(tempfile.mkdtemp(prefix="not3d-centred-", dir=options.folder))
            for line in measure(drawn, centred, folder / "gallery"):
                print(line, flush=True)
                lines.append(line)
            shutil.rmtree(folder)
    if options.write:
        put_into_page(MARK, "\n".join(lines))


def draw(size: int, dimension: int) -> Drawn:
    spread = replace(Spread.load(), camera=CAMERA_SHARE)
    drawing = Drawing(dimension, max(size // 20, 50), spread=spread)
    rows = np.concatenate(list(drawing.rows(size + QUERIES)))
    names = [one.camera_id or "" for one in Population(size + QUERIES).records(size, rows[size:])]
    return Drawn(rows[:size], Population(size), rows[size:], names)


def measure(drawn: Drawn, centred: bool, folder: Path) -> Iterator[str]:
    """Yield one row of the table for each filter."""
    size, dimension = drawn.rows.shape
    gallery = _open(folder, dimension, centred)
    enrolling = 0.0
    for start in range(0, size, BATCH):
        records = drawn.population.records(start, drawn.rows[start : start + BATCH])
        began = time.perf_counter()
        gallery.enrol(records, "error")
        enrolling += time.perf_counter() - began
    gallery._rebuilder.wait()
    gallery.close()
    began = time.perf_counter()
    gallery = _open(folder, dimension, centred)
    opening = time.perf_counter() - began
    index = "exact" if gallery._index.vectors.exact else "approximate"
    rows, queries = _compared(gallery, drawn)
    for name, cameras in _FILTERS.items():
        passing = np.arange(size) if cameras is None else np.flatnonzero(np.isin(drawn.cameras, cameras))
        seconds, found = [], 0
        for query, raw, camera in zip(queries, drawn.queries, drawn.query_cameras, strict=True):
            scores = rows[passing] @ query if cameras else rows @ query
            best = set(passing[np.argpartition(-scores, TOP - 1)[:TOP]].tolist())
            began = time.perf_counter()
            result = gallery.search(raw, TOP, Filter(camera_ids=cameras), camera_id=camera)
            seconds.append(time.perf_counter() - began)
            found += len(best & {number_of(hit.record.id) for hit in result.hits})
        median, late = np.quantile(seconds, (0.5, 0.95)) * 1000
        yield (
            f"| {size:,} x {dimension} | {index} | {gallery.score_mode} | {size / enrolling:,.0f} | {opening:.1f} s "
            f"| {name} | {median:.1f} | {late:.1f} | {found / (TOP * QUERIES):.4f} |"
        )
    gallery.close()


def _compared(gallery: EmbeddedGallery, drawn: Drawn) -> tuple[Rows, Rows]:
    """Return rows and queries as the gallery compares them, for the exact scan."""
    centring = gallery._index._centring
    if centring is None:
        return drawn.rows, drawn.queries
    codes = gallery._index._columns.cameras
    own = np.array([gallery._index._columns.camera_code(name) for name in drawn.query_cameras], np.int32)
    parts = (centring.means.centre(drawn.rows, codes), centring.means.centre(drawn.queries, own))
    return parts[0].astype(np.float32), parts[1].astype(np.float32)


def _open(folder: Path, dimension: int, centred: bool) -> EmbeddedGallery:
    return EmbeddedGallery.open(
        folder, embedding_space="0" * 16, dimension=dimension, model_name="drawn", camera_centring=centred
    )


if __name__ == "__main__":
    main()
