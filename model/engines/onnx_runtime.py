"""ONNX Runtime: on the CPU, and on NVIDIA GPUs through its CUDA provider."""

from typing import Final, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from model.bundle import INPUT_NAME, OUTPUT_NAME, Bundle
from model.engines.protocol import EngineError, EngineInfo, check_clips

__all__ = ["ORT_ERRORS", "VERSION", "OnnxRuntimeEngine", "cuda_provider_installed"]

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

    def __init__(self, bundle: Bundle, *, device: Literal["cpu", "cuda"], threads: int) -> None:
        """Open a session with ``threads`` threads inside an operator.

        Raises:
            EngineError: the model cannot be opened, or CUDA was asked for and does not work.
        """
        if bundle.is_ir:
            raise EngineError(f"{bundle.network_path}: an OpenVINO model, which only the engine openvino runs")
        self.device: Final = device
        self.threads: Final = threads
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
            self._session = onnxruntime.InferenceSession(bundle.network_path, options, providers=_providers(device))
        except ORT_ERRORS as error:
            raise EngineError(f"{bundle.network_path}: ONNX Runtime cannot open it on {device}: {error}") from error
        # A provider whose libraries do not load is dropped with a log line, and a failing run moves to the CPU:
        # both are refused.
        self._session.disable_fallback()
        if device == "cuda" and _CUDA not in self._session.get_providers():
            raise EngineError(
                "CUDA was asked for, but ONNX Runtime could not load its CUDA provider: the driver, or the CUDA and "
                f"cuDNN libraries that onnxruntime-gpu {VERSION} was built for, are missing"
            )

    @property
    def info(self) -> EngineInfo:
        """What is really running."""
        return EngineInfo(self.name, self.device, self.precision, self.threads, VERSION, self._session.get_providers()[0])

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


def _providers(device: Literal["cpu", "cuda"]) -> list[str | tuple[str, dict[str, str]]]:
    if device == "cpu":
        return [_CPU]
    if not cuda_provider_installed():
        raise EngineError(
            f"CUDA was asked for, but ONNX Runtime {VERSION} is built without it; "
            "install the `gpu` extra in place of `cpu`: pip install 'not3d[gpu]'"
        )
    options = {
        # The default tries every convolution algorithm anew for each new batch size: seconds per size.
        "cudnn_conv_algo_search": "HEURISTIC",
        # TF32 has 10 bits of mantissa; without it the GPU keeps the export's promise of 1e-3 per component.
        "use_tf32": "0",
    }
    return [(_CUDA, options), _CPU]
