"""Run an evaluation of a checkpoint or a bundle on datasets under a protocol."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.bundle import Bundle
from model.calibration import Calibration
from model.engines import embed_in_parallel, open_engine
from model.network import VideoReID
from model.pillow_bicubic import Resampling
from model.tracklet import ClipWeights
from training.batches.clips import Normalise
from training.datasets.catalog import split_count
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import EmbedClips, embed_tracklets, read_clips
from training.evaluation.protocols import EvaluationError, EvaluationSet, EvaluationSettings, select_tracklets
from training.evaluation.scoring import EvaluationResult, FrameWeights, score
from training.evaluation.validation import network_embedder
from training.loop.checkpoint import load_checkpoint


@dataclass(frozen=True)
class _Model:
    embed: EmbedClips
    frame_size: tuple[int, int]
    resampling: Resampling
    clip_length: int
    clip_weights: ClipWeights
    recipe: Mapping[str, Any]
    described: str
    settings: EvaluationSettings
    frame_weights: FrameWeights | None = None
    calibration: Calibration | None = None


def evaluate(
    checkpoint_or_bundle: Path,
    data: Sequence[Path],
    *,
    options: Mapping[str, Any] | None = None,
    split: int | None = None,
    seed: int = 1,
    console: Console | None = None,
) -> EvaluationResult:
    """Measure a model: a bundle on the engine that the service would choose, a checkpoint in PyTorch fp32.

    Args:
        checkpoint_or_bundle: a file of the trainer, or a bundle's folder
        data: one or more datasets, as the protocol needs
        options: fields of `EvaluationSettings` that differ from the checkpoint's recipe, or, for a bundle, from the
            ranking of the service (cosine, all clips)
        split: of a dataset that has several
        seed: of confidence intervals and of the open set
        console: shows the progress

    Raises:
        EvaluationError: the protocol is unknown or does not fit.
        Not3dError: the model or the data cannot be read.
    """
    return evaluate_splits(checkpoint_or_bundle, data, [split], options=options, seed=seed, console=console)[0]


def evaluate_splits(
    checkpoint_or_bundle: Path,
    data: Sequence[Path],
    splits: Sequence[int | None] | Literal["all"],
    *,
    options: Mapping[str, Any] | None = None,
    seed: int = 1,
    console: Console | None = None,
    people_of: Mapping[str, Any] | None = None,
) -> list[EvaluationResult]:
    """Measure a model on several splits; each tracklet is embedded once, even if it is in several splits.

    This is fair only for a model that was not trained on any of the splits.

    Args:
        checkpoint_or_bundle: see `evaluate`
        data: see `evaluate`
        splits: numbers of splits
        options: see `evaluate`
        seed: see `evaluate`
        console: see `evaluate`
        people_of: the recipe whose validation people the protocol `validation` takes; by default the model's

    Raises:
        EvaluationError: as `evaluate`, or the data has no splits.
        Not3dError: the model or the data cannot be read.
    """
    model = _open(checkpoint_or_bundle, options or {})
    settings = model.settings
    if splits == "all":
        count = max(split_count(path) for path in data)
        if count == 1:
            raise EvaluationError(f"split all: {', '.join(path.name for path in data)} has no splits; omit it")
        splits = list(range(count))
    recipe = model.recipe if people_of is None else people_of
    evaluation_sets = [select_tracklets(data, settings.protocol, recipe, split) for split in splits]
    for people in evaluation_sets:
        _refuse_without_answers(people)  # before hours of embedding
    tracklets = list(dict.fromkeys(t for s in evaluation_sets for t in (*s.query, *s.gallery_only)))
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console or Console(stderr=True)) as progress:
        task = progress.add_task("embedding", total=len(tracklets))
        step: Callable[[], None] = lambda: progress.advance(task)  # noqa: E731
        features = embed_tracklets(
            model.embed,
            tracklets,
            frame_size=model.frame_size,
            resampling=model.resampling,
            clip_length=model.clip_length,
            clip_weights=model.clip_weights,
            max_clips=settings.max_clips,
            clip_choice=settings.clip_choice,
            clip_seed=settings.clip_seed,
            progress=step,
        )
    row_of = {tracklet: row for row, tracklet in enumerate(tracklets)}
    return [
        score(
            features[[row_of[t] for t in people.query]],
            features[[row_of[t] for t in people.gallery]],
            people,
            settings,
            head={"model": model.described, "data": ", ".join(path.name for path in data)},
            clip_length=model.clip_length,
            seed=seed,
            frame_weights=model.frame_weights,
            calibration=model.calibration,
        )
        for people in evaluation_sets
    ]


def compare(
    models: Sequence[Path],
    data: Sequence[Path],
    *,
    options: Mapping[str, Any] | None = None,
    split: int | None = None,
    seed: int = 1,
    console: Console | None = None,
) -> list[EvaluationResult]:
    """Measure several models on the same tracklets under one protocol.

    Args:
        models: checkpoints or bundles; the protocol `validation` takes the validation people of the first one
        data: see `evaluate`
        options: see `evaluate`; the protocol is that of the first model if it is not among them
        split: see `evaluate`
        seed: see `evaluate`
        console: see `evaluate`

    Raises:
        EvaluationError: as `evaluate`.
        Not3dError: a model or the data cannot be read.
    """
    first = _open(models[0], options or {})
    options = {**(options or {}), "protocol": first.settings.protocol}
    results: list[EvaluationResult] = []
    for model in models:
        results += evaluate_splits(
            model, data, [split], options=options, seed=seed, console=console, people_of=first.recipe
        )
    return results


def _refuse_without_answers(people: EvaluationSet) -> None:
    cameras: dict[str, set[str]] = {}
    for tracklet in people.gallery:
        cameras.setdefault(tracklet.person, set()).add(tracklet.camera)
    if not any(cameras.get(tracklet.person, set()) - {tracklet.camera} for tracklet in people.query):
        raise EvaluationError(
            f"protocol {people.name}, {len(people.query)} queries, {len(people.gallery)} in the gallery: no query has "
            "a right answer from another camera in the gallery"
        )


def _settings(base: Mapping[str, Any], options: Mapping[str, Any]) -> EvaluationSettings:
    try:
        return EvaluationSettings.model_validate({**base, **options})
    except ValidationError as error:
        lines = (": ".join([*map(str, e["loc"]), e["msg"].removeprefix("Value error, ")]) for e in error.errors())
        raise EvaluationError("; ".join(lines)) from None


def _open(path: Path, options: Mapping[str, Any]) -> _Model:
    if path.is_dir():
        settings = _settings({}, options)
        bundle = Bundle.load(path)
        engine, spec = open_engine(bundle), bundle.spec
        if settings.feature not in (None, spec.feature):
            raise EvaluationError(f"the bundle gives only its {spec.feature} feature; measure a checkpoint instead")
        described = f"{spec.name} ({bundle.embedding_space}) on {engine.name} {engine.precision}"
        size = (spec.frame_height, spec.frame_width)
        return _Model(
            embed_in_parallel(engine),
            size,
            spec.preprocessing.resampling,
            spec.clip_length,
            spec.clip_weights,
            spec.recipe,
            described,
            settings,
            calibration=bundle.calibration,
        )
    checkpoint = load_checkpoint(path)
    settings = _settings(checkpoint.recipe.get("evaluation", {}), options)
    network = checkpoint.build()
    if settings.feature is not None:
        network.spec = network.spec.model_copy(update={"feature": settings.feature})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device)
    size = (network.spec.frame_height, network.spec.frame_width)
    name = checkpoint.recipe.get("name", path.stem)
    return _Model(
        network_embedder(network, device),
        size,
        network.spec.resampling,
        network.spec.clip_length,
        network.spec.clip_weights,
        checkpoint.recipe,
        f"{name} in PyTorch fp32 on {device}",
        settings,
        None if network.spec.attention == "mean" else _weigh_frames(network, device),
    )


def _weigh_frames(network: VideoReID, device: torch.device) -> FrameWeights:
    normalise = Normalise(network.spec.mean, network.spec.std, device)
    size = (network.spec.frame_height, network.spec.frame_width)

    def weigh(tracklet: Tracklet) -> list[float]:
        clips = read_clips(
            tracklet,
            frame_size=size,
            clip_length=network.spec.clip_length,
            max_clips=1,
            clip_choice="first",
            resampling=network.spec.resampling,
        )
        with torch.inference_mode():
            weights: list[float] = network.frame_weights(normalise(torch.from_numpy(clips)))[0].tolist()
        return weights

    return weigh
