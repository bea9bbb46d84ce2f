"""Quantise a float bundle's network to int8 after training, and measure it on people that it has not seen.

NNCF inserts the quantisers and sets their ranges on calibration clips (post-training quantisation). Two choices decide
the accuracy, both measured on the light model (docs/figures/precision.md). OpenVINO's common transformations run first:
they fold batch normalisation into convolutions. The attention over frames and the batch-normed neck, a thousandth of
the work, stay in float.
"""

import contextlib
import io
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino._offline_transformations import apply_moc_transformations

from model.bundle import CARD_FILE, GOLDEN_FILE, INPUT_NAME, IR_FILES, WEIGHTS_FILE, Bundle, compute_embedding_space
from model.calibration import CALIBRATION_FILE
from model.cgroups import available_cpus
from model.engines.openvino_engine import OpenVinoEngine
from model.engines.self_test import run_self_test
from model.errors import extra
from model.spec import MAX_MAP_LOSS, MIN_MEAN_COSINE, Accuracy, Quantisation
from model.tracklet import normalise
from training.datasets.catalog import kind_of, read_training, set_aside
from training.datasets.folder import read_tracklets
from training.datasets.tracklet import DatasetError, Tracklet
from training.evaluation.embed import read_clips
from training.evaluation.protocols import EvaluationSet, select_tracklets
from training.export.bundle_assembly import ExportError, network_bytes, new_bundle_folder, write_spec
from training.export.model_card import describe_bundle
from training.export.precision import compare_precisions
from training.export.reference import measure_difference

CLIPS, SEED = 300, 1
KEPT_IN_FLOAT = (
    *("ReduceMean", "ReduceSum", "Softmax", "Multiply", "BatchNormInference"),
    *("Squeeze", "Unsqueeze"),
)
"""Operations, after the common transformations, of the attention, the neck and the mean. The scaling of instance
normalisation has a `Multiply` too, which may stay in float at no cost."""


EARLY_BLOCKS = 5
"""Depthwise blocks at the input of a network with depthwise filters that stay in float.

Few channels with very different ranges share one int8 scale there. EfficientNet-Lite0 at 128x64, 120 clips of people it
was not trained on, mean cosine to float and processor time per frame: all layers in int8 0.959 and 2.9 ms, first block
in float 0.992 and 3.2 ms, first two 0.997 and 3.3 ms, first five 0.998 and 4.0 ms; float 3.9 to 5.0 ms (OpenVINO
2026.4, AVX2). The bundled model (160x80), on 202 validation people: mAP 76.62 in float, 76.25 with two blocks in float,
76.18 with three, 76.55 with five. Since it mirrors frames: 79.31 in float, 78.77 with five, 78.81 with eight, 79.17
with eleven, at which little time is gained.
"""


@dataclass(frozen=True)
class CalibrationClips:
    """Clips `uint8 [N, T, H, W, 3]` that set the ranges of the quantisers, and what they show, in words."""

    clips: NDArray[np.uint8]
    described: str


@dataclass(frozen=True)
class QuantisationResult:
    """A written int8 bundle, its accuracy, and the size of the network's files before and after."""

    bundle: Bundle
    quantisation: Quantisation
    rank1: Mapping[str, float]
    """in percent, by "float" and "int8" """
    bytes_before: int
    bytes_after: int


def select_people(
    bundle: Bundle, calibrate: Sequence[Path], validate: Sequence[Path], protocol: str | None = None
) -> EvaluationSet:
    """Return the people on which the quantised network is measured.

    Args:
        bundle: with a float network
        calibrate: the calibration data; if `validate` is empty, the people of it that the bundle's recipe set aside
            are returned
        validate: datasets of other people
        protocol: by default the datasets' test lists

    Raises:
        ExportError: `validate` is empty and the recipe has no validation people.
        EvaluationError, DatasetError: from the protocol or the data.
    """
    if validate:
        return select_tracklets(validate, protocol or "auto", bundle.spec.recipe)
    if not bundle.spec.recipe.get("validation_share"):
        raise ExportError(
            f"{bundle.path}: its recipe has no validation people, on whom the quantised network is measured; "
            "name a dataset of people that are not used for calibration (--validate)"
        )
    return select_tracklets(calibrate, protocol or "validation", bundle.spec.recipe)


