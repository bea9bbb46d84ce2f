"""Measure the gallery against an exact scan, other libraries and targets: `python -m benchmarks.gallery`.

Vectors are drawn like the bundled model's vectors of real people. The gallery and each library run alone in their own
process, one after the other, in one run.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.gallery.peers import measure_peers
from benchmarks.gallery.scale import MeasurementSettings, ScaleTables, measure_scale
from benchmarks.gallery.spread import compare_spread
from benchmarks.report import Report, describe_machine

PARTS = ("likeness", "scale", "peers")
SIZES, DIMENSIONS = [10_000, 100_000, 1_000_000], [512, 2048]
PEERS_SIZE, PEERS_DIMENSION = 100_000, 512
QUICK_SIZE, QUICK_DIMENSION = 2000, 64
QUICK = MeasurementSettings(
    queries=30,
    judged=20,
    filtered=20,
    by_one_thread=20,
    by_eight_threads=40,
    seconds=0.2,
    idle_seconds=0.2,
    exact_bytes=200_000,
)


def main() -> None:
    options = _options()
    # Without this, child processes would keep running when the benchmark is terminated.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    with tempfile.TemporaryDirectory(prefix="not3d-gallery-", dir=options.folder) as folder:
        report = Report()
        report.say(describe_machine())
        _run(options, report, Path(folder))
        report.conclude()


def _run(options: argparse.Namespace, report: Report, folder: Path) -> None:
    settings = QUICK if options.quick else MeasurementSettings()
    sizes = options.sizes or ([QUICK_SIZE] if options.quick else SIZES)
    dimensions = options.dimensions or ([QUICK_DIMENSION] if options.quick else DIMENSIONS)
    if "likeness" in options.only:
        compare_spread(report, dimensions)
    if "scale" in options.only:
        tables = ScaleTables()
        for dimension in dimensions:
            for count in sizes:
                measure_scale(report, tables, folder / f"{count}-{dimension}", count, dimension, settings)
        tables.print(report)
    if "peers" in options.only:
        size, dimension = (QUICK_SIZE, QUICK_DIMENSION) if options.quick else (PEERS_SIZE, PEERS_DIMENSION)
        measure_peers(report, folder / "peers", size, dimension, settings, options.peers)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.gallery", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", help="records (default: 10000 100000 1000000)")
    parser.add_argument("--dimensions", type=int, nargs="+", help="default: 512 2048")
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME", help="these libraries only, by the first word of their names"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="run these parts only")
    parser.add_argument("--folder", type=Path, help="folder for the galleries (default: the system's temporary folder)")
    parser.add_argument(
        "--quick", action="store_true", help="some seconds, to check that it runs; figures mean nothing"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
