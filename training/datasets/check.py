"""Check whether a dataset is complete and undamaged, and count what it contains."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

from model.frames import FrameError, decode_frame
from training.datasets.catalog import SPLITS, DatasetKind, has_test_lists, kind_of, read_benchmark, read_training
from training.datasets.files import IMAGE_SUFFIXES
from training.datasets.official import OFFICIAL
from training.datasets.tracklet import Benchmark, DatasetError, Tracklet

DECODED = 200
"""Number of images that are decoded by default, spread evenly."""

EXCERPT_BELOW = 0.9
"""With less than this share of the published training people a dataset is an excerpt; otherwise it must be complete."""

_MAX_LISTED = 10
"""Damaged images that are listed one by one."""


@dataclass
class Inspection:
    """The result of checking a dataset, which is valid if there are no problems."""

    path: Path
    kind: DatasetKind
    facts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def inspect_dataset(path: Path, *, decode: int | Literal["all"] = DECODED) -> Inspection:
    """Read all lists and splits, compare counts with the official ones, and decode some images.

    A dataset with fewer than `EXCERPT_BELOW` of the published training people (LS-VID: training tracklets) is an
    excerpt. With more, counts that differ from the published ones are a problem: the copy is damaged. Missing,
    unexpected and damaged files are problems too.

    Args:
        path: a dataset of any kind
        decode: how many images are decoded

    Raises:
        DatasetError: the path does not exist, or contains datasets of several kinds.
    """
    if not path.exists():
        raise DatasetError(f"{path} does not exist")
    inspection = Inspection(path, kind_of(path))
    inspection.facts["layout"] = OFFICIAL[inspection.kind].title
    try:
        tracklets = _read(inspection)
    except DatasetError as error:
        inspection.problems.append(str(error))
        return inspection
    frames = list(dict.fromkeys(frame for tracklet in tracklets for frame in tracklet.frames))
    _decode(inspection, frames, decode)
    if path.is_dir() and inspection.kind != "market1501":
        _find_unused_images(inspection, frames)
    return inspection


def count(benchmark: Benchmark) -> dict[str, int]:
    """Count people, tracklets and frames of each part, and queries with a right answer from another camera."""
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
        counts["queries with a match"] = _count_matched(benchmark.query, benchmark.gallery)
    if benchmark.kind == "mars":
        with_queries = [*benchmark.query, *benchmark.gallery]
        counts["queries with a match, queries in the gallery"] = _count_matched(benchmark.query, with_queries)
    return counts


def _read(inspection: Inspection) -> list[Tracklet]:
    """Return all tracklets; record counts and wrong counts in `inspection`."""
    kind, path = inspection.kind, inspection.path
    if not has_test_lists(path):
        benchmarks = [Benchmark(kind, read_training([path]), [], [])]
    else:
        benchmarks = [read_benchmark(path, split) for split in (range(SPLITS[kind]) if kind in SPLITS else [None])]
    if kind in SPLITS:
        inspection.facts["splits"] = str(len(benchmarks))
    counts = [count(benchmark) for benchmark in benchmarks]
    for name in counts[0]:
        values = sorted({one[name] for one in counts})
        inspection.facts[name] = f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,} by split"
    tracklets = list(dict.fromkeys(t for b in benchmarks for t in (*b.train, *b.query, *b.gallery, *b.junk)))
    lengths = [len(tracklet.frames) for tracklet in tracklets]
    inspection.facts["frames per tracklet"] = f"{min(lengths)} to {max(lengths)}, median {median(lengths):g}"
    inspection.facts["cameras"] = ", ".join(sorted({tracklet.camera for tracklet in tracklets}))
    _compare(inspection, counts)
    return tracklets


def _compare(inspection: Inspection, counts: Sequence[dict[str, int]]) -> None:
    official = OFFICIAL[inspection.kind].counts
    if not official:
        return
    size = next(name for name in ("train people", "train tracklets") if name in official)
    if counts[0][size] < EXCERPT_BELOW * official[size]:
        inspection.notes.append(f"an excerpt: {counts[0][size]:,} of {official[size]:,} {size}")
        return
    wrong = [
        f"{f'split {split}: ' if len(counts) > 1 else ''}{one.get(name, 0):,} {name}, officially {number:,}"
        for split, one in enumerate(counts)
        for name, number in official.items()
        if one.get(name, 0) != number
    ]
    inspection.problems += wrong
    if not wrong:
        inspection.notes.append("complete: all counts are the official ones")


def _count_matched(query: Sequence[Tracklet], gallery: Sequence[Tracklet]) -> int:
    cameras: dict[str, set[str]] = {}
    for tracklet in gallery:
        cameras.setdefault(tracklet.person, set()).add(tracklet.camera)
    return sum(bool(cameras.get(tracklet.person, set()) - {tracklet.camera}) for tracklet in query)


def _decode(inspection: Inspection, frames: Sequence[Path], decode: int | Literal["all"]) -> None:
    number = len(frames) if decode == "all" else min(decode, len(frames))
    problems = []
    for index in range(number):
        frame = frames[index * len(frames) // number]
        try:
            decode_frame(frame.read_bytes())
        except (FrameError, OSError) as error:
            problems.append(f"{frame}: {error}")
    inspection.problems += problems[:_MAX_LISTED]
    if len(problems) > _MAX_LISTED:
        inspection.problems.append(f"{len(problems) - _MAX_LISTED:,} more images cannot be decoded")
    inspection.facts["images decoded"] = f"{number:,} of {len(frames):,}"


def _find_unused_images(inspection: Inspection, frames: Sequence[Path]) -> None:
    """Note images that belong to no tracklet; the queries that Duke repeats in its gallery are an example."""
    used = set(frames)
    unused = [
        path
        for path in inspection.path.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path not in used
    ]
    if unused:
        first = min(unused).relative_to(inspection.path)
        inspection.notes.append(f"{len(unused):,} images belong to no tracklet, for example {first}")