def choose_calibration(
    bundle: Bundle, sources: Sequence[Path], measured_on: EvaluationSet | None, clips: int = CLIPS
) -> CalibrationClips:
    """Draw one clip of up to `clips` tracklets, without people of `measured_on` or set aside by the bundle's recipe.

    Args:
        bundle: with a float network
        sources: datasets or folders of tracklets
        measured_on: people that must not be used
        clips: at most this many

    Raises:
        ExportError: no tracklets are left.
        DatasetError: from the data.
    """
    spec = bundle.spec
    for source in sources:
        if not source.exists():
            raise DatasetError(f"{source} does not exist")
    unlabelled = [source for source in sources if _is_unlabelled(source)]
    # Read together, as protocols do: the ids of people depend on which datasets are read together.
    labelled = read_training([source for source in sources if source not in unlabelled])
    share = spec.recipe.get("validation_share")
    if share:
        labelled, _ = set_aside(labelled, float(str(share)), int(str(spec.recipe["seed"])))
    tracklets = [*labelled, *(tracklet for source in unlabelled for tracklet in read_tracklets(source))]
    if measured_on is not None:
        tracklets = _without(tracklets, [*measured_on.query, *measured_on.gallery_only])
    if not tracklets:
        raise ExportError(
            f"{', '.join(map(str, sources))}: no people are left for calibration besides those for the measurement"
        )
    drawn = np.random.default_rng(SEED).permutation(len(tracklets))[:clips]
    size = (spec.frame_height, spec.frame_width)
    chosen = [
        read_clips(
            tracklets[index],
            frame_size=size,
            clip_length=spec.clip_length,
            max_clips=1,
            resampling=spec.preprocessing.resampling,
        )
        for index in drawn
    ]
    return CalibrationClips(np.concatenate(chosen), ", ".join(source.name for source in sources))


def quantise(
    bundle: Bundle, out: Path, calibration: CalibrationClips, measured_on: EvaluationSet | None
) -> QuantisationResult:
    """Write a bundle in int8, an OpenVINO IR, to the new folder `out`; trained weights of the bundle are copied.

    Args:
        bundle: with a float network
        out: a path that does not exist, or an empty folder
        calibration: sets the ranges of the quantisers
        measured_on: the people on which both networks are compared. With None the accuracy stays unknown and the new
            bundle has its own embedding space; this is for measuring speed only.

    Raises:
        ExportError: `out` is not empty, the bundle is already quantised, mAP falls by more than `MAX_MAP_LOSS` points,
            or the mean cosine is below `MIN_MEAN_COSINE`.
        MissingExtra: NNCF is not installed.
    """
    if bundle.spec.quantisation is not None:
        raise ExportError(f"{bundle.path} is already quantised")
    with new_bundle_folder(out) as folder:
        network = _insert_quantisers(bundle, calibration.clips)
        openvino.save_model(network, folder / IR_FILES[0], compress_to_fp16=False)
        quantised, rank1 = _describe(bundle, folder, calibration, measured_on)
        if (bundle.path / WEIGHTS_FILE).is_file():
            shutil.copyfile(bundle.path / WEIGHTS_FILE, folder / WEIGHTS_FILE)
        before, after = network_bytes(bundle.path), network_bytes(folder)
    return QuantisationResult(Bundle.load(out), quantised, rank1, before, after)


def _insert_quantisers(bundle: Bundle, clips: NDArray[np.uint8]) -> Any:
    network = openvino.Core().read_model(bundle.network_path)
    apply_moc_transformations(network, cf=True, smart_reshape=False)
    with _quiet_nncf() as nncf:
        return nncf.quantize(
            network,
            nncf.Dataset([clip[None] for clip in clips]),
            subset_size=len(clips),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(types=list(KEPT_IN_FLOAT), names=_early_layers(network), validate=False),
        )


def _early_layers(network: Any) -> list[str]:
    """Return the convolutions of the first `EARLY_BLOCKS` depthwise blocks; none if the network has no such filters."""
    names: list[str] = []
    blocks = 0
    for operation in network.get_ordered_ops():
        kind = operation.get_type_name()
        if kind in ("Convolution", "GroupConvolution"):
            names.append(operation.get_friendly_name())
            if blocks == EARLY_BLOCKS:  # the pointwise convolution after the last one's filter
                return names
            blocks += kind == "GroupConvolution"
    return []


