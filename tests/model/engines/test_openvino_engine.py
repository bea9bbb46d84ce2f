import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openvino
import pytest

from model.bundle import Bundle
from model.engines import EngineError
from model.engines.openvino_engine import OpenVinoEngine
from model.engines.self_test import run_self_test

PROGRAM = """
import gc, os, signal, sys
from pathlib import Path
from model.bundle import Bundle
from model.engines.openvino_engine import OpenVinoEngine

engines = [OpenVinoEngine(Bundle.load(Path(sys.argv[1])), threads=1) for _ in range(3)]
while engines:
    engines.pop(0)
    gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGINT)
"""


def computes_bf16() -> bool:
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_auto_takes_bf16_where_the_cpu_has_it(bundle: Bundle) -> None:
    engine = OpenVinoEngine(bundle, threads=1)

    assert engine.precision == ("bf16" if computes_bf16() else "f32")
    run_self_test(engine, bundle)


def test_precision_that_the_cpu_lacks_is_an_error(bundle: Bundle) -> None:
    if computes_bf16():
        assert OpenVinoEngine(bundle, threads=1, precision="bf16").precision == "bf16"
    else:
        with pytest.raises(EngineError, match="f32"):
            OpenVinoEngine(bundle, threads=1, precision="bf16")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_concurrent_and_single_calls_give_the_same_rows(bundle: Bundle, rng: np.random.Generator, threads: int) -> None:
    engine = OpenVinoEngine(bundle, threads=threads, precision="f32")
    assert engine.streams == threads
    clips = rng.integers(0, 256, (12, *bundle.spec.clip_shape), dtype=np.uint8)
    wanted = np.concatenate([engine.embed(clip[None]) for clip in clips])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda start: engine.embed(clips[start : start + 3]), [0, 3, 6, 9] * 5))
    np.testing.assert_allclose(np.concatenate(found), np.tile(wanted, (5, 1)), atol=1e-4)


def test_f32_agrees_with_the_golden_vectors_closely(bundle: Bundle) -> None:
    result = run_self_test(OpenVinoEngine(bundle, threads=1, precision="f32"), bundle)

    assert result.max_difference < 1e-4


def test_signal_is_handled_after_engines_were_closed_in_the_order_of_opening(bundle: Bundle) -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM, str(bundle.path)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "handled\n"), run.stderr
