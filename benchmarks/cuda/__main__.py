"""Measure the network on an NVIDIA GPU, alone and behind HTTP, against its f16 peak: `python -m benchmarks.cuda`.

`bash benchmarks/cuda.sh` makes an environment, runs the GPU tests and then this program. `--device cpu` rehearses on a
machine without a GPU: the same code on ONNX Runtime's CPU provider; its figures mean nothing.
"""

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.cuda.gpu import Usage, count_macs, gpu_name, measure_peak, sheet_peak
from benchmarks.serving.footage import Crops, read_crops, ready_clips, write_plan
from benchmarks.serving.process import load, running_service
from benchmarks.serving.report import Report, describe_machine
from model.bundle import BUNDLED, Bundle
from model.cgroups import available_cpus
from model.engines.cuda import TENSORRT, CudaEngine, CudaPlan
from model.engines.onnx_runtime import OnnxRuntimeEngine
from model.engines.protocol import CudaOptions, EngineError

LARGEST_DIFFERENCE = 1e-2
"""Largest allowed difference of a component of a unit-length embedding between GPU and CPU in f32."""
LENGTHS = (20, 60)
REQUESTS = 64
FULL_SIZE = "from pathlib import Path; from benchmarks.full_size import write_full_size; write_full_size(Path({!r}))"

Clips = NDArray[np.uint8]
Embeddings = NDArray[np.float32]


@dataclass(frozen=True)
class Peak:
    """TFLOP/s of f16 matrix products: measured here, and from the data sheet if known."""

    measured: float
    sheet: float | None

    def shares(self, tflops: float) -> tuple[str, str]:
        return f"{tflops / self.measured:.1%}", f"{tflops / self.sheet:.1%}" if self.sheet else "-"


def main() -> None:
    """Measure and print Markdown; the exit status is 1 if embeddings differ from the CPU's by more than allowed."""
    options = _options()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    gpu = options.device == "cuda"
    report = Report()
    name = gpu_name() if gpu else "no GPU: a rehearsal on the CPU; figures mean nothing"
    report.say(f"GPU: {name}. ONNX Runtime {onnxruntime.__version__}.")
    report.say(describe_machine())
    peak = Peak(measure_peak(options.device), sheet_peak(name) if gpu else None)
    sheet = f"{peak.sheet:g} in the data sheet" if peak.sheet else "its data sheet is not in the table"
    report.say(f"f16 peak: {peak.measured:.3g} TFLOP/s in PyTorch's matrix products, {sheet}.")
    faults = []
    with tempfile.TemporaryDirectory(prefix="not3d-cuda-") as folder:
        crops = read_crops(None, Path(folder) / "people")
        for bundle in _bundles(options, Path(folder)):
            faults += _measure(report, options, bundle, crops, Path(folder) / bundle.spec.name, peak)
    report.conclude()
    if faults:
        raise SystemExit("\n".join(faults))


def _bundles(options: argparse.Namespace, folder: Path) -> Iterator[Bundle]:
    if "light" in options.networks:
        yield Bundle.load(options.bundle)
    if "full" in options.networks:
        # In a separate process, so PyTorch's CUDA libraries are not loaded in this one.
        path = folder / "full-size"
        subprocess.run([sys.executable, "-c", FULL_SIZE.format(str(path))], check=True)
        yield Bundle.load(path)


def _measure(
    report: Report, options: argparse.Namespace, bundle: Bundle, crops: Crops, folder: Path, peak: Peak
) -> list[str]:
    spec = bundle.spec
    folder.mkdir(parents=True, exist_ok=True)
    gflops = 2 * count_macs(bundle.network_path) / spec.clip_length / 1e9
    report.say(
        f"## {spec.name}: {spec.backbone} at {spec.frame_height}x{spec.frame_width}, clips of {spec.clip_length}, "
        f"{gflops:.3f} GFLOP a frame"
    )
    clips = ready_clips(crops, spec, max(options.batches))
    expected = _unit(OnnxRuntimeEngine(bundle, threads=available_cpus()).embed(clips[: options.compared]))
    faults = _measure_engines(report, options, bundle, clips, expected, peak, gflops, folder)
    if options.clients:
        _measure_service(report, options, bundle, crops, folder, peak, gflops)
    return faults


def _measure_engines(
    report: Report,
    options: argparse.Namespace,
    bundle: Bundle,
    clips: Clips,
    expected: Embeddings,
    peak: Peak,
    gflops: float,
    folder: Path,
) -> list[str]:
    """Measure each execution plan of this ONNX Runtime on arrays."""
    report.head("engine", "clips a call", "frames/s", "ms a call", "share of peak here", "of data sheet", "difference")
    faults = []
    for label, plan, tuning in _plans(options.device, tensorrt=options.tensorrt):
        chosen = replace(tuning, largest_batch=max(options.batches))
        try:
            difference = _measure_plan(
                report, options, bundle, (label, plan, chosen), clips, expected, peak, gflops, folder
            )
        except EngineError as error:
            reason = " ".join(str(error).split()).replace("|", "/")[:300]
            report.row(label, "-", f"does not work: {reason}", *"-" * 4)
            if plan in _NEEDED:
                faults.append(f"{bundle.spec.name}, {label}: {reason}")
            continue
        if not difference <= LARGEST_DIFFERENCE:
            faults.append(f"{bundle.spec.name}, {label}: a component is {difference:.2g} from the CPU's in f32")
    report.end_table()
    return faults


