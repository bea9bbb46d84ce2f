import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle import Bundle
from model.engines import EngineError, embed_in_parallel
from model.engines.onnx_runtime import OnnxRuntimeEngine


class Three:
    """Three streams of a real engine; the three calls of one caller wait for each other."""

    streams = 3

    def __init__(self, bundle: Bundle) -> None:
        self.engine = OnnxRuntimeEngine(bundle, device="cpu", threads=1)
        self.sizes: list[int] = []
        self.together = threading.Barrier(3)

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes.append(len(clips))
        if len(clips) > 1:
            self.together.wait(120)
        return self.engine.embed(clips)


def test_call_is_divided_and_rows_keep_their_order(bundle: Bundle, rng: np.random.Generator) -> None:
    three = Three(bundle)
    clips = rng.integers(0, 256, (8, *bundle.spec.clip_shape), dtype=np.uint8)
    rows = embed_in_parallel(three)(clips)  # type: ignore[arg-type]  # only what embed_in_parallel uses
    np.testing.assert_allclose(rows, three.engine.embed(clips), atol=1e-4)
    assert sorted(three.sizes) == [2, 3, 3]


def test_one_clip_is_one_call_and_no_clip_is_an_error(bundle: Bundle, rng: np.random.Generator) -> None:
    three = Three(bundle)
    embed = embed_in_parallel(three)  # type: ignore[arg-type]
    clip = rng.integers(0, 256, (1, *bundle.spec.clip_shape), dtype=np.uint8)
    assert embed(clip).shape == (1, bundle.spec.dimension)
    assert three.sizes == [1]
    with pytest.raises(EngineError, match="clips must be"):
        embed(clip[:0])
