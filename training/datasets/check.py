"""Is a dataset whole, and what is in it?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

from model.frames import FrameError, decode_frame
from training.datasets.benchmark import Benchmark
from training.datasets.catalog import SPLITS, DatasetKind, kind_of, read_benchmark, read_training
from training.datasets.images import IMAGE_SUFFIXES
from training.datasets.official import OFFICIAL
from training.datasets.tracklet import DatasetError, Tracklet

DECODED = 200
"""Images that are decoded unless all are asked for, spread evenly."""

NEARLY_ALL = 0.9
"""Below this share of the published training people a dataset is an excerpt; from it on it should be whole."""


@dataclass
class Inspection:
    """What was found at a path; it is sound where there are no problems."""

    path: Path
    kind: DatasetKind
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def inspect_dataset(path: Path, *, decode: int | Literal["all"] = DECODED) -> Inspection:
    """Reads every list and split, compares counts with the official ones, and decodes some images.

    A dataset with fewer than nine in ten of the published training people (LS-VID: training tracklets) is an excerpt;
    one with more, and with other counts than published, is a damaged copy, which is a problem, as is every file that
    is missing, foreign or no image.

    Args:
        path: a dataset of any kind
        decode: how many images are decoded
    """
    if not path.exists():
        raise DatasetError(f"{path} does not exist")
    found = Inspection(path, kind_of(path))
    found.facts["layout"] = OFFICIAL[found.kind].title
    try:
        tracklets = _read(found)
    except DatasetError as error:
        found.problems.append(str(error))
        return found
    frames = list(dict.fromkeys(frame for tracklet in tracklets for frame in tracklet.frames))
    _decode(found, frames, decode)
    if path.is_dir() and found.kind != "market1501":
        _find_strangers(found, frames)
    return found


def count(benchmark: Benchmark) -> dict[str, int]:
    """People, tracklets and frames of each part, and the queries that have a right answer under another camera."""
    counts: dict[str, int] = {}
    for part, tracklets in (("train", benchmark.train), ("query", benchmark.query), ("gallery", benchmark.gallery)):
        if tracklets:
            counts |= {
                f"{part} people": len({t.person for t in tracklets}),
                f"{part} tracklets": len(tracklets),
                f"{part} frames": sum(len(t.frames) for t in tracklets),
            }
    if benchmark.query:
        counts["test tracklets"] = len(benchmark.query) + len(benchmark.gallery) + len(benchmark.junk)
        counts["queries with a match"] = _matched(benchmark.query, benchmark.gallery)
    if benchmark.kind == "mars":
        together = [*benchmark.query, *benchmark.gallery]
        counts["queries with a match, queries in the gallery"] = _matched(benchmark.query, together)
    return counts


def _read(found: Inspection) -> list[Tracklet]:
    """All tracklets; facts and count problems go to ``found``."""
    kind, path = found.kind, found.path
    if kind in ("market1501", "folder"):
        benchmarks = [Benchmark(kind, read_training([path]), [], [])]
    else:
        benchmarks = [read_benchmark(path, split) for split in (range(SPLITS[kind]) if kind in SPLITS else [None])]
    if kind in SPLITS:
        found.facts["splits"] = str(len(benchmarks))
    counts = [count(benchmark) for benchmark in benchmarks]
    for name in counts[0]:
        values = sorted({one[name] for one in counts})
        found.facts[name] = f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,} by split"
    tracklets = list(dict.fromkeys(t for b in benchmarks for t in (*b.train, *b.query, *b.gallery, *b.junk)))
    lengths = [len(tracklet.frames) for tracklet in tracklets]
    found.facts["frames per tracklet"] = f"{min(lengths)} to {max(lengths)}, median {median(lengths):g}"
    found.facts["cameras"] = ", ".join(sorted({tracklet.camera for tracklet in tracklets}))
    _compare(found, counts)
    return tracklets


def _compare(found: Inspection, counts: Sequence[dict[str, int]]) -> None:
    official = OFFICIAL[found.kind].counts
    if not official:
        return
    size = next(name for name in ("train people", "train tracklets") if name in official)
    if counts[0][size] < NEARLY_ALL * official[size]:
        found.notes.append(f"an excerpt: {counts[0][size]:,} of {official[size]:,} {size}")
        return
    wrong = [
        f"{f'split {split}: ' if len(counts) > 1 else ''}{one.get(name, 0):,} {name}, officially {number:,}"
        for split, one in enumerate(counts)
        for name, number in official.items()
        if one.get(name, 0) != number
    ]
    found.problems += wrong
    if not wrong:
        found.notes.append("complete: all counts are the official ones")


def _matched(query: Sequence[Tracklet], gallery: Sequence[Tracklet]) -> int:
    cameras: dict[str, set[str]] = {}
    for tracklet in gallery:
        cameras.setdefault(tracklet.person, set()).add(tracklet.camera)
    return sum(bool(cameras.get(tracklet.person, set()) - {tracklet.camera}) for tracklet in query)


def _decode(found: Inspection, frames: Sequence[Path], decode: int | Literal["all"]) -> None:
    number = len(frames) if decode == "all" else min(decode, len(frames))
    bad = 0
    for index in range(number):
        frame = frames[index * len(frames) // number]
        try:
            decode_frame(frame.read_bytes())
        except (FrameError, OSError) as error:
            bad += 1
            if bad <= 10:
                found.problems.append(f"{frame}: {error}")
    if bad > 10:
        found.problems.append(f"and {bad - 10:,} more images that cannot be decoded")
    found.facts["images decoded"] = f"{number:,} of {len(frames):,}"


def _find_strangers(found: Inspection, frames: Sequence[Path]) -> None:
    """Images below the dataset that no list or layout rule uses; queries that Duke's gallery repeats are some."""
    known = set(frames)
    strangers = [
        path
        for path in found.path.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path not in known
    ]
    if strangers:
        first = min(strangers).relative_to(found.path)
        found.notes.append(f"{len(strangers):,} images belong to no tracklet that is used, the first is {first}")
