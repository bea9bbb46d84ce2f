"""What linking finds that one search does not: `python -m benchmarks.linking --site NAME=PATH@PART ...`.

The sites have people and cameras, but no common clock, so the walks of the people are drawn (`draw_world`). Who looks
alike is real. A path is grown from each record, with the code and the default of the service, and compared with one
search: with the same threshold, which records of the person are found, and how many of the found are of the person.
Intervals and differences are from a bootstrap over people, in pairs: both methods get the same people.
`--write` puts the tables into docs/linking.md. Needs the extra `train`; features are kept in `--cache`.
"""

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.recognition.sites import Site, open_site
from benchmarks.report import describe_machine, markdown_table, write_section
from model.bundle import BUNDLED, Bundle
from model.tracklet import normalise
from service.gallery.records import Hit, Record
from service.linking import CANDIDATES, Links, TravelTimes, find_path

PAGE = Path("docs/linking.md")
DRAWS, SEEDS, BOOTSTRAP = 3, 150, 2000
TOP_K = 10
"""Results of the one search."""
PERIOD = 3600.0
"""Seconds in which the people arrive, uniformly."""
SHORTEST, LONGEST = 20.0, 90.0
"""Bounds of the minimum time between two cameras, in seconds; drawn uniformly for each pair."""
DWELL = 5.0, 15.0
"""Bounds of the length of an appearance, in seconds."""
DAY = datetime(2026, 5, 4, 9, tzinfo=UTC)
METHODS = ("one search", "links, any time", "links, one place at a time", "links, travel times")


@dataclass(frozen=True)
class World:
    """Records of a site with drawn times, whose they are, and the true minimum times between cameras."""

    records: list[Record]
    people: list[str]
    travel_times: TravelTimes


def draw_world(site: Site, rng: np.random.Generator) -> World:
    """Draw when each tracklet was seen.

    A person arrives at a uniform time and passes through their tracklets in random order. From one camera to the next
    they need the minimum time of the pair, times `1 + Exp(1)`; on the same camera they come back after `Exp(60 s)`.
    """
    cameras = sorted(set(site.cameras))
    minimum = {pair: float(rng.uniform(SHORTEST, LONGEST)) for pair in product(cameras, cameras) if pair[0] < pair[1]}
    minimum |= {(end, start): seconds for (start, end), seconds in minimum.items()}
    rows = normalise(site.features).astype(np.float32)
    records: dict[int, Record] = {}
    for person in sorted(set(site.people)):
        own = rng.permutation([number for number, name in enumerate(site.people) if name == person])
        clock, before = float(rng.uniform(0, PERIOD)), None
        for number in map(int, own):
            camera = site.cameras[number]
            if before is not None:
                least = minimum.get((before, camera), 0.0)
                clock += least * (1 + rng.exponential()) if before != camera else rng.exponential(60.0)
            start = DAY + timedelta(seconds=clock)
            clock += float(rng.uniform(*DWELL))
            end = DAY + timedelta(seconds=clock)
            records[number] = Record(f"r{number:05}", rows[number], camera, start, end, {}, 0, 0, DAY)
            before = camera
    ordered = [records[number] for number in sorted(records)]
    return World(ordered, list(site.people), TravelTimes(minimum))


class Searcher:
    """Exact searches in the records of a world."""

    def __init__(self, world: World) -> None:
        self._records = world.records
        rows: NDArray[np.float32] = np.stack([record.embedding for record in world.records])
        scores = rows @ rows.T
        np.fill_diagonal(scores, -np.inf)
        self._best = np.argsort(-scores)[:, : max(CANDIDATES, TOP_K)]
        self._scores = np.take_along_axis(scores, self._best, 1)
        self._hits: dict[int, list[Hit]] = {}
        self._numbers = {record.id: number for number, record in enumerate(world.records)}
        self._by_id = {record.id: record for record in world.records}

    def find(self, record: Record, count: int) -> list[Hit]:
        """Return the best `count` other records."""
        number = self._numbers[record.id]
        if number not in self._hits:
            best = zip(self._best[number].tolist(), self._scores[number].tolist(), strict=True)
            self._hits[number] = [Hit(self._records[other], score) for other, score in best if score >= -1]
        return self._hits[number][:count]

    def link(self, seed: Record, least: float, travel_times: TravelTimes) -> set[str]:
        """Return the ids on the path of a record, without its own."""

        async def search(record: Record) -> Links:
            hits = self.find(record, CANDIDATES)
            return Links(hits, frozenset(hit.record.id for hit in hits if hit.score >= least), {})

        async def read(id_: str) -> Record | None:
            return self._by_id.get(id_)

        async def find() -> set[str]:
            path = await find_path(seed, search, read, travel_times=travel_times, max_steps=30)
            return {step.record.id for step in path.steps} - {seed.id}

        # Not the path itself: `asyncio.run` formats what it returns, with all vectors.
        return asyncio.run(find())


