"""A model bundle: the folder that export writes and the service loads.

The folder holds `model.onnx`, `model.json` (see `model.spec`), `golden.npz` (clips, and the embeddings that the PyTorch
network gives for them), `MODEL_CARD.md` for people, and, if one was fitted, `calibration.json` (see
`model.calibration`). A model that was imported from OpenVINO's IR, which cannot be converted to ONNX exactly, has
`model.xml` and `model.bin` instead of `model.onnx`.
"""

import hashlib
import io
import json
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from model.calibration import CALIBRATION_FILE, Calibration, CalibrationError
from model.errors import Not3dError
from model.space import EmbeddingSpace
from model.spec import BundleSpec, Preprocessing

BUNDLED = Path(__file__).parent / "bundled"
"""The bundle that ships with the package."""

ONNX_FILE, SPEC_FILE, GOLDEN_FILE, CARD_FILE = "model.onnx", "model.json", "golden.npz", "MODEL_CARD.md"
IR_FILES = "model.xml", "model.bin"
WEIGHTS_FILE = "weights.npz"
"""The trained weights, from which training can start again. They are optional, and the service does not read them."""

INPUT_NAME, OUTPUT_NAME = "clips", "embeddings"

_EXTERNAL_DATA = re.compile(rb"\x6a.{1,2}\x0a\x08location\x12", re.DOTALL)
"""An entry `location` of ONNX's `TensorProto.external_data`, as protobuf writes it.

Such a file is refused before an engine opens it, because engines that get the bytes of a model look for its external
data in the working directory (ONNX Runtime 1.32, OpenVINO 2026.4).
"""


class BundleError(Not3dError):
    """A bundle that cannot be used. The message names the file and the field in it."""


