"""Random sequences of calls, compared with a dictionary, a matrix product and a clock."""

import shutil
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from service.gallery import JSON, DuplicateId, Filter, Record, TimeOfDay, clock
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.embedded.index import file as index_file
from service.gallery.embedded.index.rebuild import EXACT_BYTES
from tests.service.gallery.samples import DIMENSION, JPEG, SPACE, assert_same, at, open_gallery, record, vector

ids = st.sampled_from([f"id{number}" for number in range(12)])
cameras = st.sampled_from(["c1", "c2", "c3"])
moments = st.none() | st.integers(0, 6).map(at)
# Few directions, so that many records tie.
embeddings = st.sampled_from([vector(f"direction {number}") for number in range(4)])
json_values: st.SearchStrategy[JSON] = st.sampled_from([1, 1.0, True, "1", None, [1], [True], {"x": 1}])
pictures = st.none() | st.sampled_from([JPEG, JPEG + b"of another"])
expiries = st.none() | st.integers(0, 20).map(at)
times_of_day = st.sampled_from(
    [TimeOfDay(43_200 + 60, 43_200 + 120), TimeOfDay(79_200, 43_380), TimeOfDay(0, 3 * 3600, -9 * 3600)]
)
metadata = st.dictionaries(st.sampled_from(["k", "l"]), json_values, max_size=2)


@st.composite
def records(draw: st.DrawFn) -> Record:
    start, end = draw(moments), draw(moments)
    if start is not None and end is not None and end < start:
        start, end = end, start
    return record(
        draw(ids),
        embedding=draw(embeddings),
        camera_id=draw(st.none() | cameras),
        start_time=start,
        end_time=end,
        metadata=draw(metadata),
        expires_at=draw(expiries),
        created_at=draw(st.integers(0, 6).map(at)),
        thumbnail=draw(pictures),
    )


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    after, before = draw(moments), draw(moments)
    if after is not None and before is not None and before < after:
        after, before = before, after
    return Filter(
        camera_ids=draw(st.none() | st.lists(cameras, max_size=2).map(tuple)),
        exclude_camera_ids=draw(st.just(()) | st.lists(cameras, max_size=2).map(tuple)),
        after=after,
        before=before,
        metadata=draw(st.just({}) | metadata),
        exclude_ids=draw(st.just(()) | st.lists(ids, max_size=3).map(tuple)),
        created_after=draw(moments),
        without_time=draw(st.sampled_from([False, False, False, True])),
        time_of_day=draw(st.none() | times_of_day),
    )


def strict(value: JSON) -> str:
    """Return a text that differs if the JSON differs, for the few values drawn here."""
    return repr(value).replace("1.0", "1")


def touches(start: datetime, end: datetime, daily: TimeOfDay) -> bool:
    """Return whether the interval overlaps the part of yesterday, today or tomorrow; all times are near noon."""
    shift = timedelta(seconds=daily.utc_offset)
    midnight = (start + shift).replace(hour=0, minute=0, second=0, microsecond=0) - shift
    for days in (-1, 0, 1):
        begins = midnight + timedelta(days=days, seconds=daily.start)
        ends = midnight + timedelta(days=days + (daily.end < daily.start), seconds=daily.end)
        if start <= ends and end >= begins:
            return True
    return False


def passes(one: Record, wanted: Filter) -> bool:
    if wanted.camera_ids is not None and one.camera_id not in wanted.camera_ids:
        return False
    if one.camera_id in wanted.exclude_camera_ids or one.id in wanted.exclude_ids:
        return False
    times = [moment for moment in (one.start_time, one.end_time) if moment is not None]
    if wanted.after is not None and (not times or times[-1] < wanted.after):
        return False
    if wanted.before is not None and (not times or times[0] > wanted.before):
        return False
    if wanted.without_time and times:
        return False
    if wanted.created_after is not None and one.created_at < wanted.created_after:
        return False
    if wanted.time_of_day is not None and not (times and touches(times[0], times[-1], wanted.time_of_day)):
        return False
    return all(
        key in one.metadata and strict(one.metadata[key]) == strict(value) for key, value in wanted.metadata.items()
    )


