from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle import Bundle
from model.engines import Engine, open_engine
from service.loaded_model import warm_up
from service.settings import Settings


@pytest.mark.parametrize(("device", "batches"), [("cpu", [3, 3]), ("cuda", [])])
def test_an_engine_on_the_cpu_gets_its_memory_at_the_start(
    bundle: Path, device: str, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = Bundle.load(bundle)
    engine: Engine = open_engine(loaded, "cpu", engine="onnxruntime", threads=1)
    seen = []
    embed = engine.embed

    def record(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.append(len(clips))
        return embed(clips)

    monkeypatch.setattr(engine, "embed", record)
    monkeypatch.setattr(engine, "device", device)
    warm_up(engine, loaded, Settings(max_batch=3))
    assert seen == batches