@dataclass(frozen=True)
class GoldenVectors:
    """Test vectors: clips uint8 `[N, T, H, W, 3]` and their unit-length embeddings float32 `[N, D]`."""

    clips: NDArray[np.uint8]
    embeddings: NDArray[np.float32]


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files have been checked, except the network, which an engine checks when it opens it.

    `network_path` is the ONNX file, or the `.xml` of an OpenVINO IR, which only OpenVINO runs. `embedding_space` names
    the space of its vectors (16 hex digits). `calibration` is None if the bundle has none.
    """

    path: Path
    spec: BundleSpec
    network_path: Path
    embedding_space: str
    calibration: Calibration | None = None

    @property
    def space(self) -> EmbeddingSpace:
        """The space of its vectors."""
        return EmbeddingSpace(self.embedding_space, self.spec.dimension, self.spec.name)

    @property
    def is_ir(self) -> bool:
        """Return whether the network is an OpenVINO IR."""
        return self.network_path.name == IR_FILES[0]

    @classmethod
    def load(cls, path: Path) -> "Bundle":
        """Read and check the bundle in the folder `path`.

        Raises:
            BundleError: a file is missing or damaged, or two files contradict each other.
        """
        if not path.is_dir():
            raise BundleError(f"{path}: no such folder; a bundle is a folder with {ONNX_FILE} and {SPEC_FILE}")
        spec = _parse_spec(path / SPEC_FILE)
        is_ir = (path / IR_FILES[0]).exists() and not (path / ONNX_FILE).exists()
        network_path = path / (IR_FILES[0] if is_ir else ONNX_FILE)
        content = _read_network(network_path)
        if not is_ir and b"location" in content[0] and _EXTERNAL_DATA.search(content[0]):
            # The embedding space is a hash of this one file, and would not change with the weights.
            raise BundleError(f"{network_path}: its weights are in other files; save the model as a single file")
        _read_golden(path / GOLDEN_FILE, spec)
        space = _find_space(path, spec, b"".join(content))
        return cls(path, spec, network_path, space, _read_calibration(path / CALIBRATION_FILE, space))

    def golden(self) -> GoldenVectors:
        """Read the golden vectors.

        Raises:
            BundleError: the file was damaged or removed after the bundle was loaded.
        """
        return _read_golden(self.path / GOLDEN_FILE, self.spec)

    def read_network(self) -> tuple[bytes, ...]:
        """Read the bytes of the network: the ONNX file, or the `.xml` and the `.bin`.

        Raises:
            BundleError: they are not the bytes that `embedding_space` names, because a file was changed after the
                bundle was loaded.
        """
        content = _read_network(self.network_path)
        loaded = self.spec.quantisation.network if self.spec.quantisation else self.embedding_space
        if compute_embedding_space(b"".join(content), self.spec.preprocessing) != loaded:
            raise BundleError(f"{self.network_path}: the network has changed since the bundle was loaded")
        return content


def compute_embedding_space(network: bytes, preprocessing: Preprocessing) -> str:
    """Return the name of a network's embedding space: 16 hex digits of SHA-256 of its bytes and the preprocessing."""
    canonical = json.dumps(preprocessing.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(network + canonical.encode()).hexdigest()[:16]


def _find_space(path: Path, spec: BundleSpec, network: bytes) -> str:
    """Return the space of these bytes, or that of the float network if the quantised one was measured to rank alike."""
    own = compute_embedding_space(network, spec.preprocessing)
    if spec.quantisation is None:
        return own
    if spec.quantisation.network != own:
        raise BundleError(
            f"{path / SPEC_FILE}: quantisation.network: was measured on the network {spec.quantisation.network}, but "
            f"this network is {own}; quantise again"
        )
    return spec.quantisation.of if spec.quantisation.ranks_alike else own


def _read_calibration(path: Path, space: str) -> Calibration | None:
    if not path.exists():
        return None
    try:
        calibration = Calibration.load(path)
        calibration.check_space(space)
    except CalibrationError as error:
        message = str(error)
        named = message if message.startswith(str(path)) else f"{path}: embedding_space: {message}"
        raise BundleError(f"{named}, or delete the file") from error
    return calibration


def _read_network(path: Path) -> tuple[bytes, ...]:
    names = IR_FILES if path.name == IR_FILES[0] else (path.name,)
    return tuple(_read(path.with_name(name)) for name in names)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{path}: the file is missing from the bundle") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def _parse_spec(path: Path) -> BundleSpec:
    from model.frames import (
        PREPROCESSING_VERSION,  # with what decodes pictures, which not all readers of this module need
    )

    try:
        spec = BundleSpec.model_validate_json(_read(path))
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}" for fault in error.errors())
        raise BundleError(f"{path}: {'; '.join(faults)}") from error
    if spec.preprocessing.version != PREPROCESSING_VERSION:
        raise BundleError(
            f"{path}: preprocessing.version: the network was trained on frames prepared as version "
            f"'{spec.preprocessing.version}', but this release prepares them as '{PREPROCESSING_VERSION}'; "
            "export the model again from a checkpoint trained with this release, or use the release that exported it"
        )
    return spec


def _read_golden(path: Path, spec: BundleSpec) -> GoldenVectors:
    content = io.BytesIO(_read(path))
    if not zipfile.is_zipfile(content):
        raise BundleError(f"{path}: damaged: it is not a complete .npz archive")
    content.seek(0)
    try:
        with np.load(content, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BundleError(f"{path}: damaged: {error}") from error
    for name in ("clips", "embeddings"):
        if name not in arrays:
            raise BundleError(f"{path}: array '{name}' is missing")
    clips, embeddings = arrays["clips"], arrays["embeddings"]
    _check_array(path, "clips", clips, np.dtype(np.uint8), spec.clip_shape)
    _check_array(path, "embeddings", embeddings, np.dtype(np.float32), (spec.dimension,))
    if not 0 < len(clips) == len(embeddings):
        raise BundleError(
            f"{path}: {len(clips)} clips but {len(embeddings)} embeddings; the numbers must be equal and at least 1"
        )
    lengths = np.linalg.norm(embeddings, axis=1)
    if not np.allclose(lengths, 1, atol=1e-4):
        raise BundleError(
            f"{path}: array 'embeddings': each row must have length 1, found {lengths.min()} to {lengths.max()}"
        )
    return GoldenVectors(clips, embeddings)


def _check_array(path: Path, name: str, array: NDArray[Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape[1:] != shape:
        raise BundleError(
            f"{path}: array '{name}': {array.dtype} {list(array.shape)} contradicts {SPEC_FILE}, "
            f"which requires {dtype} {['N', *shape]}"
        )
