"""What every engine offers, so that its callers need not know which one runs."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from model.bundle import INPUT_NAME, OUTPUT_NAME, SPEC_FILE
from model.errors import Not3dError
from model.spec import BundleSpec

EngineName = Literal["onnxruntime", "openvino"]


class EngineError(Not3dError):
    """An engine cannot be opened or cannot run; the message says what to install or to change."""


@dataclass(frozen=True)
class EngineInfo:
    """What really runs, for people: `precision` is that of the arithmetic, `version` the engine package's.

    `provider` is what computes inside the package, as the opened network says: "CPUExecutionProvider",
    "CUDAExecutionProvider" or "TensorrtExecutionProvider" for ONNX Runtime, "CPU" for OpenVINO. `warning` says in one
    sentence what was asked for and does not run, or is None.
    """

    name: EngineName
    device: Literal["cpu", "cuda"]
    precision: str
    threads: int
    version: str
    provider: str
    warning: str | None = None


class Engine(Protocol):
    """A network that is ready to run."""

    @property
    def name(self) -> EngineName:
        """The package that runs the network."""
        ...

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """The device that the network really runs on."""
        ...

    @property
    def precision(self) -> str:
        """The arithmetic: "f32", "bf16", "f16", "tf32" or "int8"."""
        ...

    @property
    def threads(self) -> int:
        """CPU threads that this engine may use."""
        ...

    @property
    def streams(self) -> int:
        """Number of calls of `embed` that run side by side; fewer calls at a time leave cores idle."""
        ...

    @property
    def info(self) -> EngineInfo:
        """All of the above, the package's version and its provider."""
        ...

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed clips uint8 `[N, T, H, W, 3]` (RGB) as float32 `[N, D]`, not normalised. Any thread may call it.

        Raises:
            EngineError: the clips do not have the shape or the type of the bundle, or the engine failed (for example,
                out of memory).
        """
        ...


@dataclass(frozen=True)
class CudaOptions:
    """How the network runs on an NVIDIA GPU.

    Attributes:
        precision: "auto" takes f16 if the self-test passes in it, otherwise f32 with a warning; "f16" and "f32" fail if
            they do not pass.
        memory_mb: limit for weights, activations and workspaces in MiB. CUDA itself and the buffers of inputs and
            outputs need more.
        largest_batch: the largest number of clips in one call.
        tensorrt: use TensorRT, which needs minutes at the first start to build its engine.
        graphs: capture CUDA graphs; left out, with a log line, if they do not work.
        channels_last: run convolutions in the NHWC layout, which tensor cores read; left out like `graphs`.
    """

    precision: Literal["auto", "f16", "f32"] = "auto"
    memory_mb: int | None = None
    largest_batch: int = 32
    tensorrt: bool = False
    graphs: bool = True
    channels_last: bool = True


class Tensor(NamedTuple):
    """An input or output of an opened network: `type` as numpy names it, dynamic axes as None."""

    name: str
    type: str
    shape: tuple[int | None, ...]


def check_signature(path: Path, inputs: Sequence[Tensor], outputs: Sequence[Tensor], spec: BundleSpec) -> None:
    """Compare the inputs and outputs of an opened network with the bundle's `model.json`.

    Raises:
        EngineError: naming the file, the input or output, and what differs.
    """
    clips = Tensor(INPUT_NAME, "uint8", (None, *spec.clip_shape))
    embeddings = Tensor(OUTPUT_NAME, "float32", (None, spec.dimension))
    for role, found, wanted in (("input", inputs, clips), ("output", outputs, embeddings)):
        if fault := _find_fault(found, wanted):
            raise EngineError(f"{path}: {role} '{wanted.name}': {fault}")


def _find_fault(tensors: Sequence[Tensor], wanted: Tensor) -> str | None:
    names = [tensor.name for tensor in tensors]
    if names != [wanted.name]:
        return f"must be the only one, found {names}"
    (tensor,) = tensors
    shape = ["N" if axis is None else axis for axis in tensor.shape]
    if tensor.type != wanted.type:
        return f"expected {wanted.type}, found {tensor.type}"
    if not shape or tensor.shape[0] is not None:
        return f"the first axis must be dynamic, found shape {shape}"
    if tensor.shape != wanted.shape:
        return f"shape {shape} contradicts {SPEC_FILE}, which asks for {['N', *wanted.shape[1:]]}"
    return None


def check_clips(clips: NDArray[np.uint8], spec: BundleSpec) -> None:
    """Refuse clips that are not uint8 `[N, T, H, W, 3]` of the bundle's sizes, N at least 1.

    Some engines would read past the end of such an array, and some crash on an empty one.

    Raises:
        EngineError: naming what was expected and what was given.
    """
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[1:] != spec.clip_shape or not len(clips):
        raise EngineError(
            f"clips must be uint8 {['N', *spec.clip_shape]}, not {clips.dtype} {list(clips.shape)}; "
            f"the sizes are those of the bundle's {SPEC_FILE}"
        )


def batch_sizes(largest: int) -> tuple[int, ...]:
    """Return the sizes of a call, largest first: `largest` and the powers of two below it, so always 1.

    A batch takes the largest size that it fills, so no clip is computed for padding.
    """
    powers = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return (largest, *reversed(powers))


def embed_in_parallel(engine: Engine) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return a function like `engine.embed` that divides the clips of one call among the engine's streams.

    For evaluation and other callers that make one call at a time.
    """
    if engine.streams == 1:
        return engine.embed
    pool = ThreadPoolExecutor(engine.streams, thread_name_prefix="stream")

    def embed(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = np.array_split(clips, min(engine.streams, max(1, len(clips))))
        return np.concatenate(list(pool.map(engine.embed, parts)))

    return embed
