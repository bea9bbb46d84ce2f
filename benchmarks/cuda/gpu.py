"""The GPU: name, measured peak, peak of its data sheet, utilisation; and the multiplications of a network."""

import json
import math
import re
import statistics
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import onnx

_SHEETS = (
    ("B200", 2250.0),
    ("H200 NVL", 835.5),
    ("H200", 989.5),
    ("H100 NVL", 835.5),
    ("H100 PCIe", 756.0),
    ("H100", 989.5),
    ("A100", 312.0),
    ("A30", 165.0),
    ("A40", 149.7),
    ("A10", 125.0),
    ("L40S", 362.1),
    ("L40", 181.1),
    ("L4", 121.0),
    ("T4", 65.0),
    ("V100-PCIE", 112.0),
    ("V100", 125.0),
)
"""Part of the name that `nvidia-smi` prints (first match) and TFLOP/s of dense f16 products on tensor cores, from
NVIDIA's data sheets; half the number if the sheet gives it with sparsity only."""

_QUERY_SECONDS = 0.2


def gpu_name() -> str:
    """Return name, memory and driver of the first GPU from `nvidia-smi`.

    Raises:
        SystemExit: `nvidia-smi` is missing or finds no GPU.
    """
    try:
        said = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader", "--id=0"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise SystemExit(f"nvidia-smi finds no GPU: {error}") from error
    name, driver, memory = (part.strip() for part in said.strip().split(","))
    return f"{name}, {memory}, driver {driver}"


def sheet_peak(name: str) -> float | None:
    """Return the data sheet's TFLOP/s of dense f16 products, or None for an unknown GPU."""
    words = name.split(",", maxsplit=1)[0]
    return next((peak for part, peak in _SHEETS if _has(words, part)), None)


def _has(name: str, part: str) -> bool:
    """Compare whole words: `A10` is in "NVIDIA A10" but not in "NVIDIA A100-SXM4-80GB"."""
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", name) is not None


def measure_peak(device: str) -> float:
    """Return TFLOP/s of large f16 products in PyTorch, in a separate process because of its CUDA libraries.

    On the CPU (rehearsal) the products are small and in f32.

    Raises:
        SystemExit: PyTorch is missing or has no CUDA.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cuda.peak", device], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the peak cannot be measured: python -m benchmarks.cuda.peak {device} failed")
    return float(json.loads(done.stdout)["tflops"])


@dataclass(frozen=True)
class _Moment:
    utilisation: float
    memory: float


class Usage:
    """Records `nvidia-smi` five times a second while the context is open; does nothing without a GPU."""

    def __init__(self, *, gpu: bool) -> None:
        self._gpu = gpu
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._seen: list[_Moment] = []

    def __enter__(self) -> "Usage":
        if self._gpu:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._gpu:
            self._thread.join()

    def __str__(self) -> str:
        if not self._seen:
            return "-"
        median = statistics.median(moment.utilisation for moment in self._seen)
        return f"{median:.0f} %, {max(moment.memory for moment in self._seen):.0f} MiB"

    def _run(self) -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "--id=0"]
        while not self._stop.wait(_QUERY_SECONDS):
            said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
            self._add(said.stdout)

    def _add(self, line: str) -> None:
        try:
            utilisation, memory = (float(part) for part in line.strip().split(","))
        except ValueError:
            return  # drivers print "[N/A]" for unsupported values
        self._seen.append(_Moment(utilisation, memory))


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
