"""Compare the service with its engine, other servers and the targets, in one run: `python -m benchmarks.serving`.

The service, the peers and the clients are separate processes on loopback, and the clients send JPEG crops. Ratios are
taken alternately, so they stay meaningful on a shared machine.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.contenders import measure_peers
from benchmarks.serving.engines import measure_engines
from benchmarks.serving.footage import Crops, read_crops, ready_clips
from benchmarks.serving.profile import profile
from benchmarks.serving.report import Report, describe_machine
from benchmarks.serving.service import Effort, Plans, measure_service
from benchmarks.serving.soak import measure_starts, soak
from model.bundle import BUNDLED, Bundle

CALIBRATION_CLIPS = 96
PARTS = ("engines", "service", "peers", "starts")
QUICK = Effort(rounds=1, seconds=0.3, engine_seconds=0.1, clients=4, lengths=(4, 9), largest_batch=8)


def main() -> None:
    options = _options()
    # Without this, servers would keep running when the benchmark is terminated.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    effort = QUICK if options.quick else Effort(options.rounds, options.seconds, options.seconds / 4)
    report = Report()
    with tempfile.TemporaryDirectory(prefix="not3d-benchmark-") as name:
        folder = Path(name)
        with _bundle(options.bundle, folder, full_size=options.full_size) as bundle:
            _run(options, report, bundle, folder, effort)
    report.conclude()


def _run(options: argparse.Namespace, report: Report, bundle: Bundle, folder: Path, effort: Effort) -> None:
    spec = bundle.spec
    report.say(f"{spec.name}: {spec.backbone} at {spec.frame_height}x{spec.frame_width}, clips of {spec.clip_length}.")
    report.say(describe_machine())
    crops = read_crops(options.data, folder / "people")
    report.say(f"Crops: {crops.described}.")
    clips = ready_clips(crops, spec, effort.largest_batch)
    plans = Plans.write(crops, folder / "plans", spec.clip_length, effort.lengths)
    quantised = Bundle.load(options.quantised) if options.quantised else None
    if options.int8:
        quantised = _quantise(bundle, folder / "int8", ready_clips(crops, spec, CALIBRATION_CLIPS), crops)
    if "engines" in options.only:
        measure_engines(report, bundle, quantised, clips, effort.rounds, effort.engine_seconds)
    forms = [bundle] if quantised is None else [bundle, quantised]
    if "service" in options.only:
        services: list[tuple[Bundle, tuple[str, ...]]] = [(form, ()) for form in forms]
        if not (bundle.is_ir or options.quick):
            services.append((bundle, ("--engine", "onnxruntime")))
        measured = [
            measure_service(report, which, folder / f"service-{number}", plans, clips, effort, given)
            for number, (which, given) in enumerate(services)
        ]
        if "peers" in options.only:
            fastest = max(measured, key=lambda item: item.rate)
            measure_peers(report, fastest, bundle, folder / "peers", plans, effort, every=options.every_way)
    if "starts" in options.only:
        for number, which in enumerate(forms):
            measure_starts(report, which, folder / f"starts-{number}", options.starts)
    if options.profile:
        text = profile(quantised or bundle, folder / "profile", plans, effort)
        options.profile.write_text(text, encoding="utf-8")
        report.say(f"The profile is in {options.profile}.")
    if options.soak:
        soak(report, quantised or bundle, crops, folder / "soak", options.soak, options.csv)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, default=BUNDLED, help="the model (default: the bundled one)")
    parser.add_argument(
        "--full-size", action="store_true", help="use the paper's ResNet50-IBN-a at 224x112 with fresh weights instead"
    )
    parser.add_argument("--quantised", type=Path, help="its int8 bundle, as `not3d quantize` writes it")
    parser.add_argument(
        "--int8", action="store_true", help="make the int8 bundle here from the crops, without judging its accuracy"
    )
    parser.add_argument("--data", type=Path, help="a dataset or folder of tracklets (default: drawn people)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds of engine and service")
    parser.add_argument("--seconds", type=float, default=12.0, help="duration of each load")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="run these parts only; peers need service"
    )
    parser.add_argument(
        "--every-way", action="store_true", help="measure peers in all configurations instead of the best one only"
    )
    parser.add_argument("--starts", type=int, default=3, help="number of starts")
    parser.add_argument(
        "--soak", type=float, default=0.0, metavar="MINUTES", help="minutes of mixed load while memory is recorded"
    )
    parser.add_argument("--csv", type=Path, help="write the soak's samples to this file")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="write a CPU profile under load to this file")
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds, to check that it runs; figures mean nothing"
    )
    return parser.parse_args()


def _quantise(bundle: Bundle, out: Path, clips: NDArray[np.uint8], crops: Crops) -> Bundle:
    from training.export.quantise import CalibrationClips, quantise

    return quantise(bundle, out, CalibrationClips(clips, crops.described), None).bundle


@contextmanager
def _bundle(path: Path, folder: Path, *, full_size: bool) -> Iterator[Bundle]:
    if not full_size:
        yield Bundle.load(path)
        return
    from benchmarks.full_size import write_full_size

    yield write_full_size(folder / "bundle")


if __name__ == "__main__":
    main()
