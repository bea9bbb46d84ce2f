"""Observations become tracks: silence by both clocks, numbers that are given again, bounded memory, vectors."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from not3d.bridges.observations import MalformedMessage, Observation, ObservedTrack, TrackGrouper

START = datetime(2026, 5, 4, 9, 30, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def see(name: str, seconds: float, vector: list[float] | None = None, camera: str = "gate") -> Observation:
    return Observation(camera, name, at(seconds), vector=None if vector is None else np.array(vector, dtype=float))


def feed(grouper: TrackGrouper, *seen: Observation, now: float | None = None) -> list[ObservedTrack]:
    closed = []
    for each in seen:
        clock = (each.time - START).total_seconds() if now is None else now
        closed += grouper.add(each.camera, each.time, [each], clock, token=(each.object, each.time))[0]
    return closed


def spans(tracks: list[ObservedTrack]) -> list[tuple[str, float, float, int]]:
    return [
        (each.object, (each.start - START).total_seconds(), (each.end - START).total_seconds(), each.seen)
        for each in tracks
    ]


def test_silence_by_message_time_ends_a_track_also_in_a_backlog():
    grouper = TrackGrouper(silence=5)
    closed = feed(grouper, see("1", 0), see("1", 1), see("2", 4), see("2", 6.5), now=0)
    assert spans(closed) == [("1", 0, 1, 2)]
    assert grouper.open_tracks == 1


def test_silence_by_the_clock_ends_a_track_of_a_camera_that_sends_nothing():
    grouper = TrackGrouper(silence=5)
    feed(grouper, see("1", 0), see("1", 2))
    assert grouper.close_silent(7) == []
    assert spans(grouper.close_silent(7.1)) == [("1", 0, 2, 2)]


def test_a_number_that_is_given_again_makes_another_track():
    grouper = TrackGrouper(silence=5)
    closed = feed(grouper, see("1", 0), see("1", 20), see("1", 21))
    assert spans(closed) == [("1", 0, 0, 1)]
    assert spans(grouper.close_all()) == [("1", 20, 21, 2)]


def test_reordered_messages_are_one_track():
    grouper = TrackGrouper(silence=5)
    assert feed(grouper, see("1", 1), see("1", 3), see("1", 2), see("1", 0)) == []
    (track,) = grouper.close_all()
    assert spans([track]) == [("1", 0, 3, 4)]
    assert [(each.time - START).total_seconds() for each in track.ordered] == [0, 1, 2, 3]


def test_a_long_track_is_cut_into_parts():
    grouper = TrackGrouper(silence=5, longest=60)
    closed = feed(grouper, *(see("1", second) for second in range(100)))
    assert spans(closed + grouper.close_all()) == [("1", 0, 60, 61), ("1", 61, 99, 39)]


def test_a_clock_that_is_set_back_does_not_end_each_track_at_once():
    grouper = TrackGrouper(silence=5)
    closed = feed(grouper, see("1", 1000), see("2", 0), see("2", 1), see("2", 2), now=0)
    assert spans(closed) in ([], [("1", 1000, 1000, 1)])
    assert ("2", 0, 2, 3) in spans(grouper.close_all())


def test_cameras_and_numbers_do_not_mix():
    grouper = TrackGrouper()
    feed(grouper, see("1", 0), see("1", 0, camera="yard"), see("2", 0))
    assert len(grouper.close_all()) == 3


def test_memory_is_bounded_and_what_is_kept_is_spread():
    grouper = TrackGrouper(silence=5, longest=1e6, keep=4, max_tracks=3)
    feed(grouper, *(see("1", second) for second in range(1000)))
    (track,) = grouper.close_all()
    kept = [(each.time - START).total_seconds() for each in track.ordered]
    assert track.seen == 1000
    assert 4 <= len(kept) <= 8
    assert max(np.diff(kept)) == min(np.diff(kept))
    closed = feed(grouper, *(see(str(number), number / 100) for number in range(10)))
    assert [each.object for each in closed] == [str(number) for number in range(7)]
    assert grouper.open_tracks == 3


def test_the_vector_is_the_mean_of_unit_vectors():
    grouper = TrackGrouper()
    feed(grouper, see("1", 0, [2, 0, 0]), see("1", 1, [0, 0.5, 0]), see("1", 2))
    (track,) = grouper.close_all()
    mean = track.mean_vector()
    assert mean is not None
    np.testing.assert_allclose(mean, [2**-0.5, 2**-0.5, 0])
    assert track.vector_count == 2


@pytest.mark.parametrize("vector", [[0, 0, 0], [np.inf, 0, 0], [np.nan, 0, 0], [1e200, 1e200, 1e200], []])
def test_vectors_without_a_direction_are_named_and_left_out(vector):
    grouper = TrackGrouper()
    closed, problems = grouper.add("gate", at(0), [see("1", 0, vector)], 0)
    assert closed == []
    assert [type(each) for each in problems] == [MalformedMessage]
    assert grouper.open_tracks == 0


def test_a_vector_of_another_length_does_not_change_the_track():
    grouper = TrackGrouper()
    feed(grouper, see("1", 0, [1, 0, 0]))
    _, problems = grouper.add("gate", at(1), [see("1", 1, [1, 0])], 1)
    assert [each.reason for each in problems] == ["vector of another length"]
    (track,) = grouper.close_all()
    assert (track.seen, track.vector_count) == (1, 1)


def test_opposite_vectors_have_no_mean():
    grouper = TrackGrouper()
    feed(grouper, see("1", 0, [1, 0]), see("1", 1, [-1, 0]))
    (track,) = grouper.close_all()
    assert track.mean_vector() is None


def test_all_open_tracks_together_take_bounded_memory_and_the_stalest_are_closed():
    grouper = TrackGrouper(max_bytes=200_000)
    closed = []
    for number in range(100):
        seen = Observation(f"camera-{number}", "1", at(0), crop=bytes([number]) * 10_000)
        closed += grouper.add(seen.camera, seen.time, [seen], float(number))[0]
    assert 0 < grouper.open_tracks < 20
    assert [each.camera for each in closed] == [f"camera-{number}" for number in range(len(closed))]
    assert len(closed) + grouper.open_tracks == 100
    kept = grouper.close_all()
    assert {each.camera for each in closed}.isdisjoint(each.camera for each in kept)
    for number in range(10):  # what was closed is not counted any more
        seen = Observation(f"again-{number}", "1", at(0), crop=b"x" * 10_000)
        assert grouper.add(seen.camera, seen.time, [seen], 0.0)[0] == []
    assert len(grouper.close_silent(1000.0)) == 10
    assert grouper.add("more", at(0), [Observation("more", "1", at(0), crop=b"x" * 150_000)], 0.0)[0] == []


def test_a_track_of_many_vectors_keeps_their_sum_only():
    grouper = TrackGrouper()
    feed(grouper, *(see("1", 0.1 * number, [1.0, float(number)]) for number in range(9)))
    (track,) = grouper.close_all()
    assert track.vector_count == 9
    assert all(each.vector is None for each in track.observations)
