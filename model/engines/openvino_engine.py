"""OpenVINO on the CPU."""

import threading
from queue import SimpleQueue
from typing import Any, Final, Literal

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino.passes import ConstantFolding, Manager

from model.bundle import INPUT_NAME, Bundle
from model.engines.protocol import EngineError, EngineInfo, check_clips
from model.engines.signal_stack import kept_signal_stack

VERSION: Final[str] = openvino.__version__

_PRECISIONS = {openvino.Type.f32: "f32", openvino.Type.bf16: "bf16", openvino.Type.f16: "f16"}

# Measured with system A and with the light model, bf16 and int8 on two cores with AVX-512:
# - One stream per core (THROUGHPUT) against all cores for one call (LATENCY): 4 % more frames per second on an idle
#   machine and 10 to 15 % beside the service's decoding, since threads that compute one call wait for each other after
#   every layer. But a lone clip takes nearly twice as long. So there are two compiled networks, and a call that would
#   leave cores idle has the one that uses all of them. The price is a second copy of the weights in the order in which
#   the processor wants them.
# - OpenVINO's cache of compiled networks against compiling at each start, once weights are folded: no sooner, and the
#   file, which holds the weights as f32, is mapped into memory once for each compiled network.
# - A dynamic number of clips against one compiled network for each of a fixed set of batch sizes: 2 to 6 % slower, but
#   25 % for a lone clip of the light model. In exchange there is one copy of the weights instead of five, and any N
#   runs without compiling anew.
# - Pinned threads wait for a core that someone else uses: beside one busy process they were eight times slower than
#   free ones, and the service's own decoding is such a neighbour.
_MOST_STREAMS = 8
_ALONE = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}


class OpenVinoEngine:
    """A bundle's network compiled for this CPU.

    ``streams`` calls run side by side, each with its share of ``threads``; further ones wait. A call that comes alone
    with fewer clips than there are streams has all threads.
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
        """Compile the network for ``threads`` threads.

        ``precision="auto"`` leaves the arithmetic to OpenVINO: bf16 where the CPU has instructions for it (AMX, AVX-512
        BF16), else f32. A quantised network computes in int8, and what is not quantised of it in ``precision``.

        Raises:
            EngineError: the network cannot be compiled, or this CPU does not do ``precision``.
        """
        self.threads: Final = threads
        self._spec = bundle.spec
        self.streams: Final = min(threads, _MOST_STREAMS)
        self._lock = threading.Lock()
        self._calls = 0
        config: dict[str, Any] = {"ENABLE_CPU_PINNING": False, "INFERENCE_NUM_THREADS": threads}
        if precision != "auto":
            config["INFERENCE_PRECISION_HINT"] = precision
        try:
            core = openvino.Core()
            with kept_signal_stack():
                network = _with_own_weights(core.read_model(bundle.network_path))
                wide = core.compile_model(network, "CPU", config | _ALONE)
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
            raise EngineError(f"{bundle.network_path}: OpenVINO cannot compile it: {error}") from error
        if used not in _PRECISIONS:
            raise EngineError(f"OpenVINO computes in {used}, whose accuracy was never judged; ask for f32")
        if precision not in {"auto", _PRECISIONS[used]}:
            raise EngineError(f"OpenVINO computes in {_PRECISIONS[used]} on this CPU, not in {precision}")
        self.precision: Final = "int8" if _is_quantised(network) else _PRECISIONS[used]

    @property
    def info(self) -> EngineInfo:
        """What is really running."""
        return EngineInfo(self.name, self.device, self.precision, self.threads, VERSION, "CPU")

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed clips uint8 ``[N, T, H, W, 3]`` as float32 ``[N, D]``, not normalised.

        Raises:
            EngineError: wrong shape or element type, or OpenVINO failed.
        """
        check_clips(clips, self._spec)
        with self._lock:
            self._calls += 1
            alone = self._calls == 1 and len(clips) < self.streams
        try:
            return self._infer(self._wide, clips) if alone else self._infer_narrow(clips)
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


def _with_own_weights(network: Any) -> Any:
    """The network with f32 weights in place of f16 ones and their conversion.

    Each compiled network would convert them for itself and keep the result; these it shares. A quantised network stays
    as it is: folded, its weights would be numbers that no longer tell of int8.
    """
    if _is_quantised(network):
        return network
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(network)
    return network