def new_directory() -> Path:
    # In memory if possible: this test checks the contents of the files, not their durability.
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))


class GalleryAgainstModel(RuleBasedStateMachine):
    """`self.model` has the records by id that the gallery should have, with expired ones that are not removed yet.

    `self.log` has the entries that its audit log should have, oldest first. The clock only moves in a step of its own.
    """

    exact_bytes = EXACT_BYTES

    def __init__(self) -> None:
        super().__init__()
        self.minutes = 0
        self.clock = patch.object(clock, "now", lambda: int(at(self.minutes).timestamp() * 10**6))
        self.clock.start()
        self.directory = new_directory()
        self.gallery = self.open()
        self.model: dict[str, Record] = {}
        self.log: list[tuple[str, int]] = []

    def open(self) -> EmbeddedGallery:
        return open_gallery(self.directory, exact_bytes=self.exact_bytes)

    def scores(self, query: NDArray[np.float32], camera_id: str | None, records: list[Record]) -> dict[str, float]:
        """Return the score of each record with a query of this camera."""
        return {one.id: float(one.embedding.astype(float) @ query.astype(float)) for one in records}

    def check_order(self, found: list[str], ranked: list[str], scores: dict[str, float]) -> None:
        assert found == ranked

    def teardown(self) -> None:
        self.gallery.close()
        self.clock.stop()
        shutil.rmtree(self.directory)

    def is_enrolled(self, one: Record) -> bool:
        return one.expires_at is None or one.expires_at > at(self.minutes)

    @property
    def enrolled(self) -> dict[str, Record]:
        return {name: one for name, one in self.model.items() if self.is_enrolled(one)}

    def forget(self, names: set[str]) -> int:
        """Remove records from the model, log those that had expired, and return how many others there were."""
        gone = [self.model.pop(name) for name in names if name in self.model]
        enrolled = sum(map(self.is_enrolled, gone))
        if enrolled < len(gone):
            self.log.append(("expire", len(gone) - enrolled))
        return enrolled

    @initialize(first=st.lists(records(), min_size=4, max_size=8))
    def fill(self, first: list[Record]) -> None:
        for one in first:
            self.put(one)

    @rule(one=records())
    def add(self, one: Record) -> None:
        if one.id in self.enrolled:
            with pytest.raises(DuplicateId):
                self.gallery.add(one)
        else:
            self.gallery.add(one)
            self.forget({one.id})
            self.model[one.id] = one

    @rule(one=records())
    def put(self, one: Record) -> None:
        assert self.gallery.put(one) is (one.id not in self.enrolled)
        self.forget({one.id})
        self.model[one.id] = one

    @rule(many=st.lists(records(), max_size=8, unique_by=lambda one: one.id))
    def enrol_or_replace(self, many: list[Record]) -> None:
        names = {one.id for one in many}
        assert self.gallery.enrol(many, "replace") == names & self.enrolled.keys()
        self.forget(names)
        self.model |= {one.id: one for one in many}

    @rule(many=st.lists(records(), max_size=8, unique_by=lambda one: one.id))
    def enrol_or_skip(self, many: list[Record]) -> None:
        taken = {one.id for one in many} & self.enrolled.keys()
        assert self.gallery.enrol(many, "skip") == taken
        self.forget({one.id for one in many} - taken)
        self.model |= {one.id: one for one in many if one.id not in taken}

    @rule(name=ids)
    def delete(self, name: str) -> None:
        assert self.gallery.delete(name) is (name in self.enrolled)
        if self.forget({name}):
            self.log.append(("delete", 1))

    @rule(wanted=filters(), dry_run=st.booleans())
    def erase(self, wanted: Filter, dry_run: bool) -> None:
        if wanted.is_empty:
            return
        matching = {name for name, one in self.enrolled.items() if passes(one, wanted)}
        erasure = self.gallery.erase(wanted, dry_run=dry_run)
        assert (erasure.matched, erasure.erased) == (len(matching), 0 if dry_run else len(matching))
        assert (erasure.receipt is None) is dry_run
        if not dry_run:
            self.forget({name for name, one in self.model.items() if passes(one, wanted)})
            self.log.append(("erase", len(matching)))

    @rule(minutes=st.integers(1, 4))
    def wait(self, minutes: int) -> None:
        self.minutes += minutes

    @rule()
    def expire(self) -> None:
        gone = self.model.keys() - self.enrolled.keys()
        assert self.gallery.expire() == len(gone)
        self.forget(gone)

    @rule(
        query=embeddings,
        wanted=filters() | st.just(Filter()),
        top_k=st.integers(1, 14),
        min_score=st.none() | st.floats(-1, 1),
        camera_id=st.none() | cameras,
    )
    def search(
        self,
        query: NDArray[np.float32],
        wanted: Filter,
        top_k: int,
        min_score: float | None,
        camera_id: str | None,
    ) -> None:
        passing = [one for one in self.enrolled.values() if passes(one, wanted)]
        # Rounded, because the model computes in another order; the four directions are further apart.
        scores = {name: round(score, 5) for name, score in self.scores(query, camera_id, passing).items()}
        ranked = sorted(scores, key=lambda name: (-scores[name], name))
        found = self.gallery.search(query, top_k, wanted, min_score, camera_id)
        # A score that rounding moves across the threshold may be on either side.
        if min_score is None or all(abs(score - min_score) > 1e-4 for score in scores.values()):
            if min_score is not None:
                ranked = [name for name in ranked if scores[name] >= min_score]
            self.check_order([hit.record.id for hit in found.hits], ranked[:top_k], scores)
        assert found.searched == len(passing)
        for hit in found.hits:
            assert hit.score == pytest.approx(scores[hit.record.id], abs=1e-4)
            assert_same(hit.record, self.model[hit.record.id])

    @rule(wanted=filters(), limit=st.integers(1, 5))
    def list_pages(self, wanted: Filter, limit: int) -> None:
        names: list[str] = []
        cursor = None
        while True:
            page = self.gallery.list(wanted, limit=limit, cursor=cursor)
            names += [item.id for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
            assert len(page.items) == limit
        assert names == sorted(name for name, one in self.enrolled.items() if passes(one, wanted))

    @rule()
    def restart(self) -> None:
        self.gallery.close()
        self.gallery = self.open()

    @rule()
    def restart_without_the_index_file(self) -> None:
        self.gallery.close()
        index_file.remove(self.directory)
        self.gallery = self.open()

    @rule()
    def die_and_restart(self) -> None:
        """Continue with the files as a SIGKILL would leave them."""
        left = new_directory()
        shutil.copytree(self.directory, left, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.part"))
        self.gallery.close()
        shutil.rmtree(self.directory)
        self.directory = left
        self.gallery = self.open()

    @invariant()
    def agrees(self) -> None:
        enrolled = self.enrolled
        assert self.gallery.count() == len(enrolled)
        assert (self.gallery.embedding_space, self.gallery.dimension) == (SPACE, DIMENSION)
        for name, one in self.model.items():
            if name in enrolled:
                assert_same(self.gallery.get(name), one)
                assert self.gallery.thumbnail(name) == (one.thumbnails or (None,))[0]
            else:
                assert self.gallery.get(name) is None
                assert self.gallery.thumbnail(name) is None
        assert [(entry.action, entry.erased) for entry in self.gallery.audit(limit=1000)] == self.log[::-1]


class LargeGalleryAgainstModel(GalleryAgainstModel):
    """Four records are too many for an exact index, so the index changes back and forth in the background."""

    exact_bytes = 3 * 4 * DIMENSION


TestGalleryAgainstModel = GalleryAgainstModel.TestCase
TestLargeGalleryAgainstModel = LargeGalleryAgainstModel.TestCase
TestGalleryAgainstModel.settings = TestLargeGalleryAgainstModel.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
