"""A float bundle's network in int8, after training, judged on people that neither has seen.

NNCF inserts the quantisers and sets their ranges on calibration clips (post-training quantisation). Two things decide
whether the result is any good, both measured on the light model (docs/figures/precision.md): OpenVINO's common transformations
come first, which fold batch normalisation into convolutions, and the attention over frames and the batch-normed neck,
a thousandth of the work, stay in float.
"""

import contextlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino._offline_transformations import apply_moc_transformations

from model.bundle import CARD_FILE, GOLDEN_FILE, INPUT_NAME, IR_FILES, SPEC_FILE, Bundle, compute_embedding_space
from model.cgroups import available_cpus
from model.engines import Engine, EngineError
from model.engines.openvino_engine import OpenVinoEngine
from model.engines.self_test import SelfTestError, run_self_test
from model.errors import Not3dError
from model.spec import MAX_MAP_LOSS, MIN_MEAN_COSINE, Accuracy, Quantisation
from model.tracklet import normalise
from training.datasets.catalog import kind_of, read_training, set_aside
from training.datasets.folder import read_tracklets
from training.datasets.tracklet import DatasetError, Tracklet
from training.evaluation.embed import read_clips
from training.evaluation.protocols import Selection, select
from training.export.bundle_assembly import refuse_occupied
from training.export.model_card import Difference, describe_bundle
from training.export.precision import compare_arithmetics

CLIPS, SEED = 300, 1
KEPT_IN_FLOAT = (
    *("ReduceMean", "ReduceSum", "Softmax", "Multiply", "BatchNormInference"),
    *("Squeeze", "Unsqueeze"),
)
"""Kinds of operation, after the common transformations, of the attention, the neck and the mean. `Multiply` is also in
the scaling behind instance normalisation, which costs nothing to leave in float."""


class QuantisationError(Not3dError):
    """No bundle was written; the message says why."""


@dataclass(frozen=True)
class Calibration:
    """Clips uint8 ``[N, T, H, W, 3]`` that the ranges of the quantisers are set on; in words, where they are from."""

    clips: NDArray[np.uint8]
    described: str


@dataclass(frozen=True)
class QuantisationReport:
    """What was written, how it ranks, and how large the network's files are in bytes, before and after."""

    bundle: Bundle
    quantisation: Quantisation
    rank1: Mapping[str, float]
    """In percent: of "float" and "int8"."""
    bytes_before: int
    bytes_after: int


def select_people(
    bundle: Bundle, calibrate: Sequence[Path], validate: Sequence[Path], protocol: str | None = None
) -> Selection:
    """The people that a quantised network is judged on.

    Those of ``validate``, by ``protocol`` (default: the data's own lists); without them those whom the bundle's recipe
    set aside from the data it is calibrated on.

    Raises:
        QuantisationError: the recipe set nobody aside.
        EvaluationError, DatasetError: from the protocol or the data.
    """
    if validate:
        return select(validate, protocol or "auto", bundle.spec.recipe)
    if not bundle.spec.recipe.get("validation_share"):
        raise QuantisationError(
            f"{bundle.path}: its recipe set no people aside to judge the quantised network on; "
            "name others than those it is calibrated on (--validate)"
        )
    return select(calibrate, protocol or "validation", bundle.spec.recipe)


