"""What subtracting each camera's mean embedding is worth: `python -m benchmarks.centring --bundle B --data SITE ...`.

Draws galleries of 20, 100 and 500 tracklets a camera from people that the model was not trained on, and searches each
tracklet among those of the other cameras: with the cosine as it is, and with centred scores for several values of the
constant that shrinks the mean of a camera with few tracklets. `--write` puts the tables into docs/figures/centring.md.

Embeddings are computed once and kept in `--cache`. Needs the extra `train`.
"""

import argparse
import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import describe_machine
from model.bundle import Bundle
from model.engines import open_engine
from model.tracklet import normalise
from training.datasets.catalog import read_training, set_aside
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import embed_tracklets

PAGE = Path("docs/figures/centring.md")
MARK = "benchmarks.centring"
SIZES = (20, 100, 500)
SPREADS = {
    "same people": "people are drawn at random, and all their tracklets are enrolled",
    "other people": "four of five people are enrolled from one camera only",
    "regulars": "as the first, and half of a camera's records are of five of its people, enrolled again and again",
}
SHRINKAGES = (0.0, 25.0, 50.0, 100.0, 200.0, 400.0, np.inf)
"""`inf`: the mean of all cameras is subtracted from all records."""
DRAWS, QUERIES = 12, 500
MIN_FILLED = 0.75
"""A site is left out at a size of which its cameras have less than this share, on average."""
FRAMES = 2
"""Frames of one tracklet: the sites have few, and short tracklets give more of them."""
Rows = NDArray[np.float64]
Labels = NDArray[Any]


@dataclass(frozen=True)
class Site:
    """Unit embeddings `rows` `[N, D]` of tracklets, with their people and cameras."""

    name: str
    rows: Rows
    people: Labels
    cameras: Labels


@dataclass(frozen=True)
class Sample:
    """The positions of the enrolled tracklets, and how often each counts in the mean of its camera."""

    chosen: NDArray[np.int64]
    weights: NDArray[np.float64]


def main() -> None:
    options = _options()
    lines = [describe_machine(), ""]
    for bundle_path in options.bundle:
        bundle = Bundle.load(bundle_path)
        for path in options.data:
            site = load_site(bundle, path, path in options.unseen, options.cache)
            lines += _measure(bundle.spec.name, site, options.sizes)
    text = "\n".join(lines)
    print(text)
    if options.write:
        put_into_page(MARK, text)


def put_into_page(mark: str, text: str) -> None:
    """Replace what stands between the marks of this name in the page of figures."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, found, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    if not found or end not in rest:
        raise SystemExit(f"{PAGE} has no marks {begin} and {end}")
    PAGE.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def load_site(bundle: Bundle, path: Path, unseen: bool, cache: Path) -> Site:
    """Embed the tracklets of the people at `path` that this model was not trained on, or read them from the cache."""
    recipe: dict[str, Any] = dict(bundle.spec.recipe or {})
    tracklets = read_training([path])
    if "validation_share" in recipe and not unseen:
        _, tracklets = set_aside(tracklets, recipe["validation_share"], recipe["seed"])
    pieces = [piece for tracklet in tracklets for piece in _pieces(tracklet)]
    names = "\n".join(f"{piece.person} {piece.camera} {piece.frames[0].name}" for piece in pieces)
    key = hashlib.sha256(f"{bundle.embedding_space}\n{names}".encode()).hexdigest()[:16]
    file = cache / f"centring-{key}.npy"
    if not file.exists():
        engine, spec = open_engine(bundle, "cpu"), bundle.spec
        features = embed_tracklets(
            engine.embed,
            pieces,
            frame_size=(spec.frame_height, spec.frame_width),
            clip_length=spec.clip_length,
            clip_weights=spec.clip_weights,
            max_clips=1 if spec.clip_length > 1 else FRAMES,
        )
        cache.mkdir(parents=True, exist_ok=True)
        np.save(file, normalise(features))
    rows = np.load(file).astype(np.float64)
    people, cameras = (np.array([getattr(piece, name) for piece in pieces]) for name in ("person", "camera"))
    kind = "people set aside" if "validation_share" in recipe and not unseen else "all people"
    return Site(f"{path.stem}, {kind}", rows, people, cameras)


def draw(site: Site, size: int, spread: str, rng: np.random.Generator) -> Sample:
    """Draw at most `size` tracklets of each camera."""
    own: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position in rng.permutation(len(site.rows)):
        own[site.people[position], site.cameras[position]].append(int(position))
    people = rng.permutation(np.unique(site.people))
    cameras = np.unique(site.cameras)
    if spread == "other people":
        for person in people[rng.random(len(people)) < 0.8]:
            seen = [camera for camera in cameras if (person, camera) in own]
            home = seen[rng.integers(len(seen))]
            for camera in seen:
                if camera != home:
                    del own[person, camera]
    chosen, weights = [], []
    for camera in cameras:
        # First one tracklet of each person, then a second one of each.
        lists = [own[person, camera] for person in people if (person, camera) in own]
        rounds = range(max(map(len, lists), default=0))
        positions = [tracklets[turn] for turn in rounds for tracklets in lists if turn < len(tracklets)][:size]
        weight = np.ones(len(positions))
        if spread == "regulars" and len(positions) > 10:
            regular = np.isin(site.people[positions], rng.permutation(np.unique(site.people[positions]))[:5])
            if not regular.all():
                weight[regular] = len(positions) / 2 / regular.sum()
                weight[~regular] = len(positions) / 2 / (~regular).sum()
        chosen += positions
        weights += weight.tolist()
    return Sample(np.array(chosen, np.int64), np.array(weights))


def centre(rows: Rows, cameras: Labels, weights: NDArray[np.float64], shrinkage: float) -> Rows:
    """Subtract the mean of each row's camera, shrunk as the gallery does, and scale to unit length."""
    if np.isinf(shrinkage):
        total = weights @ rows / weights.sum()
        return normalise(rows - total).astype(np.float64)
    total = weights @ rows / (weights.sum() + shrinkage)
    centred = np.empty_like(rows)
    for camera in np.unique(cameras):
        own = cameras == camera
        mean = (weights[own] @ rows[own] + shrinkage * total) / (weights[own].sum() + shrinkage)
        centred[own] = rows[own] - mean
    return normalise(centred).astype(np.float64)


