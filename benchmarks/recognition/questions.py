"""Open questions about a trained checkpoint: frame sizes, attention on long tracklets, mirrored frames.

`--fine-tune N` also trains the checkpoint for N more crops in each of the compared forms, all alike. Without it, other
frame sizes are measured with weights that never saw them, and attention that was trained on single frames is a mean.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.recognition.common import (
    MEASURES,
    add_eval_data,
    add_output,
    add_training,
    changes,
    compose,
    conclude,
    digest,
    eval_data,
    existing,
    figures,
    kept,
    measure,
    open_model,
)
from benchmarks.recognition.short_runs import Training, length, samples_of, train_once
from benchmarks.report import markdown_table
from model.bundle import Bundle
from model.engines import open_engine
from model.engines.choice import installed_engines
from training.batches.clips import Normalise
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import EmbedClips, embed_tracklets, read_clips
from training.evaluation.protocols import EvaluationSet, EvaluationSettings, select_tracklets
from training.evaluation.scoring import score
from training.evaluation.validation import network_embedder
from training.export.export import export_bundle
from training.loop.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.recipe import find_recipe, load_recipe

SIZES = ((160, 80), (192, 96), (256, 128))
"""Compared with the size of the checkpoint."""
LONG = 16
"""Frames of a long tracklet."""
CLIP_LENGTH = 4
"""Frames of the clips that attention is trained on."""

Clips = NDArray[np.uint8]
Figures = dict[str, Any]
_CPU = torch.device("cpu")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("checkpoint", type=existing, help="a file of the trainer")
    add_eval_data(parser)
    parser.add_argument("--only", choices=list(_QUESTIONS), action="append", help="may be repeated (default: each)")
    parser.add_argument("--fine-tune", type=int, default=0, metavar="N", help="crops of a fine-tune (default: none)")
    parser.add_argument("--recipe", default="unseen-sites", help="of the fine-tune (default: %(default)s)")
    parser.add_argument("--teacher", type=existing, metavar="PATH", help="bundle or .onnx of the teacher, for the same")
    parser.add_argument("--rounds", type=int, default=30, help="of the timing; 0: no timing (default: %(default)s)")
    add_training(parser)
    add_output(parser, "questions", "docs/figures/unseen-sites.md")


def run(arguments: argparse.Namespace) -> None:
    """Answer the questions that are not answered yet, and write a section for each."""
    if arguments.quick:
        arguments.rounds, arguments.fine_tune = min(arguments.rounds, 2), min(arguments.fine_tune, 32)
    for name, answer in _QUESTIONS.items():
        if not arguments.only or name in arguments.only:
            conclude(arguments, answer(arguments), f"questions: {name}")


def _fine_tune(
    arguments: argparse.Namespace, name: str, crops: int, form: Mapping[str, str], start: Path | None = None
) -> Path:
    """Train the checkpoint, or `start`, for more crops with other settings, and return the new checkpoint."""
    base = _tuning(arguments, crops)
    teacher = arguments.teacher and open_model(arguments.teacher, arguments.out)
    training = Training(
        arguments.recipe,
        tuple(arguments.data),
        {**base, **form},
        teacher,
        start or arguments.checkpoint,
        arguments.device,
    )
    return train_once(training, arguments.out / name).checkpoint


def _tuning(arguments: argparse.Namespace, crops: int) -> dict[str, str]:
    """Return the changes of a fine-tune: half the learning rates, no steps of the head alone, and the same people."""
    optimiser = load_recipe(find_recipe(arguments.recipe)).optimiser
    trained = load_checkpoint(arguments.checkpoint).recipe
    base = {
        "optimiser.learning_rate": str(optimiser.learning_rate / 2),
        "optimiser.trunk_rate": str((optimiser.trunk_rate or optimiser.learning_rate) / 2),
        **changes(arguments),
        "seed": str(trained["seed"]),
        "validation_share": str(trained["validation_share"]),
    }
    return base | length(arguments.recipe, crops, base) | {"optimiser.head_steps": "0"}


def _by_eval_data(arguments: argparse.Namespace, checkpoint: Path, name: str) -> dict[str, Figures]:
    """Return the figures of a checkpoint for each kind of people, measured once."""
    found = {}
    for tested in eval_data(arguments):
        key = [digest(checkpoint), [path.name for path in tested.data]]
        found[tested.name] = kept(arguments.out / f"{name}-{tested.protocol}.json", key, measure, tested, checkpoint)
    return found


def _cell(found: Figures) -> str:
    return " / ".join(f"{found[name][0]:.1f} ({found[name][1]:.1f} to {found[name][2]:.1f})" for name in MEASURES)


# Frame sizes


def _sizes(arguments: argparse.Namespace) -> str:
    loaded = load_checkpoint(arguments.checkpoint)
    spec = loaded.network_spec
    if spec.attention == "full_map":
        raise SystemExit(
            "the attention of this checkpoint has one frame size: give one with pooled attention or a mean"
        )
    own = (spec.frame_height, spec.frame_width)
    wanted = sorted({own, *(SIZES[:1] if arguments.quick else SIZES)})
    places = {size: arguments.out / f"size-{size[0]}x{size[1]}" for size in wanted}
    rows = {size: [f"{size[0]}x{size[1]}{' (its own)' if size == own else ''}"] for size in wanted}
    for size, place in places.items():
        form = {"network.frame_height": str(size[0]), "network.frame_width": str(size[1])}
        resized = place / "as-it-is.pt"
        place.mkdir(parents=True, exist_ok=True)
        changed = spec.model_copy(update={"frame_height": size[0], "frame_width": size[1]})
        save_checkpoint(replace(loaded, network_spec=changed, progress={}), resized)
        rows[size] += map(_cell, _by_eval_data(arguments, resized, f"{place.name}/as-it-is").values())
        if arguments.fine_tune:
            tuned = _fine_tune(arguments, f"{place.name}/fine-tuned", arguments.fine_tune, form)
            rows[size] += map(_cell, _by_eval_data(arguments, tuned, f"{place.name}/fine-tuned").values())
    names = [tested.name for tested in eval_data(arguments)]
    columns = ["frames", *(f"{name}, same weights: rank-1 / mAP" for name in names)]
    if arguments.fine_tune:
        columns += [f"{name}, fine-tuned: rank-1 / mAP" for name in names]
    clip_times = _clip_times(places, arguments.rounds) if arguments.rounds else {}
    for label, of_size in clip_times.items():
        columns.append(f"{label}: CPU ms of a clip")
        for size in wanted:
            rows[size].append(of_size[size])
    described = _described(arguments, arguments.fine_tune) if arguments.fine_tune else ""
    text = f"The same weights at each size{described}. Percent, with 95 % intervals over people."
    if clip_times:
        text += (
            f" Time: processor time of one clip of {spec.clip_length} frames, one thread, median of {arguments.rounds} "
            "rounds with all sizes in turn."
        )
    return compose("Frame size", text, markdown_table(columns, rows.values()))


def _described(arguments: argparse.Namespace, crops: int) -> str:
    seen = samples_of(arguments.recipe, _tuning(arguments, crops))
    return f"; fine-tuned: after {seen:,} more clips of `{arguments.recipe}` at half its learning rates"


def _clip_times(places: Mapping[tuple[int, int], Path], rounds: int) -> dict[str, dict[tuple[int, int], str]]:
    """Return the processor time of a clip by engine and frame size."""
    bundles = {}
    for size, place in places.items():
        if not (place / "bundle").is_dir():
            export_bundle(place / "as-it-is.pt", place / "bundle")
        bundles[size] = Bundle.load(place / "bundle")
    times: dict[str, dict[tuple[int, int], str]] = {}
    for name in installed_engines():
        engines = {size: open_engine(bundle, "cpu", engine=name, threads=1) for size, bundle in bundles.items()}
        clips = {size: bundle.golden().clips[:1] for size, bundle in bundles.items()}
        spent: dict[tuple[int, int], list[float]] = {size: [] for size in bundles}
        for turn in range(rounds + 1):
            for size, engine in engines.items():
                started = time.process_time()
                engine.embed(clips[size])
                if turn:  # the first round is a warm-up
                    spent[size].append(1000 * (time.process_time() - started))
        first = next(iter(engines.values()))
        times[f"{first.name} {first.precision}"] = {
            size: f"{statistics.median(own):.1f}" for size, own in spent.items()
        }
    return times


# Attention and mirrored frames, on networks in memory


def _long(arguments: argparse.Namespace, checkpoint: Checkpoint) -> EvaluationSet:
    """Return the long tracklets as queries, in a gallery of them and of all other people set aside."""
    limit = 2 if arguments.quick else LONG
    aside = select_tracklets(arguments.data, "validation", checkpoint.recipe)
    tracklets = list(aside.query)
    if arguments.mars:
        listed = select_tracklets([arguments.mars], "mars")
        tracklets += [*listed.query, *listed.gallery_only]
    query = [tracklet for tracklet in tracklets if len(tracklet.frames) >= limit]
    others = [tracklet for tracklet in tracklets if len(tracklet.frames) < limit]
    if not query:
        raise SystemExit(f"no tracklet of people set aside, or of --mars, has {limit} frames")
    return EvaluationSet("cross-camera", query, others, queries_in_gallery=True)


def _rank(embed: EmbedClips, checkpoint: Checkpoint, people: EvaluationSet) -> Figures:
    spec = checkpoint.network_spec
    tracklets = list(dict.fromkeys(people.gallery))
    features = embed_tracklets(
        embed,
        tracklets,
        frame_size=(spec.frame_height, spec.frame_width),
        clip_length=spec.clip_length,
        clip_weights=spec.clip_weights,
    )
    row_of = {tracklet: row for row, tracklet in enumerate(tracklets)}
    query, gallery = (features[[row_of[t] for t in part]] for part in (people.query, people.gallery))
    return figures(score(query, gallery, people, EvaluationSettings(), head={}, clip_length=spec.clip_length))


def without_attention(checkpoint: Checkpoint) -> Checkpoint:
    """Return the same weights with a mean over frames instead of attention."""
    spec = checkpoint.network_spec.model_copy(update={"attention": "mean"})
    weights = {name: value for name, value in checkpoint.state_dict.items() if not name.startswith("attention_")}
    return replace(checkpoint, network_spec=spec, state_dict=weights)


def _attention(arguments: argparse.Namespace) -> str:
    loaded = load_checkpoint(arguments.checkpoint)
    if loaded.network_spec.attention not in ("pooled", "full_map"):
        raise SystemExit(f"this checkpoint has no attention logits (attention = {loaded.network_spec.attention})")
    people = _long(arguments, loaded)
    compared = {"as trained, attention": loaded, "as trained, mean": without_attention(loaded)}
    # A clip costs as much as its frames, so this many clips take the time of the crops that were asked for.
    clips = arguments.fine_tune // CLIP_LENGTH
    if arguments.fine_tune:
        mean = arguments.out / "mean.pt"
        save_checkpoint(compared["as trained, mean"], mean)
        starts = {"attention": (loaded.network_spec.attention, arguments.checkpoint), "mean": ("mean", mean)}
        for name, (attention, start) in starts.items():
            form = {
                "network.attention": attention,
                "network.frame_height": str(loaded.network_spec.frame_height),
                "network.frame_width": str(loaded.network_spec.frame_width),
                "network.clip_length": str(CLIP_LENGTH),
                "batch.clip_length": str(CLIP_LENGTH),
                "batch.sampling": "restricted",
            }
            tuned = _fine_tune(arguments, f"attention-{name}", clips, form, start)
            compared[f"fine-tuned on clips of {CLIP_LENGTH}, {name}"] = load_checkpoint(tuned)
    rows = []
    for name, checkpoint in compared.items():
        network = checkpoint.build()
        largest = _largest_weight(checkpoint, people.query)
        found = _rank(network_embedder(network, _CPU), checkpoint, people)
        rows.append([name, _cell(found), f"{largest:.3f}"])
    tuned_text = _described(arguments, clips) if arguments.fine_tune else ""
    length_ = loaded.network_spec.clip_length
    text = (
        f"{_counted(people)}. The same weights with their attention and with a mean over the frames of a "
        f"clip{tuned_text}. With equal weights of {length_} frames the largest is {1 / length_:.3f}. Percent, with 95 "
        "% intervals over people."
    )
    columns = ["network", "rank-1 / mAP", "largest weight of a frame in a clip, mean"]
    return compose("Attention against the mean on long tracklets", text, markdown_table(columns, rows))


def _counted(people: EvaluationSet) -> str:
    least = min(len(tracklet.frames) for tracklet in people.query)
    persons = len({tracklet.person for tracklet in people.query})
    return (
        f"{len(people.query)} tracklets of {least} frames and more, of {persons} people, are queries for the other "
        f"cameras, in a gallery of {len(people.gallery)} tracklets"
    )


def _largest_weight(checkpoint: Checkpoint, tracklets: Sequence[Tracklet]) -> float:
    network, spec = checkpoint.build(), checkpoint.network_spec
    normalise = Normalise(spec.mean, spec.std, _CPU)
    largest = []
    for tracklet in tracklets:
        clips = read_clips(
            tracklet, frame_size=(spec.frame_height, spec.frame_width), clip_length=spec.clip_length, max_clips=4
        )
        with torch.inference_mode():
            largest += network.frame_weights(normalise(torch.from_numpy(clips))).amax(dim=1).tolist()
    return statistics.fmean(largest)


def mirror(clips: Clips, every: int = 1) -> Clips:
    """Return clips `[N, T, H, W, 3]` with every n-th frame mirrored, beginning with frame n - 1 of a clip."""
    mirrored = clips.copy()
    mirrored[:, every - 1 :: every] = clips[:, every - 1 :: every, :, ::-1]
    return mirrored


def _flips(arguments: argparse.Namespace) -> str:
    loaded = load_checkpoint(arguments.checkpoint)
    embed = network_embedder(loaded.build(), _CPU)
    forms: dict[str, Callable[[Clips], NDArray[np.float32]]] = {
        "frames as they are": embed,
        "every other frame mirrored": lambda clips: embed(mirror(clips, 2)),
        "each frame and its mirror image (twice the time)": lambda clips: 0.5 * (embed(clips) + embed(mirror(clips))),
    }
    selected = {
        tested.name: select_tracklets(tested.data, tested.protocol, loaded.recipe) for tested in eval_data(arguments)
    }
    rows = []
    for name, form in forms.items():
        cells = []
        for tested, people in selected.items():
            key = [digest(arguments.checkpoint), name, tested, len(people.gallery)]
            file = arguments.out / f"flips-{list(forms).index(name)}-{people.name}.json"
            cells.append(_cell(kept(file, key, _rank, form, loaded, people)))
        rows.append([name, *cells])
    text = (
        "The same weights, in PyTorch. A tracklet that is shorter than a clip repeats its frames, so a single crop is "
        "also seen mirrored. Percent, with 95 % intervals over people."
    )
    columns = ["frames of a clip", *(f"{name}: rank-1 / mAP" for name in selected)]
    return compose("Mirrored frames", text, markdown_table(columns, rows))


_QUESTIONS: dict[str, Callable[[argparse.Namespace], str]] = {
    "sizes": _sizes,
    "attention": _attention,
    "flips": _flips,
}
