"""``python -m benchmarks.gallery``: the gallery at its sizes, against the exact scan, its peers and its targets.

Vectors are drawn like the bundled model's of real people. The gallery and each peer are alone in a process of their
own, one after the other; all that is compared is measured in one run.
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
    # Otherwise a benchmark that is ended would leave its contenders behind.
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
    parser.add_argument("--peers-size", type=int, help=f"records that peers are given (default: {PEERS_SIZE})")
    parser.add_argument("--peers-dimensions", type=int, nargs="+", help="default: 512")
    parser.add_argument("--peers", nargs="+", metavar="NAME", help="these peers only, by the first word of their names")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts")
    parser.add_argument("--seconds", type=float, default=Effort.seconds, help="at most for one setting's searches")
    parser.add_argument("--folder", type=Path, help="where galleries are made (default: the system's temporary folder)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the Markdown there as well")
    parser.add_argument("--quick", action="store_true", help="some seconds: that it runs, not how fast")
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