def choose_queries(people: Labels, cameras: Labels, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw at most `QUERIES` of the rows whose person another camera saw too."""
    pairs = np.unique(np.stack([people, cameras]), axis=1)
    names, counts = np.unique(pairs[0], return_counts=True)
    seen_twice = np.flatnonzero(np.isin(people, names[counts > 1]))
    return rng.permutation(seen_twice)[:QUERIES]


def score(rows: Rows, people: Labels, cameras: Labels, queries: NDArray[np.int64]) -> tuple[float, float]:
    """Return rank-1 and mAP, 0 to 100, of these rows `[Q]`, each searched among the rows of the other cameras."""
    narrow = rows.astype(np.float32)
    scores = narrow[queries] @ narrow.T
    scores[cameras[queries, None] == cameras] = -2
    order = np.argsort(-scores, axis=1)
    right = (people[order] == people[queries, None]) & (np.take_along_axis(scores, order, axis=1) > -2)
    precision = np.cumsum(right, axis=1) / np.arange(1, right.shape[1] + 1)
    average = (precision * right).sum(axis=1) / right.sum(axis=1)
    return 100 * float(right[:, 0].mean()), 100 * float(average.mean())


def _measure(model: str, site: Site, sizes: Sequence[int]) -> Iterator[str]:
    people, cameras = len(np.unique(site.people)), len(np.unique(site.cameras))
    print(f"{model}, {site.name}: {people} people, {len(site.rows)} tracklets, {cameras} cameras", flush=True)
    yield f"**{model}, {site.name}** ({people} people, {len(site.rows)} tracklets, {cameras} cameras)"
    yield ""
    columns = ["all cameras' mean" if np.isinf(k) else f"k = {k:g}" for k in SHRINKAGES]
    yield f"| tracklets a camera | spread | cosine | {' | '.join(columns)} |"
    yield "|---|---|---|" + "---|" * len(columns)
    for size in sizes:
        for spread in SPREADS:
            cells, filled = _row(site, size, spread)
            if filled >= MIN_FILLED * size:
                yield f"| {size} ({filled:.0f} drawn) | {spread} | {' | '.join(cells)} |"
    yield ""


def _row(site: Site, size: int, spread: str) -> tuple[list[str], float]:
    """Return one cell for the cosine and one for each shrinkage, and how many tracklets a camera has on average."""
    found: list[list[tuple[float, float]]] = []
    filled = []
    for seed in range(DRAWS):
        sample = draw(site, size, spread, np.random.default_rng(seed))
        rows, people, cameras = (part[sample.chosen] for part in (site.rows, site.people, site.cameras))
        filled.append(len(rows) / len(np.unique(site.cameras)))
        if filled[-1] < MIN_FILLED * size:
            break
        queries = choose_queries(people, cameras, np.random.default_rng(seed))
        variants = [centre(rows, cameras, sample.weights, shrinkage) for shrinkage in SHRINKAGES]
        found.append([score(variant, people, cameras, queries) for variant in (rows, *variants)])
    if not found:
        return [], float(np.mean(filled))
    figures = np.array(found)
    plain, *others = figures.mean(axis=0)
    cells = [f"{plain[0]:.1f} / {plain[1]:.1f}"]
    cells += [f"{rank1 - plain[0]:+.1f} / {average - plain[1]:+.1f}" for rank1, average in others]
    return cells, float(np.mean(filled))


def _pieces(tracklet: Tracklet) -> Sequence[Tracklet]:
    frames = tracklet.frames
    return [replace(tracklet, frames=frames[start : start + FRAMES]) for start in range(0, len(frames), FRAMES)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", required=True, help="a model; may be repeated")
    parser.add_argument("--data", type=Path, action="append", required=True, help="a site; may be repeated")
    parser.add_argument(
        "--unseen", type=Path, action="append", default=[], help="this site was in no training: use all its people"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="tracklets a camera")
    parser.add_argument("--cache", type=Path, default=Path("data/centring"), help="folder for the embeddings")
    parser.add_argument("--write", action="store_true", help=f"write the tables into {PAGE}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
