"""Load on a server: the same prepared JPEG crops for each server, sent by clients in a separate process."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.client import PLAN, form
from model.cgroups import available_cpus
from model.frames import read_frame, read_header
from model.spec import BundleSpec
from model.tracklet import split_into_clips
from not3d.enrol.discovery import read_footage
from training.datasets.synthetic.dataset import write_synthetic

LONGEST = 60
DRAWN_PEOPLE = 16
MAX_TRACKLETS = 200
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
    def computed_per_sent(self) -> float:
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
    chosen = sorted({round(index * (len(found) - 1) / max(1, MAX_TRACKLETS - 1)) for index in range(MAX_TRACKLETS)})
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


def decode_clips(crops: Crops, spec: BundleSpec, count: int) -> NDArray[np.uint8]:
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


@dataclass(frozen=True)
class LoadResult:
    """Measurements of the clients: frames per second, seconds of each request, 503s, the first tracklet's embedding."""

    rate: float
    times: list[float]
    client_share: float
    """Share of the machine's CPU time that the clients used."""
    busy: int
    embedding: list[float] | None

    @property
    def median_ms(self) -> float:
        return 1000 * float(np.median(self.times))

    @property
    def p99_ms(self) -> float:
        return 1000 * float(np.percentile(self.times, 99))


def send_load(port: int, plan: Plan, *, clients: int, seconds: float, path: str, dimension: int) -> LoadResult:
    """Run clients with this plan in a separate process.

    Raises:
        SystemExit: An answer was wrong.
    """
    command = [sys.executable, "-m", "benchmarks.serving.client", "--port", str(port), "--path", path]
    command += ["--plan", str(plan.folder), "--clients", str(clients), "--seconds", str(seconds)]
    done = subprocess.run([*command, "--dimension", str(dimension)], stdout=subprocess.PIPE, check=False)
    if not done.stdout:
        raise SystemExit("the client process ended without output")
    result = json.loads(done.stdout)
    if done.returncode or result["errors"]:
        raise SystemExit(f"{path}: {result['errors']}")
    seconds = result["seconds"]
    share = result["cpu_seconds"] / seconds / available_cpus()
    return LoadResult(result["frames"] / seconds, result["times"], share, result["busy"], result["embedding"])
