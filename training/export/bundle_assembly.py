"""Assemble a bundle and compare it with the network it was made from before it is written."""

import importlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.bundle import CARD_FILE, GOLDEN_FILE, SPEC_FILE, Bundle, BundleError
from model.cgroups import available_cpus
from model.engines import Engine, EngineError, open_engine
from model.engines.choice import installed_engines
from model.engines.self_test import SelfTestError, run_self_test
from model.errors import Not3dError
from model.spec import BundleSpec
from training.export.model_card import describe_bundle
from training.export.reference import Difference, Reference, draw_clips, measure_difference

MAX_DIFFERENCE = 1e-3
"""Largest allowed difference of a component of a unit-length embedding between the bundle and its reference."""

_GOLDEN_SEED, _GOLDEN_PEOPLE = 2020, 4

_LOG = logging.getLogger(__name__)


class ExportError(Not3dError):
    """No bundle was written; the message gives the reason."""


@dataclass(frozen=True)
class ExportResult:
    """A written bundle and how far it is from its reference."""

    path: Path
    embedding_space: str
    network_bytes: int
    reference: str
    """name of the network that the bundle was compared with"""
    crops: str
    """what the clips of the comparison show"""
    clips: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    """engines that do not run the bundle, and why"""


def assemble_bundle(
    out: Path,
    spec: BundleSpec,
    write_network: Callable[[Path], None],
    reference: Reference,
    *,
    clips: NDArray[np.uint8],
    crops: str,
) -> ExportResult:
    """Write a bundle to the new folder `out` if it computes what the reference computes.

    Args:
        out: a path that does not exist, or an empty folder
        spec: of the network
        write_network: writes the network's file or files to a folder
        reference: the network to compare with; it also computes the bundle's golden embeddings
        clips: `uint8 [N, T, H, W, 3]` for the comparison
        crops: what the clips show, in words

    Raises:
        ExportError: `out` is not empty, an engine is missing, or the bundle differs from the reference.
    """
    with new_bundle_folder(out) as folder:
        golden = draw_clips(spec, people=_GOLDEN_PEOPLE, seed=_GOLDEN_SEED)
        np.savez_compressed(folder / GOLDEN_FILE, clips=golden, embeddings=reference.embed(golden))
        write_spec(spec, folder)
        write_network(folder)
        bundle = Bundle.load(folder)
        differences, notes = _compare(bundle, reference, clips)
        card = describe_bundle(bundle, reference.name, f"{len(clips)} clips of {crops}", differences)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
        size = network_bytes(folder)
    return ExportResult(out, bundle.embedding_space, size, reference.name, crops, len(clips), differences, notes)


@contextmanager
def new_bundle_folder(out: Path) -> Iterator[Path]:
    """Provide a temporary folder that becomes `out` at the end, so that `out` is complete or absent.

    Raises:
        ExportError: `out` is not empty, or the bundle is wrong or does not run.
    """
    refuse_occupied(out)
    scratch = out.parent / f".{out.name}.{os.getpid()}.partial"
    scratch.mkdir(parents=True)
    try:
        yield scratch
        scratch.replace(out)
    except (BundleError, EngineError, SelfTestError) as error:
        raise ExportError(f"nothing was written to {out}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def refuse_occupied(out: Path) -> None:
    """Raise `ExportError` if `out` exists and is not an empty folder."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ExportError(f"{out} exists: choose a new folder, so that no file of another bundle remains")


def write_spec(spec: BundleSpec, folder: Path) -> None:
    """Write a bundle's `model.json`."""
    (folder / SPEC_FILE).write_text(json.dumps(spec.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")


def network_bytes(folder: Path) -> int:
    """Return the size of a bundle's network files."""
    return sum(path.stat().st_size for path in folder.glob("model.*") if path.name != SPEC_FILE)


def _compare(
    bundle: Bundle, reference: Reference, clips: NDArray[np.uint8]
) -> tuple[tuple[Difference, ...], tuple[str, ...]]:
    """Compare all installed CPU engines with the reference.

    The bundle is refused if ONNX Runtime differs too much, or OpenVINO in fp32 if it is an IR.
    """
    expected = reference.embed(clips)
    engine = _open_openvino(bundle, "f32") if bundle.is_ir else open_engine(bundle, "cpu", engine="onnxruntime")
    difference = measure_difference(engine, clips, expected)
    if not difference.max_difference <= MAX_DIFFERENCE:  # NaN is refused too
        raise ExportError(
            f"nothing was written: over {len(clips)} clips the bundle differs from {reference.name} by up to "
            f"{difference.max_difference:.2g} in a component of a unit-length embedding (at most {MAX_DIFFERENCE:g}); "
            f"smallest cosine {difference.min_cosine:.6f}. Weights stored as fp32 differ less than as fp16"
        )
    run_self_test(engine, bundle)
    differences, notes = [difference], []
    for precision in ("bf16",) if bundle.is_ir else ("f32", "bf16"):
        try:
            engine = _open_openvino(bundle, precision)
            differences.append(measure_difference(engine, clips, expected))
            run_self_test(engine, bundle)
        except (EngineError, SelfTestError) as error:
            notes.append(f"openvino in {precision}: {error}")
            _LOG.warning("%s", notes[-1])
    return tuple(differences), tuple(notes)


def _open_openvino(bundle: Bundle, precision: str) -> Engine:
    if "openvino" not in installed_engines():
        raise EngineError("OpenVINO is not installed")
    module = importlib.import_module("model.engines.openvino_engine")
    engine: Engine = module.OpenVinoEngine(bundle, threads=available_cpus(), precision=precision)
    return engine
