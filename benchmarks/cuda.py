"""Measure the network on an NVIDIA GPU, alone and behind HTTP, against its f16 peak: `python -m benchmarks.cuda`.

`bash benchmarks/cuda.sh` makes an environment, runs the GPU tests and then this program, not yet run on a GPU.
`--device cpu` rehearses on a machine without a GPU: the same code on ONNX Runtime's CPU provider; its figures mean
nothing.
"""

import argparse
import logging
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from benchmarks.process import running_service
from benchmarks.report import Report, describe_machine
from benchmarks.serving.load import Crops, decode_clips, read_crops, send_load, write_plan
from model.bundle import BUNDLED, Bundle
from model.cgroups import available_cpus
from model.engines.cuda import CudaEngine, CudaPlan, cuda_plans
from model.engines.onnx_runtime import OnnxRuntimeEngine
from model.engines.protocol import CudaOptions, EngineError

MAX_DIFFERENCE = 1e-2
"""Largest allowed difference of a component of a unit-length embedding between GPU and CPU in f32."""
COMPARED_CLIPS = 16
LENGTHS = (20, 60)
REQUESTS = 64
FULL_SIZE = "from pathlib import Path; from benchmarks.full_size import write_full_size; write_full_size(Path({!r}))"

Clips = NDArray[np.uint8]
Embeddings = NDArray[np.float32]


def main() -> None:
    """Measure and print Markdown; the exit status is 1 if embeddings differ from the CPU's by more than allowed."""
    options = _options()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    report = Report()
    rehearsal = "no GPU: a rehearsal on the CPU; figures mean nothing"
    report.say(f"GPU: {rehearsal if options.device == 'cpu' else gpu_name()}. ONNX Runtime {onnxruntime.__version__}.")
    report.say(describe_machine())
    # In a separate process, so PyTorch's CUDA libraries are not loaded in this one.
    peak = float(subprocess.check_output([sys.executable, "-m", "benchmarks.peak", options.device]))
    report.say(f"f16 peak: {peak / 1e12:.3g} TFLOP/s in PyTorch's matrix products.")
    errors = []
    with tempfile.TemporaryDirectory(prefix="not3d-cuda-") as name:
        folder = Path(name)
        crops = read_crops(options.data, folder / "people")
        for bundle in _bundles(options, folder):
            errors += _measure(report, options, bundle, crops, folder / bundle.spec.name, peak)
    if errors:
        raise SystemExit("\n".join(errors))


def gpu_name() -> str:
    """Return name, driver and memory of the first GPU from `nvidia-smi`.

    Raises:
        SystemExit: `nvidia-smi` is missing or finds no GPU.
    """
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.check_output(query, text=True, timeout=60).strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise SystemExit(f"nvidia-smi finds no GPU: {error}") from error


def _bundles(options: argparse.Namespace, folder: Path) -> Iterator[Bundle]:
    if "light" in options.networks:
        yield Bundle.load(options.bundle)
    if "full" in options.networks:
        path = folder / "full-size"
        subprocess.run([sys.executable, "-c", FULL_SIZE.format(str(path))], check=True)
        yield Bundle.load(path)


def _measure(
    report: Report, options: argparse.Namespace, bundle: Bundle, crops: Crops, folder: Path, peak: float
) -> list[str]:
    """Measure a network's engines and the service; return what is wrong."""
    spec = bundle.spec
    folder.mkdir(parents=True, exist_ok=True)
    flops = 2 * count_macs(bundle.network_path) / spec.clip_length
    report.say(
        f"## {spec.name}: {spec.backbone} at {spec.frame_height}x{spec.frame_width}, clips of {spec.clip_length}, "
        f"{flops / 1e9:.3f} GFLOP a frame"
    )
    clips = decode_clips(crops, spec, max(options.batches))
    expected = _unit(OnnxRuntimeEngine(bundle, threads=available_cpus()).embed(clips[:COMPARED_CLIPS]))
    report.head("engine", "clips a call", "frames/s", "ms a call", "share of peak", "difference")
    errors = []
    for plan in _plans(options):
        try:
            difference = _measure_plan(report, options, bundle, plan, clips, expected, flops / peak, folder)
        except EngineError as error:
            reason = " ".join(str(error).split()).replace("|", "/")[:300]
            report.row(f"{plan}", "-", f"does not work: {reason}", *"-" * 3)
            if not (plan.graphs or plan.channels_last or plan.tensorrt):  # these are optional
                errors.append(f"{spec.name}, {plan}: {reason}")
            continue
        if not difference <= MAX_DIFFERENCE:
            errors.append(f"{spec.name}, {plan}: a component is {difference:.2g} from the CPU's in f32")
    report.end_table()
    if options.clients:
        _measure_service(report, options, bundle, crops, folder, flops / peak)
    return errors


