from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle import Bundle
from model.engines import EngineInfo
from model.engines.onnx_runtime import OnnxRuntimeEngine
from model.engines.self_test import TOLERANCES, SelfTestError, run_self_test
from tests.bundles import make_bundle


class Answering:
    """An engine that returns the embeddings that it was given; `alone` for a single clip."""

    name: Final = "openvino"
    device: Final = "cpu"
    threads = 1
    streams = 1

    def __init__(self, answer: NDArray[np.float32], precision: str) -> None:
        self.answer = answer
        self.alone = answer[:1]
        self.precision = precision

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("openvino", "cpu", self.precision, 1, "0", "CPU")

    def embed(self, clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.alone if len(clips) == 1 else self.answer[: len(clips)]


def turned(embeddings: NDArray[np.float32], cosine: float) -> NDArray[np.float32]:
    """Turn every row by the angle of that cosine, spread over all components."""
    noise = np.random.default_rng(1).standard_normal(embeddings.shape)
    noise -= (noise * embeddings).sum(axis=1, keepdims=True) * embeddings
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return np.asarray(7 * (cosine * embeddings + np.sqrt(1 - cosine**2) * noise), dtype=np.float32)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.load(make_bundle(tmp_path_factory.mktemp("wide"), dimension=2048))


def test_correct_engine_passes_with_its_figures(bundle: Bundle) -> None:
    result = run_self_test(OnnxRuntimeEngine(bundle, device="cpu", threads=1), bundle)

    assert 0 <= result.max_difference < 1e-5
    assert result.min_cosine == pytest.approx(1, abs=1e-6)
    assert result.seconds > 0


@pytest.mark.parametrize(
    ("precision", "cosine", "passes"),
    [("f32", 0.99999, True), ("f32", 0.9995, False), ("bf16", 0.9999, True), ("bf16", 0.98, False)],
)
def test_cosine_limit_depends_on_the_precision(wide: Bundle, precision: str, cosine: float, passes: bool) -> None:
    engine = Answering(turned(wide.golden().embeddings, cosine), precision)

    if passes:
        assert run_self_test(engine, wide).min_cosine == pytest.approx(cosine, abs=1e-5)
    else:
        with pytest.raises(SelfTestError, match=rf"openvino on cpu in {precision}.*smallest cosine 0\.9"):
            run_self_test(engine, wide)


def test_single_clip_is_tested_too(wide: Bundle) -> None:
    engine = Answering(wide.golden().embeddings, "f32")
    engine.alone = -engine.alone
    with pytest.raises(SelfTestError):
        run_self_test(engine, wide)


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_error_in_a_single_channel_is_found(wide: Bundle, precision: str) -> None:
    answer = wide.golden().embeddings.copy()
    answer[0, 100] += 1.5 * TOLERANCES[precision].max_difference

    with pytest.raises(SelfTestError, match="largest component difference"):
        run_self_test(Answering(answer, precision), wide)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_nan_infinity_and_zero_do_not_pass(bundle: Bundle, value: float) -> None:
    answer = bundle.golden().embeddings.copy()
    answer[1] = value

    with pytest.raises(SelfTestError):
        run_self_test(Answering(answer, "bf16"), bundle)


def test_another_network_does_not_pass(tmp_path: Path, bundle: Bundle) -> None:
    other = Bundle.load(make_bundle(tmp_path / "other", seed=1))

    with pytest.raises(SelfTestError, match="fails the self-test of bundle"):
        run_self_test(OnnxRuntimeEngine(other, device="cpu", threads=1), bundle)
