"""Measure the gallery against an exact scan, other libraries and targets: `python -m benchmarks.gallery`.

Vectors are drawn like the bundled model's vectors of real people. The gallery and each library run alone in their own
process, one after the other, in one run.
"""

import argparse
import contextlib
import io
import signal
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from benchmarks.gallery.peers import measure_peers
from benchmarks.gallery.scale import Effort, judge, measure_scale, show_scale
from benchmarks.gallery.spread import show_likeness
from benchmarks.serving.report import Report, describe_machine

PARTS = ("likeness", "scale", "peers")
SIZES, DIMENSIONS = (10_000, 100_000, 1_000_000), (512, 2048)
PEERS_SIZE, PEERS_DIMENSIONS = 100_000, (512,)
QUICK = Effort(queries=30, judged=20, filtered=20, alone=20, together=40, seconds=0.2, quiet=0.2, exact_bytes=200_000)
QUICK_SIZE, QUICK_DIMENSION = 2000, 64


def main() -> None:
    options = _options()
    # Without this, child processes would keep running when the benchmark is terminated.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    effort = QUICK if options.quick else Effort(seconds=options.seconds)
    with contextlib.ExitStack() as stack:
        if options.out:
            file = stack.enter_context(options.out.open("w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(_Both(sys.stdout, file)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="not3d-gallery-", dir=options.folder)))
        report = Report()
        report.say(describe_machine())
        _run(options, report, folder, effort)
        report.conclude()


def _run(options: argparse.Namespace, report: Report, folder: Path, effort: Effort) -> None:
    if "likeness" in options.only:
        show_likeness(report, options.dimensions)
    if "scale" in options.only:
        seen = [
            measure_scale(folder / f"gallery-{count}-{dimension}", count, dimension, effort)
            for dimension in options.dimensions
            for count in options.sizes
        ]
        show_scale(report, seen)
        for measured in seen:
            judge(report, measured)
    if "peers" in options.only:
        for dimension in options.peers_dimensions:
            measure_peers(report, folder / f"peers-{dimension}", options.peers_size, dimension, effort, options.peers)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gallery", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", help=f"records (default: {' '.join(map(str, SIZES))})")
    parser.add_argument("--dimensions", type=int, nargs="+", help="default: 512 2048")
    parser.add_argument("--peers-size", type=int, help=f"records for the other libraries (default: {PEERS_SIZE})")
    parser.add_argument("--peers-dimensions", type=int, nargs="+", help="default: 512")
    parser.add_argument(
        "--peers", nargs="+", metavar="NAME", help="these libraries only, by the first word of their names"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="run these parts only")
    parser.add_argument(
        "--seconds", type=float, default=Effort.seconds, help="most seconds of searches for one setting"
    )
    parser.add_argument("--folder", type=Path, help="folder for the galleries (default: the system's temporary folder)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the Markdown to this file")
    parser.add_argument(
        "--quick", action="store_true", help="some seconds, to check that it runs; figures mean nothing"
    )
    options = parser.parse_args()
    quick = options.quick
    options.sizes = options.sizes or ([QUICK_SIZE] if quick else SIZES)
    options.dimensions = options.dimensions or ([QUICK_DIMENSION] if quick else DIMENSIONS)
    options.peers_size = options.peers_size or (QUICK_SIZE if quick else PEERS_SIZE)
    options.peers_dimensions = options.peers_dimensions or ([QUICK_DIMENSION] if quick else PEERS_DIMENSIONS)
    return options


class _Both(io.TextIOBase):
    def __init__(self, *files: TextIO) -> None:
        self._files = files

    def write(self, text: str) -> int:
        for file in self._files:
            file.write(text)
        return len(text)

    def flush(self) -> None:
        for file in self._files:
            file.flush()


if __name__ == "__main__":
    main()
