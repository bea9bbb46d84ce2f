import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from model.bundle import Bundle, BundleError, compute_embedding_space
from model.spec import Preprocessing
from tests.bundles import make_bundle
from tests.calibrations import make_calibration


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", dimension=16, clip_length=2)


def edit_spec(folder: Path, **facts: object) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def edit_onnx(folder: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    model = onnx.load(folder / "model.onnx")
    change(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def edit_golden(folder: Path, **arrays: Any) -> None:
    with np.load(folder / "golden.npz") as golden:
        kept = dict(golden)
    np.savez(folder / "golden.npz", **{name: array for name, array in (kept | arrays).items() if array is not None})


def test_bundle_is_loaded(folder: Path) -> None:
    bundle = Bundle.load(folder)

    assert bundle.spec.dimension == 16
    assert bundle.network_path == folder / "model.onnx"
    assert len(bundle.embedding_space) == 16
    assert int(bundle.embedding_space, 16) >= 0
    golden = bundle.golden()
    assert golden.clips.shape == (3, 2, 64, 32, 3)
    np.testing.assert_allclose(np.linalg.norm(golden.embeddings, axis=1), 1, atol=1e-5)


def test_model_card_is_optional(folder: Path) -> None:
    (folder / "MODEL_CARD.md").unlink()

    assert Bundle.load(folder)


def test_embedding_space_depends_on_the_network_and_the_preprocessing_only(folder: Path) -> None:
    before = Bundle.load(folder)
    edit_spec(folder, name="another name", accuracy=[])
    assert Bundle.load(folder).embedding_space == before.embedding_space

    plain = Preprocessing(version="1", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    spaces = {
        compute_embedding_space(b"network", plain),
        compute_embedding_space(b"Network", plain),
        compute_embedding_space(b"network", plain.model_copy(update={"version": "2"})),
        compute_embedding_space(b"network", plain.model_copy(update={"mean": (0.4, 0.5, 0.5)})),
    }
    assert len(spaces) == 4


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere: no such folder"):
        Bundle.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["model.onnx", "model.json", "golden.npz"])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()

    with pytest.raises(BundleError, match=rf"{name}: the file is missing"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["model.json", "golden.npz"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_truncated_file_is_named(folder: Path, name: str, keep: float) -> None:
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])

    with pytest.raises(BundleError, match=name):
        Bundle.load(folder)


def test_unreadable_file_is_named(folder: Path) -> None:
    (folder / "model.json").unlink()
    (folder / "model.json").mkdir()

    with pytest.raises(BundleError, match=r"model\.json: cannot be read"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"dimension": "many"}, r"model\.json: dimension: "),
        ({"surprise": 1}, r"model\.json: surprise: Extra inputs"),
        ({"format": 9}, r"model\.json: format: "),
        (
            {"preprocessing": {"version": "0", "mean": [0.5] * 3, "std": [0.2] * 3}},
            r"model\.json: preprocessing\.version: .* version '0'",
        ),
    ],
)
def test_wrong_field_is_named(folder: Path, facts: dict[str, object], message: str) -> None:
    edit_spec(folder, **facts)

    with pytest.raises(BundleError, match=message):
        Bundle.load(folder)


@pytest.mark.parametrize("size_threshold", [0, 500])
@pytest.mark.parametrize("location", ["weights", "w" * 200])
def test_weights_outside_the_file_are_refused(
    folder: Path, location: str, size_threshold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the working directory is the bundle's folder, in which both engines would find the weights."""
    model = onnx.load(folder / "model.onnx")
    onnx.save(
        model, folder / "model.onnx", save_as_external_data=True, location=location, size_threshold=size_threshold
    )
    monkeypatch.chdir(folder)

    with pytest.raises(BundleError, match=r"model\.onnx: its weights are in other files; save the model as a single"):
        Bundle.load(folder)


def test_the_word_location_in_a_network_is_not_external_data(folder: Path) -> None:
    def add_location(model: onnx.ModelProto) -> None:
        model.doc_string = "location"
        entry = model.metadata_props.add()
        entry.key, entry.value = "location", "gate 3"

    edit_onnx(folder, add_location)

    assert Bundle.load(folder)


def test_network_that_changed_after_loading_is_not_read(folder: Path) -> None:
    bundle = Bundle.load(folder)
    content = (folder / "model.onnx").read_bytes()
    assert bundle.read_network() == (content,)
    (folder / "model.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    with pytest.raises(BundleError, match=r"model\.onnx: the network has changed since the bundle was loaded"):
        bundle.read_network()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"clips": None}, "array 'clips' is missing"),
        ({"embeddings": None}, "array 'embeddings' is missing"),
        ({"clips": np.zeros((3, 2, 64, 33, 3), np.uint8)}, "array 'clips': uint8"),
        ({"clips": np.zeros((3, 2, 64, 32, 3), np.float32)}, "array 'clips': float32"),
        ({"embeddings": np.ones((3, 15), np.float32) / 15**0.5}, "array 'embeddings': float32"),
        ({"embeddings": np.ones((2, 16), np.float32) / 4}, "3 clips but 2 embeddings"),
        ({"embeddings": np.ones((3, 16), np.float32)}, "each row must have length 1"),
        ({"embeddings": np.full((3, 16), np.nan, np.float32)}, "each row must have length 1"),
        ({"clips": np.array([{}], dtype=object)}, "damaged"),
    ],
)
def test_golden_vectors_that_contradict_the_spec_are_named(folder: Path, arrays: dict[str, Any], message: str) -> None:
    edit_golden(folder, **arrays)

    with pytest.raises(BundleError, match=rf"golden\.npz: .*{message}"):
        Bundle.load(folder)


def test_golden_vectors_with_a_flipped_byte_are_refused(folder: Path) -> None:
    path = folder / "golden.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)

    with pytest.raises(BundleError, match=r"golden\.npz: damaged"):
        Bundle.load(folder)


def write_calibration(folder: Path, **facts: Any) -> Path:
    path = folder / "calibration.json"
    path.write_text(make_calibration(**facts).to_json())
    return path


def test_calibration_is_optional_and_read(folder: Path) -> None:
    bundle = Bundle.load(folder)
    assert bundle.calibration is None
    write_calibration(folder, embedding_space=bundle.embedding_space)

    calibration = Bundle.load(folder).calibration

    assert calibration is not None
    assert calibration.people == 50


def test_calibration_of_another_space_is_refused(folder: Path) -> None:
    path = write_calibration(folder)

    with pytest.raises(BundleError, match=rf"^{path}: embedding_space: .*not3d calibrate.*or delete the file$"):
        Bundle.load(folder)


def test_damaged_calibration_is_refused(folder: Path) -> None:
    path = write_calibration(folder)
    path.write_text(path.read_text()[:-50])

    with pytest.raises(BundleError, match=rf"^{path}: not JSON .*or delete the file$"):
        Bundle.load(folder)