def _measure_plan(
    report: Report,
    options: argparse.Namespace,
    bundle: Bundle,
    what: tuple[str, CudaPlan, CudaOptions],
    clips: Clips,
    expected: Embeddings,
    peak: Peak,
    gflops: float,
    folder: Path,
) -> float:
    """Measure one plan, free its memory, and return the largest difference from the CPU."""
    label, plan, chosen = what
    started = time.perf_counter()
    engine = CudaEngine(bundle, plan, threads=available_cpus(), cache_dir=folder, options=chosen, device=options.device)
    opened = time.perf_counter() - started
    difference = float(np.abs(_unit(engine.embed(clips[: len(expected)])) - expected).max())
    for batch in options.batches:
        seconds = _time(engine, clips[:batch], options.seconds)
        rate = batch * bundle.spec.clip_length / seconds
        shares = peak.shares(rate * gflops / 1000)
        report.row(label, f"{batch}", f"{rate:.1f}", f"{1000 * seconds:.2f}", *shares, f"{difference:.1e}")
    report.row(label, "opening", "-", f"{1000 * opened:.0f}", *"-" * 3)
    return difference


_NEEDED = tuple(CudaPlan(precision, channels_last=False, graphs=False) for precision in ("f32", "f16"))
"""Plans that must work; the others are optional speed-ups."""


def _plans(device: str, *, tensorrt: bool) -> Iterator[tuple[str, CudaPlan, CudaOptions]]:
    usual = CudaOptions()
    yield "f32", _NEEDED[0], usual
    yield "f16", _NEEDED[1], usual
    if device == "cpu":
        return
    yield "f32, graphs", CudaPlan("f32", channels_last=False, graphs=True), usual
    yield "f16, graphs", CudaPlan("f16", channels_last=False, graphs=True), usual
    yield "f16, NHWC", CudaPlan("f16", channels_last=True, graphs=False), usual
    fastest = CudaPlan("f16", channels_last=True, graphs=True)
    yield "f16, NHWC, graphs (the service's)", fastest, usual
    if tensorrt and TENSORRT in onnxruntime.get_available_providers():
        yield "f16, TensorRT", CudaPlan("f16", channels_last=False, graphs=False, tensorrt=True), usual


def _time(engine: CudaEngine, clips: Clips, seconds: float) -> float:
    """Return the mean seconds of one call over `seconds`, after three calls that do not count."""
    for _ in range(3):
        engine.embed(clips)
    calls, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds or not calls:
        engine.embed(clips)
        calls += 1
    return elapsed / calls


def _measure_service(
    report: Report,
    options: argparse.Namespace,
    bundle: Bundle,
    crops: Crops,
    folder: Path,
    peak: Peak,
    gflops: float,
) -> None:
    """Measure the service in a separate process with JPEG crops over loopback."""
    plan = write_plan(crops, folder / "plan", LENGTHS, requests=REQUESTS, clip_length=bundle.spec.clip_length)
    arguments = ("--device", options.device, "--engine", "onnxruntime")
    with running_service(bundle.path, folder / "data", *arguments) as server:
        engine = server.get("/info")["engine"]
        facts = ", ".join(f"{name} {engine[name]}" for name in ("provider", "precision", "version"))
        report.say(f"Service: {facts}, ready after {server.start_seconds:.1f} s. Warning: {engine['warning']}.")
        if options.device == "cuda" and engine["device"] != "cuda":
            raise SystemExit(f"the service runs on {engine['device']}")
        report.head("clients", "frames/s", "median ms", "p99 ms", "share of peak here", "of data sheet", "GPU busy")
        for clients in options.clients:
            with Usage(gpu=options.device == "cuda") as usage:
                seen = load(
                    server.port,
                    plan,
                    clients=clients,
                    seconds=options.seconds,
                    path="/embed",
                    dimension=bundle.spec.dimension,
                )
            # The engine also computes the padding of a tracklet's last clip.
            shares = peak.shares(seen.rate * plan.computed * gflops / 1000)
            report.row(
                f"{clients}", f"{seen.rate:.1f}", f"{seen.median_ms:.0f}", f"{seen.p99_ms:.0f}", *shares, f"{usage}"
            )
        report.end_table()


def _unit(embeddings: Embeddings) -> Embeddings:
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))


def _numbers(text: str) -> Sequence[int]:
    return tuple(int(part) for part in text.split(",") if part)


def _options() -> argparse.Namespace:
    devices: tuple[Literal["cuda", "cpu"], ...] = ("cuda", "cpu")
    parser = argparse.ArgumentParser(
        prog="benchmarks.cuda", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=devices, default="cuda", help="cpu rehearses")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--batches", type=_numbers, default=(1, 16, 256), help="clips per call, powers of two")
    parser.add_argument(
        "--clients", type=_numbers, default=(1, 16, 64), help="numbers of clients; empty skips the service"
    )
    parser.add_argument(
        "--networks", default="light,full", help="light: --bundle; full: the paper's network with fresh weights"
    )
    parser.add_argument("--bundle", type=Path, default=BUNDLED, help="the light network (default: the bundled one)")
    parser.add_argument("--compared", type=int, default=16, help="number of clips that are compared with the CPU")
    parser.add_argument("--tensorrt", action="store_true", help="also measure TensorRT, which takes minutes to build")
    return parser.parse_args()


if __name__ == "__main__":
    main()
