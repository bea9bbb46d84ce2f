"""ONNX Runtime on the CPU; `model.engines.cuda` runs it on NVIDIA GPUs."""

from typing import Final, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from model.bundle import INPUT_NAME, OUTPUT_NAME, Bundle
from model.engines.protocol import EngineError, EngineInfo, check_clips

VERSION: Final[str] = onnxruntime.__version__

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
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
"""What ONNX Runtime raises: its exceptions share no base class but Exception."""


def cuda_provider_installed() -> bool:
    """Tell whether this ONNX Runtime was built with CUDA; whether it works shows only once a session exists."""
    return _CUDA in onnxruntime.get_available_providers()


class OnnxRuntimeEngine:
    """A bundle's network in one ONNX Runtime session, whose ``run`` any number of threads may call at once."""

    name: Final = "onnxruntime"
    precision: Final = "f32"

    def __init__(self, bundle: Bundle, *, device: Literal["cpu"] = "cpu", threads: int) -> None:
        """Open a session with ``threads`` threads inside an operator.

        Raises:
            EngineError: the model cannot be opened.
        """
        if bundle.is_ir:
            raise EngineError(f"{bundle.network_path}: an OpenVINO model, which only the engine openvino runs")
        self.device: Final = device
        self.threads: Final = threads
        self.streams: Final = 1  # one call keeps all threads busy
        self._spec = bundle.spec
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Threads that spin between operators steal the time of decoding: beside a busy process, 1.5 times slower.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The graph is prepared anew at every start; its warnings are about foldings that did not apply.
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(bundle.network_path, options, providers=[_CPU])
        except ORT_ERRORS as error:
            raise EngineError(f"{bundle.network_path}: ONNX Runtime cannot open it on {device}: {error}") from error

    @property
    def info(self) -> EngineInfo:
        """What is really running."""
        provider = self._session.get_providers()[0]
        return EngineInfo(self.name, self.device, self.precision, self.threads, VERSION, provider)

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed clips uint8 ``[N, T, H, W, 3]`` as float32 ``[N, D]``, not normalised.

        Raises:
            EngineError: wrong shape or element type, or ONNX Runtime failed (out of memory, say).
        """
        check_clips(clips, self._spec)
        try:
            (embeddings,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: clips})
        except ORT_ERRORS as error:
            raise EngineError(f"ONNX Runtime failed on {len(clips)} clips: {error}") from error
        return np.asarray(embeddings, dtype=np.float32)