class Tally:
    """What one method found at a threshold: numbers of found, right and true records, by the person of the seed."""

    def __init__(self) -> None:
        self._counts: dict[str, NDArray[np.float64]] = {}

    def add(self, person: str, found: set[str], true: set[str]) -> None:
        """Count the records found from one seed."""
        counts = np.array([len(found), len(found & true), len(true)], np.float64)
        self._counts[person] = self._counts.get(person, np.zeros(3)) + counts

    def rates(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return precision and recall in percent, `[draws, 2]`, with the people weighted by `[draws, people]`."""
        sums = weights @ np.stack([self._counts[person] for person in sorted(self._counts)])
        with np.errstate(divide="ignore", invalid="ignore"):
            return 100 * sums[:, 1:2] / sums[:, [0, 2]]

    @property
    def people(self) -> int:
        """Number of people of the seeds."""
        return len(self._counts)


def describe(tallies: Sequence[Tally], rng: np.random.Generator) -> Iterator[str]:
    """Yield the cell of each method, the first of which is one search: precision / recall.

    Methods that hold to time also get their difference from one search, with its 95% interval.
    """
    count = tallies[0].people
    weights = rng.multinomial(count, np.full(count, 1 / count), size=BOOTSTRAP).astype(np.float64)
    once, one = tallies[0].rates(np.ones((1, count))), tallies[0].rates(weights)
    for number, tally in enumerate(tallies):
        rates = tally.rates(np.ones((1, count)))
        cell = " / ".join(f"{rate:.1f}" for rate in rates[0])
        if number >= 2:
            low, high = np.nanpercentile(tally.rates(weights) - one, [2.5, 97.5], axis=0)
            changes = zip((rates - once)[0], low, high, strict=True)
            cell += "<br>" + " / ".join(f"{mean:+.1f} ({least:+.1f} to {most:+.1f})" for mean, least, most in changes)
        yield cell


def measure(site: Site, thresholds: dict[str, float], draws: int, seeds: int) -> Iterator[list[str]]:
    """Yield a row for each threshold: precision / recall of each method."""
    tallies = {(name, method): Tally() for name in thresholds for method in METHODS}
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        world = draw_world(site, rng)
        searcher = Searcher(world)
        cameras = sorted(set(site.cameras))
        anywhere = TravelTimes(overlapping=frozenset(product(cameras, cameras)))
        records_of: dict[str, set[str]] = {}
        for record, owner in zip(world.records, world.people, strict=True):
            records_of.setdefault(owner, set()).add(record.id)
        chosen = rng.permutation(len(world.records))[:seeds]
        for number in map(int, chosen):
            seed, person = world.records[number], world.people[number]
            own = records_of[person]
            for name, least in thresholds.items():
                hits = {hit.record.id for hit in searcher.find(seed, TOP_K) if hit.score >= least}
                found = [hits, *(searcher.link(seed, least, each) for each in (anywhere, TravelTimes()))]
                found.append(searcher.link(seed, least, world.travel_times))
                for method, ids in zip(METHODS, found, strict=True):
                    tallies[name, method].add(person, ids, own - {seed.id})
    for name, least in thresholds.items():
        cells = describe([tallies[name, method] for method in METHODS], np.random.default_rng(1))
        yield [f"{name} ({least:.3f})", *cells]


def thresholds_of(bundle: Bundle, records: int) -> dict[str, float]:
    """Return the thresholds of the bundle's calibration, and the default of the service: probability 0.5."""
    calibration = bundle.calibration
    if calibration is None:
        raise SystemExit(f"{bundle.path} has no calibration, so it has no thresholds")
    default = calibration.score_at(0.5, 1 / records)
    found = {f"false match rate {each.fmr:g}": each.score for each in calibration.thresholds}
    # On few records every score may be probable enough, or none.
    return found | ({"probability 0.5, the default": default} if abs(default) <= 1 else {})


def main() -> None:
    """Measure the sites and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=BUNDLED)
    parser.add_argument("--site", action="append", required=True, metavar="NAME=PATH@PART", help="test, set-aside, all")
    parser.add_argument("--cache", type=Path, default=Path("data/recognition"), help="folder for the features")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="records of each draw from which a path is grown")
    parser.add_argument("--write", action="store_true", help=f"write the tables into {PAGE}")
    options = parser.parse_args()
    bundle = Bundle.load(options.bundle)
    parts = []
    for text in options.site:
        site = open_site(bundle, text, options.cache)
        count = len(site.people)
        rows = measure(site, thresholds_of(bundle, count), options.draws, options.seeds)
        table = markdown_table(["threshold (score)", *METHODS], rows)
        people, cameras = len(set(site.people)), len(set(site.cameras))
        parts.append(f"**{site.described}**: {count} records of {people} people on {cameras} cameras\n\n{table}")
    written = "\n\n".join([*parts, describe_machine()])
    print(written)
    if options.write:
        write_section(PAGE, "tables", written)


if __name__ == "__main__":
    main()
