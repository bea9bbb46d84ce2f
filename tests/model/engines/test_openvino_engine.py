from pathlib import Path

import numpy as np
import openvino
import pytest

from model.bundle import Bundle
from model.engines import EngineError
from model.engines.openvino_engine import OpenVinoEngine
from model.engines.self_test import run_self_test


def computes_bf16() -> bool:
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_auto_takes_bf16_where_the_cpu_has_it(bundle: Bundle) -> None:
    engine = OpenVinoEngine(bundle, threads=1)

    assert engine.precision == ("bf16" if computes_bf16() else "f32")
    run_self_test(engine, bundle)


def test_a_precision_that_the_cpu_lacks_is_no_silent_f32(bundle: Bundle) -> None:
    if computes_bf16():
        assert OpenVinoEngine(bundle, threads=1, precision="bf16").precision == "bf16"
    else:
        with pytest.raises(EngineError, match="f32"):
            OpenVinoEngine(bundle, threads=1, precision="bf16")


def test_a_cache_folder_keeps_the_compiled_network(bundle: Bundle, tmp_path: Path) -> None:
    first = OpenVinoEngine(bundle, threads=1, cache_dir=tmp_path)
    assert list(tmp_path.rglob("*.blob"))
    second = OpenVinoEngine(bundle, threads=1, cache_dir=tmp_path)

    clips = bundle.golden().clips
    np.testing.assert_allclose(first.embed(clips), second.embed(clips), atol=1e-5)


def test_f32_agrees_with_the_golden_vectors_closely(bundle: Bundle) -> None:
    result = run_self_test(OpenVinoEngine(bundle, threads=1, precision="f32"), bundle)

    assert result.max_difference < 1e-4
