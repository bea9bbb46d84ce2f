"""One evaluation: a checkpoint or a bundle, a dataset, a protocol; figures as a dictionary and a JSON file."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from model.bundle import Bundle
from model.engines import open_engine
from model.ranking import cosine_scores
from training.checkpoint import load_checkpoint
from training.datasets.catalog import one_per_person_and_camera, read_training, set_aside
from training.datasets.mars import is_mars, read_mars
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import EmbedClips, embed_tracklets
from training.evaluation.metrics import rank_metrics
from training.validation import network_embedder

PROTOCOLS = {
    "mars": "MARS's own queries against its gallery without the queries; step AP, over the queries with a match",
    "cross-camera": "one tracklet per person and camera, each a query against those of the other cameras",
    "validation": "the same, on the people that the model's recipe set aside from this training data",
}
"""What each name means; ``auto`` is ``mars`` for MARS's layout and ``cross-camera`` elsewhere."""


class EvaluationError(ValueError):
    """The protocol does not fit the data or the model."""


@dataclass(frozen=True)
class _Model:
    embed: EmbedClips
    frame_size: tuple[int, int]
    clip_length: int
    recipe: Mapping[str, Any]
    described: str


def evaluate(
    checkpoint_or_bundle: Path,
    data: Sequence[Path],
    *,
    out: Path | None = None,
    protocol: str = "auto",
    max_clips: int | None = None,
    console: Console | None = None,
) -> dict[str, str | int | float]:
    """Ranks by cosine of video features, as the service does, and returns the figures (percent where they are shares).

    ``out`` gets them as ``evaluation.json``. A bundle runs on the engine that the service would pick.

    Raises:
        EvaluationError: an unknown protocol, or one that does not fit.
        ValueError: from the model or the data.
    """
    model = _open(checkpoint_or_bundle)
    name, query, gallery = _select(data, protocol, model.recipe)
    tracklets = query if gallery is None else [*query, *gallery]
    with Progress(console=console or Console(stderr=True)) as progress:
        task = progress.add_task("embedding", total=len(tracklets))
        step: Callable[[], None] = lambda: progress.advance(task)  # noqa: E731
        features = embed_tracklets(
            model.embed,
            tracklets,
            frame_size=model.frame_size,
            clip_length=model.clip_length,
            max_clips=max_clips,
            progress=step,
        )
    query_features = features[: len(query)]
    against, rows = (features, query) if gallery is None else (features[len(query) :], gallery)
    metrics = rank_metrics(
        1 - cosine_scores(query_features, against),
        [t.person for t in query],
        [t.person for t in rows],
        [t.camera for t in query],
        [t.camera for t in rows],
    )
    figures: dict[str, str | int | float] = {
        "model": model.described,
        "data": ", ".join(path.name for path in data),
        "protocol": f"{name}: {PROTOCOLS[name]}",
        "people": len({t.person for t in query}),
        "queries": metrics.valid_queries,
        "gallery": len(rows),
        "frames": sum(len(t.frames) for t in tracklets),
        **{f"rank-{k}": round(100 * float(metrics.cmc[min(k, len(rows)) - 1]), 2) for k in (1, 5, 10, 20)},
        "mAP": round(100 * metrics.mean_ap, 2),
        "mINP": round(100 * metrics.mean_inp, 2),
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "evaluation.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def _open(path: Path) -> _Model:
    if path.is_dir():
        bundle = Bundle.load(path)
        engine, spec = open_engine(bundle), bundle.spec
        described = f"{spec.name} ({bundle.embedding_space}) on {engine.name} {engine.precision}"
        return _Model(engine.embed, (spec.frame_height, spec.frame_width), spec.clip_length, spec.recipe, described)
    checkpoint = load_checkpoint(path)
    network = checkpoint.build()
    embed = network_embedder(network, torch.device("cpu"))
    size = (network.spec.frame_height, network.spec.frame_width)
    return _Model(
        embed, size, network.spec.clip_length, checkpoint.recipe, f"{checkpoint.recipe.get('name')} in PyTorch fp32"
    )


def _select(
    data: Sequence[Path], protocol: str, recipe: Mapping[str, Any]
) -> tuple[str, list[Tracklet], list[Tracklet] | None]:
    """The protocol's name, its queries, and its gallery where that is another set."""
    if protocol not in ("auto", *PROTOCOLS):
        raise EvaluationError(f"unknown protocol {protocol!r}; known are auto, {', '.join(PROTOCOLS)}")
    all_mars = all(is_mars(path) for path in data)
    if protocol == "mars" or (protocol == "auto" and all_mars):
        if len(data) != 1 or not all_mars:
            raise EvaluationError("the protocol mars needs one dataset in MARS's layout")
        mars = read_mars(data[0])
        return "mars", mars.query, mars.gallery
    tracklets = read_training(data)
    if protocol == "validation":
        if not recipe.get("validation_share"):
            raise EvaluationError("the model's recipe set nobody aside (no validation_share)")
        _, tracklets = set_aside(tracklets, recipe["validation_share"], recipe["seed"])
        if not tracklets:
            raise EvaluationError("the model's training set nobody of these people aside; ask for cross-camera")
        return "validation", one_per_person_and_camera(tracklets), None
    return "cross-camera", one_per_person_and_camera(tracklets), None
