"""Paths through cameras: which links are taken, in which order, and what the file of travel times may say."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.gallery.records import Hit, Record
from service.linking import (
    CANDIDATES,
    FIRST_HITS,
    Links,
    Place,
    ProbablePath,
    TravelTimes,
    TravelTimesError,
    find_path,
    max_searches,
)

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def record(id_: str, camera: str, start: float, angle: float = 0.0, seconds: float = 5.0) -> Record:
    """Return a record whose vector has this angle in degrees."""
    vector = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))], np.float32)
    begin = NOON + timedelta(seconds=start)
    return Record(id_, vector, camera, begin, begin + timedelta(seconds=seconds), {}, 0, 0, NOON)


def link(records: list[Record], seed: str, least: float = 0.9, times: TravelTimes | None = None, **options: Any) -> Any:
    """Find the path in a gallery of these records, and count its searches."""
    known = {each.id: each for each in records}

    async def search(query: Record) -> Links:
        scored = [Hit(each, float(each.embedding @ query.embedding)) for each in records if each.id != query.id]
        hits = sorted(scored, key=lambda hit: -hit.score)[:CANDIDATES]
        return Links(hits, frozenset(hit.record.id for hit in hits if hit.score >= least), {})

    async def read(id_: str) -> Record | None:
        return known.get(id_)

    found: ProbablePath = asyncio.run(
        find_path(known[seed], search, read, travel_times=times or TravelTimes(), **{"max_steps": 20, **options})
    )
    return found


def ids(path: ProbablePath) -> list[str]:
    return [step.record.id for step in path.steps]


def test_a_path_grows_in_both_directions_and_names_its_links() -> None:
    records = [record("before", "a", -60, -5), record("seed", "b", 0), record("after", "c", 60, 20)]
    records += [record("soon", "d", 90, 22), record("later", "a", 120, 30), record("another", "d", 200, 90)]
    path = link(records, "seed")
    assert ids(path) == ["before", "seed", "after", "soon", "later"]
    assert [step.linked_to for step in path.steps] == ["seed", None, "seed", "after", "soon"]
    assert [step.links for step in path.steps] == [1, 0, 2, 2, 2]
    assert path.is_complete
    assert path.searches == 5


def test_a_path_does_not_drift_from_one_person_to_another() -> None:
    # Each is like its neighbours only: links of links would reach the last one.
    records = [record(f"r{number}", f"c{number}", 60 * number, 20 * number) for number in range(6)]
    path = link(records, "r0")
    assert ids(path) == ["r0", "r1"]
    assert [step.links for step in path.steps] == [0, 1]


def test_a_chain_of_single_links_is_not_followed() -> None:
    # At a site where each person was seen twice, whatever comes after the second appearance is wrong.
    records = [record("seed", "a", 0), record("right", "b", 60, 20), record("wrong", "a", 120, 26)]
    records += [record("wrong too", "b", 200, 44)]
    assert ids(link(records, "seed", least=np.cos(np.radians(21)))) == ["seed", "right"]


def test_a_hit_that_another_record_explains_better_is_left_out() -> None:
    # 40 degrees from the seed, 5 from another record, which is not like the seed: 0.77 against 0.996.
    records = [record("seed", "a", 0), record("right", "b", 60, 10), record("wrong", "b", 120, -40)]
    assert ids(link(records, "seed", least=0.75)) == ["seed", "right", "wrong"]
    assert ids(link([*records, record("its own", "a", 200, -45)], "seed", least=0.75)) == ["seed", "right"]


def test_pieces_of_one_tracklet_do_not_displace_each_other() -> None:
    # Trackers lose people and find them again: the pieces are more alike than anything else.
    records = [record("seed", "a", 0), record("near", "b", 60, 20), record("nearer", "b", 120, 12)]
    records += [record("piece 1", "c", 180, 26), record("piece 2", "c", 190, 26), record("far", "d", 0, 120)]
    assert ids(link(records, "seed", least=0.93)) == ["seed", "near", "nearer", "piece 1", "piece 2"]


def test_records_that_are_not_added_cost_a_bounded_number_of_searches() -> None:
    records = [record("seed", "s", -50), record("another", "y", 0, 45)]
    records += [record(f"r{number}", "x", 100.0 * number, 38) for number in range(40)]
    path = link(records, "seed", least=0.75, max_steps=2)
    assert ids(path) == ["seed"]
    assert path.searches == 1 + FIRST_HITS
    alike = [record("seed", "s", -50), *(record(f"r{number}", "x", 100.0 * number, number % 3) for number in range(40))]
    assert len(link(alike, "seed", max_steps=4).steps) == 5
    assert link(alike, "seed", max_steps=4).searches <= max_searches(4)


def test_the_stronger_link_wins_a_moment() -> None:
    records = [record("seed", "a", 0), record("weak", "b", 60, 20), record("strong", "c", 62, 10)]
    assert ids(link(records, "seed")) == ["seed", "strong"]
    overlap = TravelTimes(overlapping=frozenset({("b", "c"), ("c", "b")}))
    assert ids(link(records, "seed", times=overlap)) == ["seed", "weak", "strong"]


def test_a_person_needs_the_minimum_time_between_cameras() -> None:
    records = [record("seed", "a", 0), record("soon", "b", 20, 5), record("late", "b", 60, 10)]
    assert ids(link(records, "seed")) == ["seed", "soon", "late"]
    slow = TravelTimes({("a", "b"): 30.0})
    assert ids(link(records, "seed", times=slow)) == ["seed", "late"]
    assert ids(link(records, "seed", times=TravelTimes({("a", "b"): 30.0}, tolerance=15))) == ["seed", "soon", "late"]
    assert ids(link(records, "seed", times=TravelTimes({("b", "a"): 30.0}))) == ["seed", "soon", "late"]


def test_a_person_is_not_at_two_places_at_one_single_moment() -> None:
    records = [record("seed", "a", 0), record("one", "b", 60, 5, 0), record("other", "c", 60, 10, 0)]
    assert ids(link(records, "seed")) == ["seed", "one"]
    assert ids(link(records, "seed", times=TravelTimes(tolerance=1))) == ["seed", "one", "other"]
    adjacent = [record("seed", "a", 0), record("next", "b", 5, 5, 0), record("last", "b", 5.5, 5)]
    assert ids(link(adjacent, "seed")) == ["seed", "next", "last"]


def test_the_clocks_of_two_cameras_may_differ_and_one_camera_has_one_clock() -> None:
    records = [record("seed", "a", 0), record("twice", "a", 4, 5), record("other", "b", 4, 10)]
    assert ids(link(records, "seed")) == ["seed"]
    assert ids(link(records, "seed", times=TravelTimes(tolerance=2))) == ["seed", "other"]


def test_max_steps_ends_a_path_and_says_so() -> None:
    records = [record(f"r{number}", "a", 10 * number) for number in range(10)]
    path = link(records, "r5", max_steps=3)
    assert len(path.steps) == 4
    assert not path.is_complete
    assert link(records, "r5", max_steps=9).is_complete


def test_a_record_that_was_erased_meanwhile_is_left_out() -> None:
    records = [record("seed", "a", 0), record("erased", "b", 60, 5), record("kept", "c", 120, 10)]

    async def search(query: Record) -> Links:
        hits = [Hit(each, 0.9) for each in records if each.id != query.id]
        return Links(hits, frozenset(hit.record.id for hit in hits), {})

    async def read(id_: str) -> Record | None:
        return records[2] if id_ == "kept" else None

    path = asyncio.run(find_path(records[0], search, read, travel_times=TravelTimes(), max_steps=5))
    assert ids(path) == ["seed", "kept"]
    assert path.searches == 2


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(-300, 300), st.integers(0, 60), st.integers(0, 40)),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 60),
)
def test_no_path_contradicts_time_and_every_link_holds(rows: list[tuple[str, int, int, int]], minimum: int) -> None:
    records = [record(f"r{n}", camera, start, angle, length) for n, (camera, start, length, angle) in enumerate(rows)]
    times = TravelTimes({("a", "b"): float(minimum), ("b", "a"): float(minimum)})
    path = link(records, "r0", times=times)
    places = [(step.record.id, Place.of(step.record)) for step in path.steps]
    assert [place.start for _, place in places if place] == sorted(place.start for _, place in places if place)
    for name, one in places:
        for other_name, other in places:
            assert one
            assert other
            assert name == other_name or times.allow(one, other)
    on_path = set(ids(path))
    assert "r0" in on_path
    assert all(step.linked_to in on_path and (step.score or 0) >= 0.9 for step in path.steps if step.score is not None)
    assert len(on_path) <= path.searches <= max_searches(20)


def test_a_file_gives_both_directions_unless_it_names_both(tmp_path: Path) -> None:
    entries = [
        {"from": "a", "to": "b", "seconds": 30},
        {"from": "b", "to": "a", "seconds": 40},
        {"from": "a", "to": "c", "seconds": 5.5},
    ]
    file = tmp_path / "times.json"
    file.write_text(json.dumps({"travel_times": entries, "overlapping": [["b", "c"]], "tolerance_seconds": 2}))
    times = TravelTimes.load(file)
    assert times.minimum == {("a", "b"): 30, ("b", "a"): 40, ("a", "c"): 5.5, ("c", "a"): 5.5}
    assert times.overlapping == {("b", "c"), ("c", "b")}
    assert times.tolerance == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Invalid JSON"),
        ("[]", "write it as"),
        ('{"travel_times": [{"from": "a", "to": "b"}]}', "travel_times.0.seconds: Field required"),
        ('{"travel_times": [{"from": "a", "to": "b", "seconds": -1}]}', "travel_times.0.seconds"),
        ('{"travel_times": [{"from": "a", "to": "b", "seconds": 1e999}]}', "travel_times.0.seconds"),
        ('{"times": []}', "times: Extra inputs"),
        ('{"overlapping": [["a"]]}', "overlapping.0"),
        (json.dumps({"travel_times": [{"from": "a", "to": "b", "seconds": 1}] * 2}), "duplicate entry a to b"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_file_is_named_with_its_entry(tmp_path: Path, text: str | None, reason: str) -> None:
    file = tmp_path / "times.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(TravelTimesError, match=reason) as raised:
        TravelTimes.load(file)
    assert str(file) in str(raised.value)
