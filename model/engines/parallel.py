"""One caller and all of an engine's streams: for evaluation and other work that comes in one line."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from model.engines.protocol import Engine


def embed_in_parallel(engine: Engine) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """``engine.embed``, with the clips of each call divided among the engine's streams. Its errors are passed on."""
    if engine.streams == 1:
        return engine.embed
    pool = ThreadPoolExecutor(engine.streams, thread_name_prefix="stream")

    def embed(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = np.array_split(clips, min(engine.streams, max(1, len(clips))))
        return np.concatenate(list(pool.map(engine.embed, parts)))

    return embed
