"""What an operator decides about the GPU, and the batch sizes that an engine prepares for. Imports no engine."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CudaOptions:
    """How the network runs on an NVIDIA GPU.

    ``precision``: "auto" takes f16 where the self-test passes in it and f32 elsewhere, with a warning; "f16" and "f32"
    take what they say or fail. ``memory_mb`` is the most that weights, activations and workspaces may take, in MiB;
    CUDA itself and the buffers of inputs and outputs come on top. ``largest_batch`` is the largest number of clips of
    one call. ``tensorrt`` asks for TensorRT, whose engine takes minutes to build at the first start.
    ``graphs`` and ``channels_last`` ask for what is dropped, with a log line, where it does not work: captured CUDA
    graphs, and convolutions in the NHWC layout that tensor cores read. ``exhaustive_search`` times every convolution
    algorithm at start instead of asking cuDNN's heuristic. ``large_workspace`` lets cuDNN take as much memory as an
    algorithm asks for, without a memory limit; ResNets have been seen to be faster either way.
    """

    precision: Literal["auto", "f16", "f32"] = "auto"
    memory_mb: int | None = None
    largest_batch: int = 32
    tensorrt: bool = False
    graphs: bool = True
    channels_last: bool = True
    exhaustive_search: bool = False
    large_workspace: bool = True
