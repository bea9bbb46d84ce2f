"""How much around a detector's box should be cut out: `python -m benchmarks.crop_margin VIDEO TRACKS`.

Cuts the tracks of a video of a scene with several margins. Each track gives clips from its parts; those of one track
that are at least a third of it apart are pairs of one person, those of two tracks pairs of two. The table shows how
well their cosines are told apart: the area under the ROC curve, and d' (the difference of the means in standard
deviations). With few tracks the interval is wide; it comes from leaving out each track in turn (jackknife).
"""

import argparse
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import describe_machine
from model.bundle import BUNDLED, Bundle
from model.engines import open_engine
from model.frames import FrameError, decode_frame, resize_frame
from model.tracklet import normalise
from model.video import open_video
from not3d.bridges.tracklet import RelativeBox, cut_pixels
from not3d.enrol.readers.tracks import read_tracks

MARGINS = (-0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
PARTS = 9
"""Clips of a track."""
Vectors = NDArray[np.float32]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crop_margin", description=__doc__)
    parser.add_argument("video", type=Path)
    parser.add_argument("tracks", type=Path)
    parser.add_argument("--bundle", type=Path, default=BUNDLED)
    arguments = parser.parse_args()
    bundle = Bundle.load(arguments.bundle)
    chosen = _choose(read_tracks(arguments.tracks).boxes, bundle.spec.clip_length)
    height, width = bundle.spec.frame_height, bundle.spec.frame_width
    crops = _cut(arguments.video, chosen, height, width)
    engine = open_engine(bundle, "cpu", engine="onnxruntime")
    print(f"{len(chosen)} tracks, {PARTS} clips each; model {bundle.spec.name}; {describe_machine()}")
    print("\n| margin on each side | AUC | d' (without one track: least to most) |\n|---|---|---|")
    for margin in MARGINS:
        vectors = {
            track: normalise(engine.embed(np.stack([np.stack([crops[margin, box] for box in clip]) for clip in clips])))
            for track, clips in chosen.items()
        }
        area, distance = _separation(vectors)
        without = [_separation({key: vectors[key] for key in vectors if key != left})[1] for left in vectors]
        print(f"| {margin:+.0%} | {area:.4f} | {distance:.2f} ({min(without):.2f} to {max(without):.2f}) |")


def _choose(tracks: Mapping[str, Any], clip_length: int) -> dict[str, list[list[Any]]]:
    """Return the boxes of the clips of each track that is long enough."""
    chosen = {}
    for track, boxes in tracks.items():
        if len(boxes) >= PARTS * clip_length:
            starts = np.linspace(0, len(boxes) - clip_length, PARTS).round().astype(int)
            chosen[track] = [boxes[start : start + clip_length] for start in starts]
    return chosen


def _cut(video: Path, chosen: Mapping[str, Any], height: int, width: int) -> dict[tuple[float, Any], Any]:
    """Return the crops of each margin and box, `[height, width, 3]`."""
    wanted: dict[int, list[Any]] = {}
    for clips in chosen.values():
        for box in (box for clip in clips for box in clip):
            wanted.setdefault(box[0], []).append(box)
    crops = {}
    with open_video(video) as reader:
        for frame in reader.read(sorted(wanted)):
            if isinstance(frame.pixels, FrameError):
                raise SystemExit(f"frame {frame.index}: {frame.pixels}")
            rows, columns = frame.pixels.shape[:2]
            for box in wanted[frame.index]:
                _, x, y, w, h = box
                place = RelativeBox.from_pixels((x, y, x + w, y + h), columns, rows)
                for margin in MARGINS:
                    crop = decode_frame(cut_pixels(frame.pixels, place, margin))
                    crops[margin, box] = resize_frame(crop, height, width)
    return crops


def _separation(vectors: Mapping[str, Vectors]) -> tuple[float, float]:
    """Return the area under the ROC curve and d' of pairs of one person against pairs of two."""
    far = [(one, other) for one, other in combinations(range(PARTS), 2) if other - one >= PARTS / 3]
    same = np.array([rows[one] @ rows[other] for rows in vectors.values() for one, other in far])
    different = np.concatenate([(one @ other.T).ravel() for one, other in combinations(vectors.values(), 2)])
    above = (same[:, None] > different).mean() + 0.5 * (same[:, None] == different).mean()
    spread = np.sqrt((same.var() + different.var()) / 2)
    return float(above), float((same.mean() - different.mean()) / spread)


if __name__ == "__main__":
    main()
