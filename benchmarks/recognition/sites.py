"""Sites of a study: whose tracklets, and their features, which are kept on disk."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from model.engines import embed_in_parallel, open_engine
from training.datasets.catalog import read_benchmark, read_training
from training.datasets.tracklet import Tracklet
from training.evaluation.calibration_data import select_tracklets
from training.evaluation.embed import embed_tracklets
from training.evaluation.pairs import Pairs, pairs_of_features

Part = Literal["set-aside", "all", "test"]
PARTS: dict[str, Part] = {"set-aside": "set-aside", "all": "all", "test": "test"}


@dataclass(frozen=True)
class Site:
    """The tracklets of one site with their features."""

    name: str
    part: Part
    features: NDArray[np.float32]
    """`[N, D]`"""
    people: list[str]
    cameras: list[str]

    @property
    def pairs(self) -> Pairs:
        return pairs_of_features(self.features, self.people, self.cameras)

    @property
    def described(self) -> str:
        words = {"set-aside": "people set aside", "all": "all people", "test": "test people"}
        return f"{self.name}, {words[self.part]}"


def parse_site(text: str) -> tuple[str, list[Path], Part]:
    """Parse `NAME=PATH[,PATH ...]@PART`, with part `set-aside`, `all` or `test`."""
    name, _, rest = text.partition("=")
    paths, _, part = rest.rpartition("@")
    if not name or not paths or part not in PARTS:
        raise SystemExit(f"--site must be NAME=PATH[,PATH ...]@set-aside, @all or @test (got {text})")
    return name, [Path(path) for path in paths.split(",")], PARTS[part]


def open_site(bundle: Bundle, text: str, cache: Path) -> Site:
    """Embed the tracklets of a site, or read their features if they were embedded before with the same network."""
    name, paths, part = parse_site(text)
    tracklets = _select(bundle, paths, part)
    people, cameras = [t.person for t in tracklets], [t.camera for t in tracklets]
    listed = "\n".join(f"{t.person} {t.camera} {t.name} {len(t.frames)}" for t in tracklets)
    digest = hashlib.sha256(listed.encode()).hexdigest()[:8]
    kept = cache / f"{bundle.embedding_space}-{name}-{part}-{digest}.npy"
    if kept.exists():
        features = np.load(kept)
    else:
        cache.mkdir(parents=True, exist_ok=True)
        spec = bundle.spec
        size = (spec.frame_height, spec.frame_width)
        embed = embed_in_parallel(open_engine(bundle))
        features = embed_tracklets(
            embed, tracklets, frame_size=size, clip_length=spec.clip_length, clip_weights=spec.clip_weights
        )
        np.save(kept, features)
    return Site(name, part, features, people, cameras)


def _select(bundle: Bundle, paths: Sequence[Path], part: Part) -> list[Tracklet]:
    if part == "test":
        found = read_benchmark(paths[0])
        return [*found.query, *found.gallery]
    if part == "set-aside":
        return select_tracklets(bundle, paths, aside=True)[0]
    return read_training(paths)
