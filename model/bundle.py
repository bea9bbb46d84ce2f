"""A model bundle: the folder that training exports and the service loads, and nothing else.

The folder holds ``model.onnx``, ``model.json`` (see ``model.spec``), ``golden.npz`` (clips and the embeddings that the
PyTorch network gave for them) and, for people, ``MODEL_CARD.md``. A model that was imported from OpenVINO's IR, from
which no faithful way leads to ONNX, has ``model.xml`` and ``model.bin`` in place of ``model.onnx``. ``Bundle.load``
reads what code needs once and in full, so that a damaged bundle is refused at start.
"""

import hashlib
import io
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from model.errors import Not3dError
from model.frames import PREPROCESSING_VERSION
from model.ir_signature import IrFileError, read_ir_signature
from model.onnx_signature import ELEMENT_FLOAT32, ELEMENT_UINT8, OnnxFileError, TensorSignature, read_signature
from model.spec import BundleSpec, Preprocessing

BUNDLED = Path(__file__).parent / "bundled"
"""The bundle that ships with the package."""

ONNX_FILE, SPEC_FILE, GOLDEN_FILE, CARD_FILE = "model.onnx", "model.json", "golden.npz", "MODEL_CARD.md"
IR_FILES = "model.xml", "model.bin"
INPUT_NAME, OUTPUT_NAME = "clips", "embeddings"


class BundleError(Not3dError):
    """A bundle cannot be used; the message names the file and, inside it, the field."""


@dataclass(frozen=True)
class GoldenVectors:
    """What the network must answer: clips uint8 ``[N, T, H, W, 3]`` and their unit embeddings float32 ``[N, D]``."""

    clips: NDArray[np.uint8]
    embeddings: NDArray[np.float32]


@dataclass(frozen=True)
class Bundle:
    """A validated bundle. ``embedding_space`` names the space its vectors live in (16 hex digits).

    ``network_path`` is the ONNX file, or the ``.xml`` of an OpenVINO IR, which only OpenVINO runs.
    """

    path: Path
    spec: BundleSpec
    network_path: Path
    embedding_space: str

    @property
    def is_ir(self) -> bool:
        """Whether the network is an OpenVINO IR."""
        return self.network_path.name == IR_FILES[0]

    @classmethod
    def load(cls, path: Path) -> "Bundle":
        """Read and check every file of the bundle in the folder ``path``.

        Raises:
            BundleError: a file is missing or damaged, or two files contradict each other.
        """
        if not path.is_dir():
            raise BundleError(f"{path}: no such folder; a bundle is a folder with {ONNX_FILE} and {SPEC_FILE}")
        spec = _parse_spec(path / SPEC_FILE)
        is_ir = (path / IR_FILES[0]).exists() and not (path / ONNX_FILE).exists()
        files = [path / name for name in (IR_FILES if is_ir else (ONNX_FILE,))]
        content = [_read(file) for file in files]
        _check_network(files[0], content, spec)
        _read_golden(path / GOLDEN_FILE, spec)
        return cls(path, spec, files[0], _find_space(path, spec, b"".join(content)))

    def golden(self) -> GoldenVectors:
        """Read the golden vectors.

        Raises:
            BundleError: the file was damaged or removed since the bundle was loaded.
        """
        return _read_golden(self.path / GOLDEN_FILE, self.spec)


def compute_embedding_space(network: bytes, preprocessing: Preprocessing) -> str:
    """Name the space of a network's embeddings: 16 hex digits of SHA-256 over its bytes and the preprocessing."""
    canonical = json.dumps(preprocessing.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(network + canonical.encode()).hexdigest()[:16]


def _find_space(path: Path, spec: BundleSpec, network: bytes) -> str:
    """The space of the network's own bytes, or of the float network that it was measured to rank like."""
    own = compute_embedding_space(network, spec.preprocessing)
    if spec.quantisation is None:
        return own
    if spec.quantisation.network != own:
        raise BundleError(
            f"{path / SPEC_FILE}: quantisation.network: was measured on the network {spec.quantisation.network}, this "
            f"one is {own}; quantise again"
        )
    return spec.quantisation.of if spec.quantisation.ranks_alike else own


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{path}: the file is missing from the bundle") from None
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def _parse_spec(path: Path) -> BundleSpec:
    try:
        spec = BundleSpec.model_validate_json(_read(path))
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}" for fault in error.errors())
        raise BundleError(f"{path}: {'; '.join(faults)}") from error
    if spec.preprocessing.version != PREPROCESSING_VERSION:
        raise BundleError(
            f"{path}: preprocessing.version: the network was trained on frames prepared as version "
            f"'{spec.preprocessing.version}', this release prepares them as '{PREPROCESSING_VERSION}'; "
            "export the model again from a checkpoint trained with this release, or use the release it was made with"
        )
    return spec


def _check_network(path: Path, content: list[bytes], spec: BundleSpec) -> None:
    try:
        if path.name == ONNX_FILE:
            signature = read_signature(content[0])
        else:
            signature = read_ir_signature(content[0], weights=len(content[1]))
    except OnnxFileError as error:
        raise BundleError(f"{path}: damaged, or no ONNX model: {error}") from error
    except IrFileError as error:
        raise BundleError(f"{path}: damaged, or no OpenVINO model: {error}") from error
    if signature.external_weights:
        # They would escape the embedding space, which names the network by the bytes of this one file.
        raise BundleError(f"{path}: its weights lie in other files; they must be inside")
    wanted_input = TensorSignature(INPUT_NAME, ELEMENT_UINT8, ("N", *spec.clip_shape))
    wanted_output = TensorSignature(OUTPUT_NAME, ELEMENT_FLOAT32, ("N", spec.dimension))
    for role, tensors, wanted in (
        ("input", signature.inputs, wanted_input),
        ("output", signature.outputs, wanted_output),
    ):
        fault = _find_fault(tensors, wanted)
        if fault:
            raise BundleError(f"{path}: {role} '{wanted.name}': {fault}")


def _find_fault(tensors: tuple[TensorSignature, ...], wanted: TensorSignature) -> str | None:
    names = [tensor.name for tensor in tensors]
    if names != [wanted.name]:
        return f"must be the only one, found {names}"
    (tensor,) = tensors
    if tensor.element != wanted.element:
        return f"expected ONNX element type {wanted.element}, found {tensor.element} (1 is float32, 2 is uint8)"
    if not tensor.shape or not isinstance(tensor.shape[0], str):
        return f"the first axis must be dynamic, found shape {list(tensor.shape)}"
    if tensor.shape[1:] != wanted.shape[1:]:
        return f"shape {list(tensor.shape)} contradicts {SPEC_FILE}, which asks for {list(wanted.shape)}"
    return None


def _read_golden(path: Path, spec: BundleSpec) -> GoldenVectors:
    content = io.BytesIO(_read(path))
    if not zipfile.is_zipfile(content):
        raise BundleError(f"{path}: damaged: not a whole .npz archive")
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
            f"{path}: {len(clips)} clips but {len(embeddings)} embeddings; they must be as many, at least one"
        )
    lengths = np.linalg.norm(embeddings, axis=1)
    if not np.allclose(lengths, 1, atol=1e-4):
        raise BundleError(
            f"{path}: array 'embeddings': rows must have length 1, found {lengths.min()} to {lengths.max()}"
        )
    return GoldenVectors(clips, embeddings)


def _check_array(path: Path, name: str, array: NDArray[Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape[1:] != shape:
        raise BundleError(
            f"{path}: array '{name}': {array.dtype} {list(array.shape)} contradicts {SPEC_FILE}, "
            f"which asks for {dtype} {['N', *shape]}"
        )