def choose_calibration(
    bundle: Bundle, sources: Sequence[Path], judged_on: Selection | None, clips: int = CLIPS
) -> Calibration:
    """Draw one clip of up to ``clips`` tracklets under ``sources``: datasets, or folders of tracklets.

    Nobody of ``judged_on`` and nobody whom the recipe set aside is among them.

    Raises:
        QuantisationError: nothing is left.
        DatasetError: from the data.
    """
    spec = bundle.spec
    for source in sources:
        if not source.exists():
            raise DatasetError(f"{source} does not exist")
    plain = [source for source in sources if _is_unlabelled(source)]
    # All at once, as protocols read them: what a person is called depends on which datasets are read together.
    labelled = read_training([source for source in sources if source not in plain])
    share = spec.recipe.get("validation_share")
    if share:
        labelled, _ = set_aside(labelled, float(str(share)), int(str(spec.recipe["seed"])))
    tracklets = [*labelled, *(tracklet for source in plain for tracklet in read_tracklets(source))]
    if judged_on is not None:
        tracklets = _without(tracklets, [*judged_on.query, *judged_on.others])
    if not tracklets:
        raise QuantisationError(
            f"{', '.join(map(str, sources))}: nobody is left to calibrate on beside those the network is judged on"
        )
    drawn = np.random.default_rng(SEED).permutation(len(tracklets))[:clips]
    size = (spec.frame_height, spec.frame_width)
    chosen = [
        read_clips(tracklets[index], frame_size=size, clip_length=spec.clip_length, max_clips=1) for index in drawn
    ]
    return Calibration(np.concatenate(chosen), ", ".join(source.name for source in sources))