def _plans(options: argparse.Namespace) -> Iterator[CudaPlan]:
    """Yield the service's plans, and those of TensorRT if wanted."""
    on_gpu = options.device == "cuda"
    yield from cuda_plans(CudaOptions(graphs=on_gpu, channels_last=on_gpu))
    if options.tensorrt:
        yield from cuda_plans(CudaOptions(tensorrt=True))


def _measure_plan(
    report: Report,
    options: argparse.Namespace,
    bundle: Bundle,
    plan: CudaPlan,
    clips: Clips,
    expected: Embeddings,
    share_per_frame: float,
    folder: Path,
) -> float:
    """Measure one plan, free its memory, and return the largest difference from the CPU."""
    started = time.perf_counter()
    tuning = replace(CudaOptions(), largest_batch=max(options.batches))
    engine = CudaEngine(bundle, plan, threads=available_cpus(), cache_dir=folder, options=tuning, device=options.device)
    opened = time.perf_counter() - started
    difference = float(np.abs(_unit(engine.embed(clips[: len(expected)])) - expected).max())
    for batch in options.batches:
        seconds = _time(engine, clips[:batch], options.seconds)
        rate = batch * bundle.spec.clip_length / seconds
        share = f"{rate * share_per_frame:.1%}"
        report.row(f"{plan}", f"{batch}", f"{rate:.1f}", f"{1000 * seconds:.2f}", share, f"{difference:.1e}")
    report.row(f"{plan}", "opening", "-", f"{1000 * opened:.0f}", *"-" * 2)
    return difference


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
    report: Report, options: argparse.Namespace, bundle: Bundle, crops: Crops, folder: Path, share_per_frame: float
) -> None:
    """Measure the service in a separate process with JPEG crops over loopback."""
    plan = write_plan(crops, folder / "plan", LENGTHS, requests=REQUESTS, clip_length=bundle.spec.clip_length)
    arguments = ("--device", options.device, "--engine", "onnxruntime")
    with running_service(bundle.path, folder / "data", *arguments) as server:
        engine = server.get("/info")["engine"]
        facts = ", ".join(f"{name} {engine[name]}" for name in ("provider", "precision", "version"))
        report.say(f"Service: {facts}, ready after {server.start_seconds:.1f} s. Warning: {engine['warning']}.")
        if engine["device"] != options.device:
            raise SystemExit(f"the service runs on {engine['device']}")
        report.head("clients", "frames/s", "median ms", "p99 ms", "share of peak")
        for clients in options.clients:
            result = send_load(
                server.port,
                plan,
                clients=clients,
                seconds=options.seconds,
                path="/embed",
                dimension=bundle.spec.dimension,
            )
            # The engine also computes the padding of a tracklet's last clip.
            share = result.rate * plan.computed_per_sent * share_per_frame
            times = f"{result.median_ms:.0f}", f"{result.p99_ms:.0f}"
            report.row(f"{clients}", f"{result.rate:.1f}", *times, f"{share:.1%}")
        report.end_table()


def _unit(embeddings: Embeddings) -> Embeddings:
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))


def count_macs(network: Path) -> int:
    """Count the multiply-accumulates of convolutions and matrix products for one clip (two FLOPs each).

    Normalisation, activations and pooling are not counted: they are bound by memory.

    Raises:
        ValueError: A shape is unknown, or the network is quantised.
    """
    model = onnx.load(network)
    (clips,) = model.graph.input
    clips.type.tensor_type.shape.dim[0].dim_value = 1
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[0].ClearField("dim_param")
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    for value in [*inferred.value_info, *inferred.input, *inferred.output]:
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = [dim.dim_value for dim in dims]
    return sum(_count(node, shapes) for node in inferred.node)


def _count(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    try:
        if node.op_type == "Conv":
            return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        if node.op_type == "MatMul":
            return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        if node.op_type == "Gemm":
            transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
            return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    except KeyError as error:
        raise ValueError(f"{node.op_type} '{node.name}': the shape of {error} is not known") from error
    if node.op_type in {"ConvTranspose", "QLinearConv", "ConvInteger", "MatMulInteger", "Einsum"}:
        raise ValueError(f"{node.op_type} '{node.name}' is not counted")
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.cuda", description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--batches", type=_numbers, default=(1, 16, 256), help="clips per call, powers of two")
    parser.add_argument("--clients", type=_numbers, default=(1, 16, 64), help="empty: without the service")
    parser.add_argument("--networks", default="light,full", help="light: --bundle; full: the paper's, fresh weights")
    parser.add_argument("--bundle", type=Path, default=BUNDLED, help="the light network (default: the bundled one)")
    parser.add_argument("--data", type=Path, help="a dataset or folder of tracklets (default: drawn people)")
    parser.add_argument("--tensorrt", action="store_true", help="also measure TensorRT, which takes minutes to build")
    return parser.parse_args()


if __name__ == "__main__":
    main()
