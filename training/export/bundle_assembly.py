"""Putting a bundle together, and judging it by the network it was made from before anybody sees it."""

import importlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
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
from model.tracklet import normalise
from training.export.model_card import Difference, describe_bundle
from training.export.reference_clips import draw_clips

MAX_DIFFERENCE = 1e-3
"""Largest difference of any component of a unit-length embedding between the bundle and what it was made from."""

_GOLDEN_SEED, _GOLDEN_PEOPLE = 2020, 4
_BATCH = 8

_LOG = logging.getLogger(__name__)


class ExportError(Not3dError):
    """No bundle was written; the message says why."""


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it was judged.

    ``reference`` is what it was compared with, ``crops`` says in words what the ``clips`` clips show; ``notes`` say
    which engines do not run it, and why.
    """

    path: Path
    embedding_space: str
    network_bytes: int
    reference: str
    crops: str
    clips: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Reference:
    """What a bundle has to compute: unit embeddings ``float32 [N, D]`` of ``uint8 [N, T, H, W, 3]`` clips."""

    name: str
    """for messages and the card: "PyTorch in fp32" """
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def assemble_bundle(
    out: Path,
    spec: BundleSpec,
    write_network: Callable[[Path], None],
    reference: Reference,
    *,
    clips: NDArray[np.uint8],
    crops: str,
) -> ExportReport:
    """Make a bundle in the new folder ``out`` and judge it on ``clips``.

    It is made in a folder beside ``out`` and moved there at the end, so ``out`` is whole or absent.

    Args:
        out: does not exist yet, or is empty
        spec: of the network
        write_network: writes the network's file or files into the folder that it is given
        reference: what the bundle is compared with, and where its golden vectors are from
        clips: uint8 ``[N, T, H, W, 3]``
        crops: says in words where they are from

    Raises:
        ExportError: ``out`` holds something, an engine is missing, or the bundle differs from the reference.
    """
    refuse_occupied(out)
    scratch = out.parent / f".{out.name}.{os.getpid()}.partial"
    scratch.mkdir(parents=True)
    try:
        golden = draw_clips(spec, people=_GOLDEN_PEOPLE, seed=_GOLDEN_SEED)
        np.savez_compressed(scratch / GOLDEN_FILE, clips=golden, embeddings=reference.embed(golden))
        (scratch / SPEC_FILE).write_text(json.dumps(spec.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
        write_network(scratch)
        bundle = Bundle.load(scratch)
        differences, notes = _judge(bundle, reference, clips)
        card = describe_bundle(bundle, reference.name, f"{len(clips)} clips of {crops}", differences)
        (scratch / CARD_FILE).write_text(card, encoding="utf-8")
        size = sum(path.stat().st_size for path in scratch.glob("model.*") if path.name != SPEC_FILE)
        scratch.replace(out)
    except (BundleError, EngineError, SelfTestError) as error:
        raise ExportError(f"nothing was written to {out}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return ExportReport(out, bundle.embedding_space, size, reference.name, crops, len(clips), differences, notes)


def refuse_occupied(out: Path) -> None:
    """Raises :class:`ExportError` where ``out`` holds something."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ExportError(f"{out} exists; a bundle is written to a new folder, so that no half of an old one remains")


def _judge(
    bundle: Bundle, reference: Reference, clips: NDArray[np.uint8]
) -> tuple[tuple[Difference, ...], tuple[str, ...]]:
    """Compare every installed CPU engine with the reference; ONNX Runtime decides, and OpenVINO in fp32 for an IR."""
    expected = reference.embed(clips)
    engine = _open_openvino(bundle, "f32") if bundle.is_ir else open_engine(bundle, "cpu", engine="onnxruntime")
    difference = _measure(engine, clips, expected)
    if not difference.max_difference <= MAX_DIFFERENCE:  # NaN included
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
            differences.append(_measure(engine, clips, expected))
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


def _measure(engine: Engine, clips: NDArray[np.uint8], expected: NDArray[np.float32]) -> Difference:
    found = normalise(np.concatenate([engine.embed(batch) for batch in batches(clips)]))
    return Difference(
        engine.name,
        engine.precision,
        float(np.abs(found - expected).max()),
        float((found * expected).sum(axis=1).min()),
    )


def batches(clips: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """One clip alone, then batches: an axis that the export froze would show."""
    yield clips[:1]
    for start in range(1, len(clips), _BATCH):
        yield clips[start : start + _BATCH]