def quantise(bundle: Bundle, out: Path, calibration: Calibration, judged_on: Selection | None) -> QuantisationReport:
    """Write the int8 form of ``bundle`` into the new folder ``out``, an OpenVINO IR.

    Args:
        bundle: with a float network
        out: does not exist yet, or is empty; it is whole afterwards, or absent
        calibration: what the ranges are set on
        judged_on: the people whom both networks are compared on; None leaves the new bundle unjudged, with an embedding
            space of its own, which is for measuring speed only

    Raises:
        QuantisationError: the bundle is quantised already, NNCF is missing, or mAP falls by more than
            ``MAX_MAP_LOSS`` points or the mean cosine is under ``MIN_MEAN_COSINE``.
        ExportError: ``out`` holds something.
    """
    refuse_occupied(out)
    if bundle.spec.quantisation is not None:
        raise QuantisationError(f"{bundle.path} is quantised already")
    scratch = out.parent / f".{out.name}.{os.getpid()}.partial"
    scratch.mkdir(parents=True)
    try:
        network = _insert_quantisers(bundle, calibration.clips)
        openvino.save_model(network, scratch / IR_FILES[0], compress_to_fp16=False)
        quantised, rank1 = _describe(bundle, scratch, calibration, judged_on)
        before, after = _size(bundle.path), _size(scratch)
        scratch.replace(out)
    except (EngineError, SelfTestError) as error:
        raise QuantisationError(f"nothing was written to {out}: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return QuantisationReport(Bundle.load(out), quantised, rank1, before, after)


def _insert_quantisers(bundle: Bundle, clips: NDArray[np.uint8]) -> Any:
    network = openvino.Core().read_model(bundle.network_path)
    apply_moc_transformations(network, cf=True, smart_reshape=False)
    with _quiet_nncf() as nncf:
        return nncf.quantize(
            network,
            nncf.Dataset([clip[None] for clip in clips]),
            subset_size=len(clips),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(types=list(KEPT_IN_FLOAT), validate=False),
        )


@contextlib.contextmanager
def _quiet_nncf() -> Iterator[Any]:
    """NNCF without its bars on standard output."""
    try:
        import nncf
    except ImportError as error:
        raise QuantisationError(f"NNCF is not installed ({error}): pip install 'not3d[quantize]'") from error
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield nncf


def _describe(
    bundle: Bundle, scratch: Path, calibration: Calibration, judged_on: Selection | None
) -> tuple[Quantisation, dict[str, float]]:
    """Write the rest of the bundle; golden vectors are the quantised network's own, its other arithmetic in f32."""
    spec = bundle.spec
    content = b"".join((scratch / name).read_bytes() for name in IR_FILES)
    own = compute_embedding_space(content, spec.preprocessing)
    facts = Quantisation(
        of=bundle.embedding_space, network=own, calibration=calibration.described, clips=len(calibration.clips)
    )
    clips = bundle.golden().clips
    network = openvino.Core().compile_model(scratch / IR_FILES[0], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    golden = normalise(network({INPUT_NAME: clips})[0])
    np.savez_compressed(scratch / GOLDEN_FILE, clips=clips, embeddings=golden)
    changed = {"name": f"{spec.name}-int8", "quantisation": facts, "accuracy": ()}
    _write_spec(bundle, scratch, changed)
    rank1: dict[str, float] = {}
    if judged_on is not None:
        facts, rank1 = _judge(bundle, Bundle.load(scratch), facts, judged_on)
        accuracy = Accuracy(
            dataset=str(facts.validation),
            protocol=f"{judged_on.name}, cosine, all clips, int8",
            people=facts.people or 0,
            queries=facts.queries or 0,
            gallery=len(judged_on.gallery),
            rank1=rank1["int8"],
            map=facts.map or 0.0,
        )
        _write_spec(bundle, scratch, changed | {"quantisation": facts, "accuracy": (accuracy,)})
    loaded = Bundle.load(scratch)
    difference = _difference(OpenVinoEngine(loaded, threads=available_cpus()), clips, bundle.golden().embeddings)
    card = describe_bundle(loaded, f"the float bundle {spec.name}", f"{len(clips)} golden clips", [difference])
    (scratch / CARD_FILE).write_text(card, encoding="utf-8")
    return facts, rank1


def _write_spec(bundle: Bundle, folder: Path, changed: Mapping[str, Any]) -> None:
    text = json.dumps(bundle.spec.model_copy(update=dict(changed)).model_dump(mode="json"), indent=2)
    (folder / SPEC_FILE).write_text(text + "\n", encoding="utf-8")


def _judge(
    bundle: Bundle, quantised: Bundle, facts: Quantisation, people: Selection
) -> tuple[Quantisation, dict[str, float]]:
    """Compare both networks on their own, and each one's queries in the other's gallery."""
    engine = OpenVinoEngine(quantised, threads=available_cpus())
    run_self_test(engine, quantised)
    exact = OpenVinoEngine(bundle, threads=available_cpus(), precision="f32")
    found = compare_arithmetics(exact, engine, bundle.spec, people)
    facts = facts.model_copy(
        update={
            "validation": people.name,
            "people": len({tracklet.person for tracklet in people.query}),
            "queries": len(people.query),
            "float_map": found.exact.mean_ap,
            "map": found.other.mean_ap,
            "map_in_float_gallery": found.other_in_exact.mean_ap,
            "map_of_float_queries": found.exact_in_other.mean_ap,
            "mean_cosine": found.mean_cosine,
            "min_cosine": found.min_cosine,
        }
    )
    if found.exact.mean_ap - found.other.mean_ap > MAX_MAP_LOSS or not found.mean_cosine >= MIN_MEAN_COSINE:
        raise QuantisationError(
            f"nothing was written: on {facts.people} people ({facts.queries} queries, {people.name}) mAP goes from "
            f"{facts.float_map:.2f} to {facts.map:.2f} (at most {MAX_MAP_LOSS} less), and the mean cosine of the video "
            f"features to the float network's is {found.mean_cosine:.4f} (at least {MIN_MEAN_COSINE})"
        )
    return facts, {"float": found.exact.rank1, "int8": found.other.rank1}


def _is_unlabelled(source: Path) -> bool:
    """Whether it is a folder of tracklets of which nobody says whom they show."""
    return kind_of(source) == "folder" and not all(item.person and item.camera for item in read_tracklets(source))


def _without(tracklets: Sequence[Tracklet], others: Sequence[Tracklet]) -> list[Tracklet]:
    people, files = {tracklet.person for tracklet in others}, {path for item in others for path in item.frames}
    return [item for item in tracklets if (item.person or None) not in people and files.isdisjoint(item.frames)]


def _difference(engine: Engine, clips: NDArray[np.uint8], expected: NDArray[np.float32]) -> Difference:
    found = normalise(engine.embed(clips))
    return Difference(
        engine.name,
        engine.precision,
        float(np.abs(found - expected).max()),
        float((found * expected).sum(axis=1).min()),
    )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("model.*") if path.name != SPEC_FILE)
