"""Tests on a GPU. Without one they are skipped, or fail if REQUIRE_CUDA=1, which `benchmarks/cuda.sh` sets."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from model.bundle import BUNDLED, Bundle
from model.engines import EngineError, open_engine
from model.engines.cuda import TENSORRT, CudaEngine, CudaPlan, cuda_plans
from model.engines.onnx_runtime import CUDA, OnnxRuntimeEngine
from model.engines.protocol import CudaOptions
from model.engines.self_test import run_self_test
from tests.bundles import make_bundle

SIZES = (1, 2, 4, 8, 16)
PLANS = tuple(cuda_plans(CudaOptions()))
LARGEST_DIFFERENCE = {"f32": 1e-3, "f16": 1e-2}
FULL_SIZE = "from pathlib import Path; from benchmarks.full_size import write_full_size; write_full_size(Path({!r}))"


@pytest.fixture(scope="module", autouse=True)
def gpu(tmp_path_factory: pytest.TempPathFactory) -> None:
    """One call of a small network tells whether CUDA works."""
    bundle = Bundle.load(make_bundle(tmp_path_factory.mktemp("probe")))
    try:
        open_engine(bundle, "cuda", cuda=CudaOptions(precision="f32", largest_batch=1, graphs=False))
    except EngineError as error:
        if os.environ.get("REQUIRE_CUDA"):
            pytest.fail(f"REQUIRE_CUDA is set: {error}")
        pytest.skip(f"needs an NVIDIA GPU: {error}")


@pytest.fixture(scope="module", params=["light", "full"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, gpu: None) -> Bundle:
    if request.param == "light":
        return Bundle.load(BUNDLED)
    folder = tmp_path_factory.mktemp("full") / "bundle"
    # In another process, so that this one does not load PyTorch's CUDA libraries.
    subprocess.run([sys.executable, "-c", FULL_SIZE.format(str(folder))], check=True, cwd=Path(__file__).parents[3])
    return Bundle.load(folder)


@pytest.fixture(scope="module")
def many(bundle: Bundle) -> NDArray[np.uint8]:
    """Clips of drawn people, enough for every batch size."""
    golden = bundle.golden().clips
    return np.concatenate([np.roll(golden, shift, axis=3) for shift in range(-(-sum(SIZES) // len(golden)))])


@pytest.fixture(scope="module")
def expected(bundle: Bundle, many: NDArray[np.uint8]) -> NDArray[np.float32]:
    return unit(OnnxRuntimeEngine(bundle, threads=os.cpu_count() or 1).embed(many))


@pytest.fixture(scope="module", params=PLANS, ids=str)
def engine(request: pytest.FixtureRequest, bundle: Bundle) -> CudaEngine:
    options = CudaOptions(largest_batch=max(SIZES))
    return CudaEngine(bundle, request.param, threads=2, cache_dir=None, options=options)


def unit(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))


@pytest.mark.parametrize("size", [*SIZES, sum(SIZES)])
def test_embeddings_are_those_of_the_cpu(
    engine: CudaEngine, many: NDArray[np.uint8], expected: NDArray[np.float32], size: int
) -> None:
    found = unit(engine.embed(many[:size]))

    assert np.abs(found - expected[:size]).max() < LARGEST_DIFFERENCE[engine.precision]


def test_the_provider_is_cuda_and_the_golden_vectors_are_right(engine: CudaEngine, bundle: Bundle) -> None:
    assert engine.info.provider == CUDA
    assert engine.info.device == "cuda"
    run_self_test(engine, bundle)


def test_threads_get_their_own_embeddings(
    engine: CudaEngine, many: NDArray[np.uint8], expected: NDArray[np.float32]
) -> None:
    pieces = [slice(start, start + 1 + start % 5) for start in range(len(many) - 5)]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda piece: unit(engine.embed(many[piece])), pieces))

    for piece, one in zip(pieces, found, strict=True):
        assert np.abs(one - expected[piece]).max() < LARGEST_DIFFERENCE[engine.precision]


def test_the_bundled_network_runs_in_f16_without_a_warning(gpu: None) -> None:
    """With all defaults: f16, NHWC and CUDA graphs."""
    engine = open_engine(Bundle.load(BUNDLED), "cuda")

    assert isinstance(engine, CudaEngine)
    assert engine.info.warning is None
    assert engine.plan == PLANS[0]


def test_sufficient_memory_limit_is_accepted(gpu: None) -> None:
    bundle = Bundle.load(BUNDLED)
    engine = open_engine(bundle, "cuda", cuda=CudaOptions(memory_mb=1024, largest_batch=4))

    assert engine.device == "cuda"
    assert engine.info.precision == "f16"


def test_too_small_memory_limit_is_an_error(gpu: None) -> None:
    """The light network's maps of 256 clips are far larger than 256 MiB."""
    with pytest.raises(EngineError, match=r"no plan works.*cannot (prepare|open)"):
        open_engine(Bundle.load(BUNDLED), "cuda", cuda=CudaOptions(memory_mb=256, largest_batch=256))


def test_tensorrt_passes_the_self_test(gpu: None, tmp_path: Path) -> None:
    bundle = Bundle.load(BUNDLED)
    plan = CudaPlan("f16", channels_last=False, graphs=False, tensorrt=True)
    try:
        engine = CudaEngine(
            bundle, plan, threads=2, cache_dir=tmp_path, options=CudaOptions(largest_batch=4, tensorrt=True)
        )
    except EngineError as error:
        pytest.skip(f"needs TensorRT: {error}")

    assert engine.info.provider == TENSORRT
    run_self_test(engine, bundle)
    assert any(tmp_path.rglob("*.engine"))
