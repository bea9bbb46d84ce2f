"""What every engine must do, on each engine of the extra `cpu`."""

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from model.bundle import Bundle, BundleError
from model.engines import Engine, EngineError, EngineInfo, open_engine
from model.engines.onnx_runtime import OnnxRuntimeEngine
from model.engines.openvino_engine import OpenVinoEngine
from model.tracklet import normalise
from tests.bundles import make_bundle

ROOT = Path(__file__).parents[3]
NAMES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module", params=[*NAMES, "openvino-f32"])
def engine(request: pytest.FixtureRequest, bundle: Bundle) -> Engine:
    if request.param == "onnxruntime":
        return OnnxRuntimeEngine(bundle, device="cpu", threads=2)
    return OpenVinoEngine(bundle, threads=2, precision="f32" if request.param == "openvino-f32" else "auto")


def tolerance(engine: Engine) -> float:
    return 1e-5 if engine.precision == "f32" else 2e-2


def test_golden_clips_give_golden_embeddings(engine: Engine, bundle: Bundle) -> None:
    golden = bundle.golden()

    embeddings = engine.embed(golden.clips)

    assert embeddings.dtype == np.float32
    assert embeddings.shape == golden.embeddings.shape
    np.testing.assert_allclose(normalise(embeddings), golden.embeddings, atol=tolerance(engine))
    assert not np.allclose(np.linalg.norm(embeddings, axis=1), 1), "engines leave embeddings at their length"


def test_any_number_of_clips_gives_the_same_rows(engine: Engine, clips: NDArray[np.uint8]) -> None:
    whole = normalise(engine.embed(clips))

    for size in (1, 2, 5, 1, 9):
        parts = [engine.embed(clips[i : i + size]) for i in range(0, len(clips), size)]
        np.testing.assert_allclose(normalise(np.concatenate(parts)), whole, atol=tolerance(engine))


def test_clips_need_not_be_contiguous(engine: Engine, clips: NDArray[np.uint8]) -> None:
    mirrored = clips[::2, :, :, ::-1]

    expected = engine.embed(np.ascontiguousarray(mirrored))

    np.testing.assert_allclose(engine.embed(mirrored), expected, atol=1e-4)


def test_result_is_not_overwritten_by_the_next_call(engine: Engine, clips: NDArray[np.uint8]) -> None:
    first = engine.embed(clips[:1])
    kept = first.copy()

    engine.embed(clips[1:2])

    np.testing.assert_array_equal(first, kept)


def test_many_threads_get_their_own_embeddings(engine: Engine, clips: NDArray[np.uint8]) -> None:
    expected = [engine.embed(clips[i : i + 1]) for i in range(len(clips))]
    together = threading.Barrier(4)

    def work(worker: int) -> None:
        together.wait(timeout=120)
        for turn in range(9):
            index = (worker + turn) % len(clips)
            np.testing.assert_allclose(engine.embed(clips[index : index + 1]), expected[index], atol=1e-4)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@pytest.mark.parametrize(
    "clips",
    [
        np.zeros((0, 4, 64, 32, 3), np.uint8),
        np.zeros((1, 3, 64, 32, 3), np.uint8),
        np.zeros((1, 4, 32, 64, 3), np.uint8),
        np.zeros((4, 64, 32, 3), np.uint8),
        np.zeros((1, 4, 64, 32, 3), np.float32),
    ],
)
def test_clips_of_another_shape_or_type_are_refused(engine: Engine, clips: NDArray[np.uint8]) -> None:
    with pytest.raises(EngineError, match=r"clips must be uint8 \['N', 4, 64, 32, 3\].*not"):
        engine.embed(clips)


def test_info_describes_what_runs(engine: Engine) -> None:
    assert isinstance(engine.info, EngineInfo)
    assert (engine.info.name, engine.info.device, engine.info.threads) == (engine.name, "cpu", 2)
    assert engine.info.precision == engine.precision
    assert engine.info.version[0].isdigit()


@pytest.mark.parametrize("name", NAMES)
def test_damaged_network_is_named(name: str, damaged: Bundle) -> None:
    with pytest.raises(EngineError, match=r"model\.onnx"):
        open_engine(damaged, "cpu", engine=name)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", dimension=16, clip_length=2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", [0, 0.5])
def test_truncated_network_is_named(name: str, folder: Path, keep: float) -> None:
    content = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(content[: int(len(content) * keep)])

    with pytest.raises(EngineError, match=r"model\.onnx"):
        open_engine(Bundle.load(folder), "cpu", engine=name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_network_that_changed_after_loading_is_not_opened(name: str, folder: Path) -> None:
    bundle = Bundle.load(folder)
    make_bundle(folder, dimension=16, clip_length=2, seed=1)

    with pytest.raises(BundleError, match=r"model\.onnx: the network has changed since the bundle was loaded"):
        open_engine(bundle, "cpu", engine=name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"dimension": 17}, r"output 'embeddings': shape \['N', 16\] contradicts model\.json, .*\['N', 17\]"),
        ({"clip_length": 3}, r"input 'clips': shape \['N', 2, 64, 32, 3\] contradicts"),
        ({"frame_height": 128}, r"input 'clips': shape"),
    ],
)
def test_sizes_that_contradict_the_network_are_named(
    name: str, folder: Path, facts: dict[str, object], message: str
) -> None:
    bundle = Bundle.load(folder)
    # The golden vectors would be refused first.
    bundle = dataclasses.replace(bundle, spec=bundle.spec.model_copy(update=facts))

    with pytest.raises(EngineError, match=r"model\.onnx: " + message):
        open_engine(bundle, "cpu", engine=name)  # type: ignore[arg-type]


def fix_first_axis(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "frames"


def add_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.output[0])
    model.graph.output[1].name = "vector"
    del model.graph.output[1].type.tensor_type.shape.dim[1:]
    model.graph.output[1].type.tensor_type.shape.dim.add().dim_value = 24


def take_floats(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_input, r"input 'clips': must be the only one, found \['frames'\]"),
        (add_output, r"output 'embeddings': must be the only one, found \['embeddings', 'vector'\]"),
        (take_floats, r"input 'clips': expected uint8, found float32"),
        (fix_first_axis, r"input 'clips': the first axis must be dynamic, found shape \[1, "),
    ],
)
def test_network_of_another_form_is_refused(
    name: str, folder: Path, change: Callable[[onnx.ModelProto], object], message: str
) -> None:
    model = onnx.load(folder / "model.onnx")
    change(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(EngineError, match=r"model\.onnx: " + message):
        open_engine(Bundle.load(folder), "cpu", engine=name)  # type: ignore[arg-type]


@pytest.mark.parametrize("module", ["model.engines.onnx_runtime", "training.importing.from_onnx"])
def test_onnx_runtime_is_loaded_with_its_telemetry_off(module: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, "-c", f"import {module}"]
    subprocess.run(command, env=environment | {"TMPDIR": str(tmp_path)}, cwd=ROOT, check=True)
    assert list(tmp_path.iterdir()) == []  # with telemetry on, ONNX Runtime 1.32 writes its session file `.ses` here
