"""A session with inputs and outputs at fixed addresses: IO binding, and CUDA graphs, which need them.

For each batch size there is one input and one output buffer on the device, bound once. A call copies its clips into the
input, runs, and copies the output back; nothing is allocated. With CUDA graphs the kernels of a size are recorded once
and then launched as one. On the CPU the same code runs without graphs, for tests.

There is no page-locked staging buffer: clips are in ordinary memory, so it would be one more copy, and CUDA's own copy
from ordinary memory goes through page-locked memory anyway. ONNX Runtime 1.26 has none in Python either.
"""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.bundle import INPUT_NAME, OUTPUT_NAME
from model.engines.onnx_runtime import ORT_ERRORS
from model.engines.protocol import EngineError
from model.spec import BundleSpec

_LOG = logging.getLogger(__name__)
_GRAPH_ID: Final = "gpu_graph_id"
_NO_GRAPH: Final = "-1"
_RUN_ERRORS: Final = (*ORT_ERRORS, RuntimeError)
"""What a run with bound buffers raises: Python's RuntimeError in cases in which a plain run raises ONNX Runtime's."""
_MAX_REPLAY_DIFFERENCE: Final = 1e-2
"""Between a replayed graph and a plain run of the same kernels, relative to the largest component."""


@dataclass(frozen=True)
class _BoundSize:
    """One batch size: buffers at fixed addresses, their binding, and the options of plain and replayed runs."""

    clips: Any
    embeddings: Any
    binding: Any
    plain: Any
    replay: Any


class IoBindingSession:
    """Runs a session on clips uint8 `[N, T, H, W, 3]` of any N, as calls of the prepared batch sizes.

    Its own thread makes all calls: they share buffers, so they must take turns, and the CUDA provider keeps captured
    graphs per thread, so another thread would capture them again in the middle of a request.
    """

    def __init__(
        self,
        session: Any,
        spec: BundleSpec,
        *,
        device: Literal["cpu", "cuda"],
        sizes: Sequence[int],
        graphs: bool,
    ) -> None:
        """Allocate, bind and run each batch size.

        Args:
            session: an ONNX Runtime session.
            spec: the bundle's.
            device: the device of the buffers.
            sizes: the batch sizes; 1 must be among them.
            graphs: capture CUDA graphs.

        Raises:
            EngineError: out of memory, a run fails, or a captured graph does not compute the same as a plain run.
        """
        self.sizes: Final = tuple(sorted(sizes, reverse=True))
        if not self.sizes or self.sizes[-1] != 1:
            raise EngineError(f"the batch sizes {list(sizes)} lack 1, which a single clip needs")
        self._session, self._spec, self._device, self._graphs = session, spec, device, graphs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="not3d-engine")
        # Largest first: the memory that it allocates is enough for all others.
        self._bound: dict[int, _BoundSize] = {}
        self._thread.submit(self._prepare).result()

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed clips as float32 `[N, D]`. Any thread may call it.

        Raises:
            EngineError: ONNX Runtime failed.
        """
        return self._thread.submit(self._embed, clips).result()

    def _prepare(self) -> None:
        rng = np.random.default_rng(0)
        for number, size in enumerate(self.sizes, start=1):
            try:
                bound = self._bound[size] = self._bind(size, number)
                clips = rng.integers(0, 256, (size, *self._spec.clip_shape), dtype=np.uint8)
                # Twice: the second run may still allocate, which is not allowed while a graph is captured.
                for _ in range(2):
                    expected = self._run(bound, clips, bound.plain)
                if self._graphs:
                    self._run(bound, 255 - clips, bound.replay)
                    replayed = self._run(bound, clips, bound.replay)
            except _RUN_ERRORS as error:
                raise EngineError(f"ONNX Runtime cannot prepare calls of {size} clips: {error}") from error
            if self._graphs:
                self._check_replay(size, replayed, expected)

    def _bind(self, size: int, number: int) -> _BoundSize:
        make = onnxruntime.OrtValue.ortvalue_from_shape_and_type
        clips = make([size, *self._spec.clip_shape], np.uint8, self._device, 0)
        embeddings = make([size, self._spec.dimension], np.float32, self._device, 0)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(INPUT_NAME, clips)
        binding.bind_ortvalue_output(OUTPUT_NAME, embeddings)
        plain, replay = onnxruntime.RunOptions(), onnxruntime.RunOptions()
        if self._graphs:
            plain.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
            # One number for each size: a graph that is replayed with another shape computes the captured shape.
            replay.add_run_config_entry(_GRAPH_ID, str(number))
        return _BoundSize(clips, embeddings, binding, plain, replay)

    def _embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows: list[NDArray[np.float32]] = []
        done = 0
        try:
            while done < len(clips):
                size = next(size for size in self.sizes if size <= len(clips) - done)
                bound = self._bound[size]
                rows.append(self._run(bound, clips[done : done + size], bound.replay))
                done += size
        except _RUN_ERRORS as error:
            raise EngineError(f"ONNX Runtime failed on {len(clips)} clips: {error}") from error
        return np.concatenate(rows)

    def _run(self, bound: _BoundSize, clips: NDArray[np.uint8], options: Any) -> NDArray[np.float32]:
        bound.clips.update_inplace(np.ascontiguousarray(clips))
        self._session.run_with_iobinding(bound.binding, options)
        # A copy: on the CPU this may be the buffer itself.
        return np.array(bound.embeddings.numpy(), dtype=np.float32)

    def _check_replay(self, size: int, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        largest = float(np.abs(expected).max())
        difference = float(np.abs(found - expected).max())
        if not difference <= _MAX_REPLAY_DIFFERENCE * largest:
            raise EngineError(
                f"the CUDA graph of {size} clips does not compute the same as a plain run: "
                f"the difference is {difference:.2g}, with components up to {largest:.2g}"
            )
