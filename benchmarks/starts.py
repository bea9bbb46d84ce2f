"""Compare how long the service takes to start, and its memory, with the bundled model and with `--vectors-only`.

    python -m benchmarks.starts

The two start in turn on galleries that are empty and stay the same, so the first start of each, which measures the
engines and writes caches, is not counted. A start is measured from the start of the process to 200 from `/readyz`; the
memory is the resident memory of the service and its helpers afterwards.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.process import MB, footprint, running

KINDS = {"vectors-only": ["--vectors-only", "--space", "starts-512", "--dimension", "512"], "bundled model": []}


def measure(folder: Path, starts: int) -> dict[str, list[tuple[float, float]]]:
    """Return the seconds and megabytes of each start that counts, by kind."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for number in range(starts + 1):
        for kind, options in KINDS.items():
            data = folder / kind.replace(" ", "-")
            data.mkdir(exist_ok=True)
            command = ["not3d", "serve", "--data-dir", str(data), "--log-level", "warning", *options]
            with running(command, ready="/readyz", log=data / "service.log") as server:
                if number:
                    found[kind].append((server.start_seconds, footprint(server.pid).resident / MB))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=5, help="starts of each that count")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.starts)
    for kind, rows in found.items():
        seconds, memory = [row[0] for row in rows], [row[1] for row in rows]
        print(
            f"{kind}: ready after {statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), "
            f"{statistics.median(memory):.0f} MB, {len(rows)} starts"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
