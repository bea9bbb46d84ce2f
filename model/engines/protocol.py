"""What every engine offers, so that the service never asks which one runs."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from model.errors import Not3dError
from model.spec import BundleSpec

EngineName = Literal["onnxruntime", "openvino"]


class EngineError(Not3dError):
    """An engine cannot be opened or cannot run; the message says what to install or to change."""


@dataclass(frozen=True)
class EngineInfo:
    """What is really running, for people: ``precision`` is that of the arithmetic, ``version`` the engine package's.

    ``provider`` is what computes inside the package, asked of the opened network and not of the options:
    "CPUExecutionProvider", "CUDAExecutionProvider" or "TensorrtExecutionProvider" for ONNX Runtime, "CPU" for OpenVINO.
    ``warning`` says in a sentence what was asked for and is not running, or is None.
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
        """Where the network really runs."""
        ...

    @property
    def precision(self) -> str:
        """The arithmetic, "f32", "bf16", "f16", "tf32" or "int8"."""
        ...

    @property
    def threads(self) -> int:
        """CPU threads that one engine may use."""
        ...

    @property
    def streams(self) -> int:
        """Calls of ``embed`` that run side by side; with fewer at a time, some of the machine stays idle."""
        ...

    @property
    def info(self) -> EngineInfo:
        """All of the above, the package's version, and what computes inside it."""
        ...

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed clips uint8 ``[N, T, H, W, 3]`` (RGB) as float32 ``[N, D]``, not normalised. Any thread may call.

        Raises:
            EngineError: the clips have another shape or element type than the bundle's, or the engine failed.
        """
        ...


def batch_sizes(largest: int) -> tuple[int, ...]:
    """List the sizes of a call, largest first: ``largest`` and the powers of two below, so that 1 is always among them.

    A batch takes the largest size that is full, so that no clip is ever computed for padding.
    """
    powers = [2**power for power in range(largest.bit_length()) if 2**power < largest]
    return (largest, *reversed(powers))


def check_clips(clips: NDArray[np.uint8], spec: BundleSpec) -> None:
    """Refuse clips that are not uint8 ``[N, T, H, W, 3]`` of the bundle's sizes, N at least 1.

    Some engines would read past such an array, others crash on an empty one.

    Raises:
        EngineError: naming what was expected and what came.
    """
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[1:] != spec.clip_shape or not len(clips):
        raise EngineError(
            f"clips must be uint8 {['N', *spec.clip_shape]}, not {clips.dtype} {list(clips.shape)}; "
            "the sizes are those of the bundle's model.json"
        )
