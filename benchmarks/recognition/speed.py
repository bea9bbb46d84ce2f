"""Time of a clip with several bundles side by side, on each engine that can run them.

One thread computes clips one by one, in turns of all bundles, so that a busy machine slows all of them alike.
"""

import argparse
import statistics
import time

from benchmarks.recognition.common import add_page, compose, conclude, named
from benchmarks.report import markdown_table
from model.bundle import Bundle
from model.engines import Engine, EngineError, open_engine
from model.engines.choice import installed_engines
from model.engines.protocol import EngineName


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument(
        "bundles", nargs="+", type=named, metavar="NAME=PATH", help="the first is compared with the others"
    )
    parser.add_argument("--rounds", type=int, default=40, help="clips of each bundle (default: %(default)s)")
    add_page(parser, "speed", "docs/figures/accuracy.md")


def run(arguments: argparse.Namespace) -> None:
    """Measure all bundles, and write the section."""
    bundles = {name: Bundle.load(path) for name, path in arguments.bundles}
    rounds = 3 if arguments.quick else arguments.rounds
    rows = []
    first = next(iter(bundles))
    for engine in installed_engines():
        times = _measure(engine, bundles, rounds)
        for name, (described, milliseconds) in times.items():
            spec = bundles[name].spec
            ratio = f"{milliseconds / times[first][1]:.2f}" if first in times else ""
            size = f"{spec.frame_height}x{spec.frame_width}"
            rows.append((name, size, described, f"{milliseconds:.1f}", ratio))
    table = markdown_table(("bundle", "frames", "engine", "CPU ms of a clip", f"times {first}"), rows)
    frames = next(iter(bundles.values())).spec.clip_length
    text = f"Processor time of one clip of {frames} frames on one thread, median of {rounds}."
    conclude(arguments, compose("Time of a clip", text, table))


def _measure(engine: EngineName, bundles: dict[str, Bundle], rounds: int) -> dict[str, tuple[str, float]]:
    """Return the engine with its precision, and milliseconds, of each bundle that the engine can run."""
    engines: dict[str, Engine] = {}
    for name, bundle in bundles.items():
        try:
            engines[name] = open_engine(bundle, "cpu", engine=engine, threads=1)
        except EngineError:  # ONNX Runtime runs no int8 bundle
            continue
    spent: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(rounds + 1):
        for name, opened in engines.items():
            clip = bundles[name].golden().clips[:1]
            started = time.process_time()
            opened.embed(clip)
            if turn:  # the first round is a warm-up
                spent[name].append(1000 * (time.process_time() - started))
    return {
        name: (f"{opened.name} {opened.precision}", statistics.median(spent[name])) for name, opened in engines.items()
    }
