"""The tracklets that clients send, the same to each server: JPEG crops in prepared bodies."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.client import PLAN, form
from model.frames import read_frame, read_header
from model.spec import BundleSpec
from model.tracklet import split_into_clips
from not3d.enrol.discovery import read_footage
from training.datasets.synthetic.dataset import write_synthetic

LONGEST = 60
DRAWN_PEOPLE = 16
MOST = 200
"""Number of tracklets that are used, evenly spread over a dataset."""

Tracklet = Sequence[bytes]


@dataclass(frozen=True)
class Crops:
    """Encoded crops of each tracklet; `described` says what and how large they are."""

    tracklets: Sequence[Tracklet]
    described: str


@dataclass(frozen=True)
class Plan:
    """Requests in order: a folder of bodies, and the number of frames in each."""

    folder: Path
    frames: list[int]
    clip_length: int

    @property
    def computed(self) -> float:
        """Frames that the engine computes per sent frame; a short last clip is padded with its own frames."""
        return sum(-(-count // self.clip_length) * self.clip_length for count in self.frames) / sum(self.frames)


def read_crops(data: Path | None, folder: Path) -> Crops:
    """Return the crops of a dataset, or of people drawn into `folder` if no dataset is given."""
    if data is None:
        drawn = write_synthetic(folder, people=DRAWN_PEOPLE, cameras=1, frames=LONGEST, seed=1)
        tracklets = [[path.read_bytes() for path in tracklet.frames] for tracklet in drawn]
        return Crops(tracklets, f"people drawn by the project, {_sizes(tracklets)}")
    found = [item for item in read_footage(data) if len(item.frames) >= 4]
    if not found:
        raise SystemExit(f"{data} has no tracklets of four frames")
    chosen = sorted({round(index * (len(found) - 1) / max(1, MOST - 1)) for index in range(MOST)})
    tracklets = [[_bytes(frame) for frame in found[index].frames[:LONGEST]] for index in chosen]
    return Crops(tracklets, f"{data.name}, {len(tracklets)} of its tracklets, {_sizes(tracklets)}")


def _bytes(frame: Path | bytes) -> bytes:
    return frame if isinstance(frame, bytes) else frame.read_bytes()


def _sizes(tracklets: Sequence[Tracklet]) -> str:
    frames = [frame for tracklet in tracklets for frame in tracklet]
    headers = [read_header(frame) for frame in frames]
    sizes = {(header.width, header.height) for header in headers}
    size = "{}x{}".format(*sizes.pop()) if len(sizes) == 1 else "of various sizes"
    return f"{headers[0].format.upper()} {size}, {sum(map(len, frames)) / len(frames) / 1000:.1f} kB on average"


def write_plan(
    crops: Crops, folder: Path, lengths: tuple[int, int], *, requests: int, clip_length: int, seed: int = 1
) -> Plan:
    """Write requests of `lengths` (least, most) frames each; a short tracklet repeats its frames."""
    folder.mkdir(parents=True)
    rng, plan, counts = np.random.default_rng(seed), [], []
    for number in range(requests):
        tracklet = crops.tracklets[int(rng.integers(len(crops.tracklets)))]
        count = int(rng.integers(lengths[0], lengths[1] + 1))
        name = f"{number:04d}.body"
        (folder / name).write_bytes(form([tracklet[index % len(tracklet)] for index in range(count)]))
        plan.append({"file": name, "frames": count})
        counts.append(count)
    (folder / PLAN).write_text(json.dumps(plan))
    return Plan(folder, counts, clip_length)


def ready_clips(crops: Crops, spec: BundleSpec, count: int) -> NDArray[np.uint8]:
    """Return decoded clips `uint8 [count, T, H, W, 3]` of the same people."""
    clips: list[NDArray[np.uint8]] = []
    while len(clips) < count:
        for tracklet in crops.tracklets:
            indices = split_into_clips(len(tracklet), spec.clip_length)[0]
            size = (spec.frame_height, spec.frame_width)
            clips.append(np.stack([read_frame(tracklet[index], *size) for index in indices]))
            if len(clips) == count:
                break
    return np.stack(clips)
