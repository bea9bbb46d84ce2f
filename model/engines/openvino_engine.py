"""OpenVINO on the CPU."""

import ctypes
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, Final, Literal

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino.passes import ConstantFolding, Manager

from model.bundle import INPUT_NAME, Bundle
from model.engines.protocol import EngineError, EngineInfo, Tensor, check_clips, check_signature

VERSION: Final[str] = openvino.__version__

_PRECISIONS = {openvino.Type.f32: "f32", openvino.Type.bf16: "bf16", openvino.Type.f16: "f16"}

_TYPES = {"u8": "uint8", "f32": "float32"}

# Measured with the full-size model and with the light one, bf16 and int8, on two cores with AVX-512:
# - One stream per core (THROUGHPUT) against all cores for one call (LATENCY): 4 % more frames per second on an idle
#   machine and 10 to 15 % beside the service's decoding, because threads that compute one call wait for each other
#   after every layer. But a single clip takes nearly twice as long. So the network is compiled twice, and a call that
#   would leave cores idle uses the one for all cores. The cost is a second copy of the weights, in the order that the
#   processor needs.
# - OpenVINO's cache of compiled networks against compiling at each start, when weights are folded: not faster, and the
#   file, which holds the weights as f32, is mapped into memory once for each compiled network.
# - A dynamic number of clips against one compiled network for each of a fixed set of batch sizes: 2 to 6 % slower, and
#   25 % slower for a single clip of the light model. In exchange there is one copy of the weights instead of five, and
#   any N runs without compiling again.
# - Pinned threads wait for a core that another process uses: beside one busy process they were eight times slower than
#   free threads, and the service's own decoding is such a process.
_MAX_STREAMS = 8
_SINGLE_CALL = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}


class OpenVinoEngine:
    """A bundle's network compiled for this CPU.

    `streams` calls run side by side, each with its share of `threads`; more calls wait. A single call with fewer clips
    than streams gets all threads.
    """

    name: Final = "openvino"
    device: Final = "cpu"

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int,
        precision: Literal["auto", "f32", "bf16"] = "auto",
    ) -> None:
        """Compile the network.

        Args:
            bundle: the bundle.
            threads: CPU threads of all streams together.
            precision: "auto" leaves the arithmetic to OpenVINO: bf16 if the CPU has instructions for it (AMX, AVX-512
                BF16), otherwise f32. A quantised network computes in int8; its other parts compute in `precision`.

        Raises:
            EngineError: the network cannot be compiled, is another one than the bundle says, or this CPU does not
                compute in `precision`.
            BundleError: the network was changed after the bundle was loaded.
        """
        self.threads: Final = threads
        self._spec = bundle.spec
        self.streams: Final = min(threads, _MAX_STREAMS)
        self._lock = threading.Lock()
        self._calls = 0
        config: dict[str, Any] = {"ENABLE_CPU_PINNING": False, "INFERENCE_NUM_THREADS": threads}
        if precision != "auto":
            config["INFERENCE_PRECISION_HINT"] = precision
        try:
            core = openvino.Core()
            with preserve_signal_stack():
                network = core.read_model(*bundle.read_network())
                inputs, outputs = _tensors(network.inputs), _tensors(network.outputs)
                check_signature(bundle.network_path, inputs, outputs, bundle.spec)
                _fold_weights(network)
                wide = core.compile_model(network, "CPU", config | _SINGLE_CALL)
                narrow = wide
                if self.streams > 1:
                    side_by_side = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": self.streams}
                    narrow = core.compile_model(network, "CPU", config | side_by_side)
            self._wide = wide.create_infer_request()
            self._narrow: SimpleQueue[Any] = SimpleQueue()
            for _ in range(self.streams):
                self._narrow.put(narrow.create_infer_request())
            used = wide.get_property("INFERENCE_PRECISION_HINT")
        except RuntimeError as error:
            raise EngineError(
                f"{bundle.network_path}: OpenVINO cannot compile it: {' '.join(str(error).split())}"
            ) from error
        if used not in _PRECISIONS:
            raise EngineError(f"OpenVINO computes in {used}, whose accuracy was not measured; ask for f32")
        if precision not in {"auto", _PRECISIONS[used]}:
            raise EngineError(f"OpenVINO computes in {_PRECISIONS[used]} on this CPU, not in {precision}")
        self.precision: Final = "int8" if _is_quantised(network) else _PRECISIONS[used]

    @property
    def info(self) -> EngineInfo:
        """See `Engine.info`."""
        return EngineInfo(self.name, self.device, self.precision, self.threads, VERSION, "CPU")

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.embed`."""
        check_clips(clips, self._spec)
        with self._lock:
            self._calls += 1
            single = self._calls == 1 and len(clips) < self.streams
        try:
            return self._infer(self._wide, clips) if single else self._infer_narrow(clips)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed on {len(clips)} clips: {error}") from error
        finally:
            with self._lock:
                self._calls -= 1

    def _infer_narrow(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        request = self._narrow.get()
        try:
            return self._infer(request, clips)
        finally:
            self._narrow.put(request)

    def _infer(self, request: Any, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        (embeddings,) = request.infer({INPUT_NAME: np.ascontiguousarray(clips)}).values()
        # The request's output buffer is overwritten by its next call.
        return np.array(embeddings, dtype=np.float32)


def _is_quantised(network: Any) -> bool:
    return any(node.get_type_name() == "FakeQuantize" for node in network.get_ops())


def _fold_weights(network: Any) -> None:
    """Replace f16 weights and their conversion by f32 weights, in place.

    Each compiled network would convert them for itself and keep the result; these are shared. A quantised network stays
    unchanged: folded, its weights would no longer be int8.
    """
    if _is_quantised(network):
        return
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(network)


def _tensors(ports: Sequence[Any]) -> list[Tensor]:
    return [
        Tensor(
            min(port.get_names(), default=""),
            _TYPES.get(name := port.get_element_type().get_type_name(), name),
            tuple(None if axis.is_dynamic else axis.get_length() for axis in _axes(port.get_partial_shape())),
        )
        for port in ports
    ]


def _axes(shape: Any) -> Sequence[Any]:
    return () if shape.rank.is_dynamic else list(shape)


class _Stack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def preserve_signal_stack() -> Iterator[None]:
    """Restore the calling thread's alternate signal stack at the end (on Linux).

    Each model that OpenVINO 2026 compiles on x86 installs an alternate signal stack in the calling thread, and restores
    the previous one when it is freed. If two models are freed in the order in which they were made, the second one
    restores the freed stack of the first, and the next signal (Ctrl-C, SIGTERM) is a segmentation fault.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None)
    before = _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
