"""ONNX Runtime on the CPU; `model.engines.cuda` runs it on NVIDIA GPUs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from model.bundle import INPUT_NAME, OUTPUT_NAME, Bundle
from model.engines.protocol import EngineError, EngineInfo, Tensor, check_clips, check_signature
from model.spec import BundleSpec

VERSION: Final[str] = onnxruntime.__version__

CUDA: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"
ORT_ERRORS = (
    ort_state.EPFail,
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NoSuchFile,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
)
"""What ONNX Runtime raises: its exceptions have no common base class but Exception."""
_TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


def cuda_provider_installed() -> bool:
    """Return whether this ONNX Runtime was built with CUDA; only an opened session tells whether CUDA works."""
    return CUDA in onnxruntime.get_available_providers()


def open_session(network: bytes, path: Path, spec: BundleSpec, options: Any, providers: Sequence[Any]) -> Any:
    """Open a session and compare its inputs and outputs with the bundle's `model.json`.

    Args:
        network: the bytes of the ONNX file.
        path: of that file, for messages.
        spec: the bundle's.
        options: `onnxruntime.SessionOptions`.
        providers: in the order in which they take nodes, with their options.

    Raises:
        EngineError: ONNX Runtime cannot open it, or it is another network than the spec says.
    """
    try:
        session = onnxruntime.InferenceSession(network, options, providers=providers)
    except ORT_ERRORS as error:
        raise EngineError(f"{path}: ONNX Runtime cannot open it: {error}") from error
    check_signature(path, _tensors(session.get_inputs()), _tensors(session.get_outputs()), spec)
    return session


def _tensors(arguments: Sequence[Any]) -> list[Tensor]:
    return [
        Tensor(
            argument.name,
            _TYPES.get(argument.type, argument.type),
            tuple(axis if isinstance(axis, int) else None for axis in argument.shape),
        )
        for argument in arguments
    ]


class OnnxRuntimeEngine:
    """A bundle's network in one ONNX Runtime session, whose `run` any number of threads may call at once."""

    name: Final = "onnxruntime"
    precision: Final = "f32"

    def __init__(self, bundle: Bundle, *, device: Literal["cpu"] = "cpu", threads: int) -> None:
        """Open a session with `threads` threads inside an operator.

        Raises:
            EngineError: the network cannot be opened, or is another one than the bundle says.
            BundleError: the network was changed after the bundle was loaded.
        """
        if bundle.is_ir:
            raise EngineError(f"{bundle.network_path}: an OpenVINO model, which only the engine openvino runs")
        self.device: Final = device
        self.threads: Final = threads
        self.streams: Final = 1  # one call uses all threads
        self._spec = bundle.spec
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Threads that spin between operators take time from decoding: 1.5 times slower beside a busy process.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The graph is optimised at every start; its warnings are about constants that could not be folded.
        options.log_severity_level = 3
        (network,) = bundle.read_network()
        self._session = open_session(network, bundle.network_path, bundle.spec, options, [CPU])

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`."""
        provider = self._session.get_providers()[0]
        return EngineInfo(self.name, self.device, self.precision, self.threads, VERSION, provider)

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.embed`."""
        check_clips(clips, self._spec)
        try:
            (embeddings,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: clips})
        except ORT_ERRORS as error:
            raise EngineError(f"ONNX Runtime failed on {len(clips)} clips: {error}") from error
        return np.asarray(embeddings, dtype=np.float32)
