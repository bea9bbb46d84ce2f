from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from model.bundle import Bundle
from model.engines.io_binding_session import IoBindingSession
from model.engines.onnx_runtime import OnnxRuntimeEngine
from model.engines.protocol import EngineError, batch_sizes


def bind(bundle: Bundle, sizes: tuple[int, ...], *, graphs: bool = False) -> IoBindingSession:
    session = onnxruntime.InferenceSession(bundle.network_path, providers=["CPUExecutionProvider"])
    return IoBindingSession(session, bundle.spec, device="cpu", sizes=sizes, graphs=graphs)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9, 21])
def test_any_number_of_clips_gives_the_rows_of_plain_runs(bundle: Bundle, rng: np.random.Generator, count: int) -> None:
    clips = rng.integers(0, 256, (count, *bundle.spec.clip_shape), dtype=np.uint8)
    expected = OnnxRuntimeEngine(bundle, threads=1).embed(clips)

    found = bind(bundle, batch_sizes(8)).embed(clips)

    assert found.shape == (count, bundle.spec.dimension)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_clips_may_be_non_contiguous(bundle: Bundle, clips: NDArray[np.uint8]) -> None:
    """A view in reverse order: buffers are copied byte by byte, so it must be made contiguous."""
    backwards = clips[:, ::-1]
    assert not backwards.flags.c_contiguous

    found = bind(bundle, (4, 1)).embed(backwards)

    np.testing.assert_allclose(found, bind(bundle, (4, 1)).embed(backwards.copy()))


def test_earlier_result_does_not_change(bundle: Bundle, clips: NDArray[np.uint8]) -> None:
    """The next call uses the same output buffer."""
    bound = bind(bundle, (1,))
    first = bound.embed(clips[:1])
    kept = first.copy()

    bound.embed(clips[1:2])

    assert np.array_equal(first, kept)


def test_threads_take_turns(bundle: Bundle, rng: np.random.Generator) -> None:
    """Sixteen threads share the buffers of three sizes; each gets its own embeddings."""
    bound = bind(bundle, (4, 2, 1))
    many = [rng.integers(0, 256, (1 + i % 6, *bundle.spec.clip_shape), dtype=np.uint8) for i in range(160)]
    expected = [bound.embed(clips) for clips in many]

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(bound.embed, many))

    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_batch_size_1_is_required(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="lack 1"):
        bind(bundle, (8, 4))


def test_network_that_cannot_run_is_an_error(bundle: Bundle, tmp_path: Path) -> None:
    wrong = bundle.spec.model_copy(update={"clip_length": bundle.spec.clip_length + 1})
    session = onnxruntime.InferenceSession(bundle.network_path, providers=["CPUExecutionProvider"])

    with pytest.raises(EngineError, match="cannot prepare calls of 2 clips"):
        IoBindingSession(session, wrong, device="cpu", sizes=(2, 1), graphs=False)


def test_replay_of_other_results_is_refused(bundle: Bundle) -> None:
    """Captured graphs of another size, or with an input that is no longer read, give other results."""
    bound = bind(bundle, (1,))
    plain = np.ones((1, bundle.spec.dimension), np.float32)

    bound._check_replay(1, plain * 1.001, plain)
    for replayed in (plain * 1.1, np.full_like(plain, np.nan)):
        with pytest.raises(EngineError, match="graph of 1 clips does not compute the same"):
            bound._check_replay(1, replayed, plain)