@contextlib.contextmanager
def _quiet_nncf() -> Iterator[Any]:
    """Import NNCF and suppress its progress bars on standard output."""
    with extra("quantize"):
        import nncf
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        yield nncf


def _describe(
    bundle: Bundle, folder: Path, calibration: CalibrationClips, measured_on: EvaluationSet | None
) -> tuple[Quantisation, dict[str, float]]:
    """Write the other files of the bundle.

    The golden embeddings are those of the quantised network, with the operations that stay in float in f32.
    """
    spec = bundle.spec
    content = b"".join((folder / name).read_bytes() for name in IR_FILES)
    own_space = compute_embedding_space(content, spec.preprocessing)
    facts = Quantisation(
        of=bundle.embedding_space, network=own_space, calibration=calibration.described, clips=len(calibration.clips)
    )
    clips = bundle.golden().clips
    network = openvino.Core().compile_model(folder / IR_FILES[0], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    golden = normalise(network({INPUT_NAME: clips})[0])
    np.savez_compressed(folder / GOLDEN_FILE, clips=clips, embeddings=golden)
    spec = spec.model_copy(update={"name": f"{spec.name}-int8", "quantisation": facts, "accuracy": ()})
    write_spec(spec, folder)
    rank1: dict[str, float] = {}
    if measured_on is not None:
        facts, rank1 = _measure(bundle, Bundle.load(folder), facts, measured_on)
        accuracy = Accuracy(
            dataset=str(facts.validation),
            protocol=f"{measured_on.name}, cosine, all clips, int8",
            people=facts.people or 0,
            queries=facts.queries or 0,
            gallery=len(measured_on.gallery),
            rank1=rank1["int8"],
            map=facts.map or 0.0,
        )
        write_spec(spec.model_copy(update={"quantisation": facts, "accuracy": (accuracy,)}), folder)
    if facts.ranks_alike and bundle.calibration is not None:
        # Vectors of both networks meet in one gallery, so they have one calibration.
        (folder / CALIBRATION_FILE).write_text(bundle.calibration.to_json(), encoding="utf-8")
    loaded = Bundle.load(folder)
    engine = OpenVinoEngine(loaded, threads=available_cpus())
    difference = measure_difference(engine, clips, bundle.golden().embeddings)
    card = describe_bundle(loaded, f"the float bundle {bundle.spec.name}", f"{len(clips)} golden clips", [difference])
    (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return facts, rank1


def _measure(
    bundle: Bundle, quantised: Bundle, facts: Quantisation, people: EvaluationSet
) -> tuple[Quantisation, dict[str, float]]:
    """Compare both networks alone, and the queries of each in the gallery of the other."""
    engine = OpenVinoEngine(quantised, threads=available_cpus())
    run_self_test(engine, quantised)
    exact = OpenVinoEngine(bundle, threads=available_cpus(), precision="f32")
    found = compare_precisions(exact, engine, bundle.spec, people)
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
        raise ExportError(
            f"nothing was written: on {facts.people} people ({facts.queries} queries, {people.name}) mAP goes from "
            f"{facts.float_map:.2f} to {facts.map:.2f} (at most {MAX_MAP_LOSS} less), and the mean cosine between the "
            f"video features of both networks is {found.mean_cosine:.4f} (at least {MIN_MEAN_COSINE})"
        )
    return facts, {"float": found.exact.rank1, "int8": found.other.rank1}


def _is_unlabelled(source: Path) -> bool:
    """Return whether a source is a folder of tracklets without persons or cameras."""
    return kind_of(source) == "folder" and not all(item.person and item.camera for item in read_tracklets(source))


def _without(tracklets: Sequence[Tracklet], others: Sequence[Tracklet]) -> list[Tracklet]:
    """Leave out tracklets that share a person or a file with `others`."""
    people, files = {tracklet.person for tracklet in others}, {path for item in others for path in item.frames}
    return [item for item in tracklets if (item.person or None) not in people and files.isdisjoint(item.frames)]
