"""Compare the service with its engine, other servers and the targets, in one run: `python -m benchmarks.serving`.

The service, the peers and the clients are separate processes on loopback, and the clients send JPEG crops. Ratios are
taken alternately, so they stay meaningful on a shared machine.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks.report import Report, describe_machine
from benchmarks.serving.engines import measure_engines
from benchmarks.serving.load import Crops, decode_clips, read_crops
from benchmarks.serving.peers import measure_peers
from benchmarks.serving.profile import profile
from benchmarks.serving.service import MeasurementSettings, Plans, measure_service
from benchmarks.serving.soak import measure_starts, soak
from model.bundle import BUNDLED, Bundle

CALIBRATION_CLIPS = 96
STARTS = 3
PARTS = ("engines", "service", "peers", "starts")
QUICK = MeasurementSettings(rounds=1, seconds=0.3, engine_seconds=0.1, clients=4, lengths=(4, 9), largest_batch=8)


def main() -> None:
    options = _options()
    # Without this, servers would keep running when the benchmark is terminated.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    settings = QUICK if options.quick else MeasurementSettings(options.rounds, options.seconds, options.seconds / 4)
    report = Report()
    with tempfile.TemporaryDirectory(prefix="not3d-benchmark-") as name:
        _run(options, report, Path(name), settings)
    report.conclude()


def _run(options: argparse.Namespace, report: Report, folder: Path, settings: MeasurementSettings) -> None:
    if options.full_size:
        from benchmarks.full_size import write_full_size

        bundle = write_full_size(folder / "bundle")
    else:
        bundle = Bundle.load(options.bundle)
    spec = bundle.spec
    report.say(f"{spec.name}: {spec.backbone} at {spec.frame_height}x{spec.frame_width}, clips of {spec.clip_length}.")
    report.say(describe_machine())
    crops = read_crops(options.data, folder / "people")
    report.say(f"Crops: {crops.described}.")
    clips = decode_clips(crops, spec, settings.largest_batch)
    plans = Plans.write(crops, folder / "plans", spec.clip_length, settings.lengths)
    quantised = _quantise(bundle, folder / "int8", crops) if options.int8 else None
    bundles = [bundle, quantised] if quantised else [bundle]
    if "engines" in options.only:
        measure_engines(report, bundle, quantised, clips, settings.rounds, settings.engine_seconds)
    if "service" in options.only:
        services: list[tuple[Bundle, tuple[str, ...]]] = [(which, ()) for which in bundles]
        if not (bundle.is_ir or options.quick):
            services.append((bundle, ("--engine", "onnxruntime")))
        results = [
            measure_service(report, which, folder / f"service-{number}", plans, clips, settings, given)
            for number, (which, given) in enumerate(services)
        ]
        if "peers" in options.only:
            fastest = max(results, key=lambda result: result.load.rate)
            measure_peers(report, fastest, bundle, folder / "peers", plans, settings)
    if "starts" in options.only:
        for number, which in enumerate(bundles):
            measure_starts(report, which, folder / f"starts-{number}", STARTS)
    if options.profile:
        text = profile(bundles[-1], folder / "profile", plans, settings)
        options.profile.write_text(text, encoding="utf-8")
        report.say(f"The profile is in {options.profile}.")
    if options.soak:
        soak(report, bundles[-1], crops, folder / "soak", options.soak)


def _quantise(bundle: Bundle, out: Path, crops: Crops) -> Bundle:
    from training.export.quantise import CalibrationClips, quantise

    clips = decode_clips(crops, bundle.spec, CALIBRATION_CLIPS)
    return quantise(bundle, out, CalibrationClips(clips, crops.described), None).bundle


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.serving", description=__doc__)
    parser.add_argument("--bundle", type=Path, default=BUNDLED, help="the model (default: the bundled one)")
    parser.add_argument(
        "--full-size", action="store_true", help="use the paper's ResNet50-IBN-a at 224x112 with fresh weights instead"
    )
    parser.add_argument(
        "--int8", action="store_true", help="also measure in int8, quantised from the crops without judging accuracy"
    )
    parser.add_argument("--data", type=Path, help="a dataset or folder of tracklets (default: drawn people)")
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds of engine and service")
    parser.add_argument("--seconds", type=float, default=12.0, help="duration of each load")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts only; peers need service")
    parser.add_argument(
        "--soak", type=float, default=0.0, metavar="MINUTES", help="minutes of mixed load while memory is recorded"
    )
    parser.add_argument("--profile", type=Path, metavar="FILE", help="write a CPU profile under load to this file")
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds, to check that it runs; figures mean nothing"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
