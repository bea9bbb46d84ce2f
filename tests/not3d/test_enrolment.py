"""Enrolling many tracklets at a time."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from not3d.answers import Embedded
from not3d.client import Client, UnreachableError
from not3d.enrolment import enroll_all
from not3d.footage import Footage, read_footage


def collect(client: Client, footage: object, **options: object) -> dict[str, Embedded | str]:
    outcomes: dict[str, Embedded | str] = {}
    enroll_all(client, footage, report=lambda item, outcome: outcomes.update({item.id: outcome}), **options)  # type: ignore[arg-type]
    return outcomes


@pytest.mark.parametrize("workers", [1, 4])
def test_everything_is_enrolled_and_reported_once(client: Client, people: Path, workers: int) -> None:
    footage = read_footage(people)
    outcomes = collect(client, footage, workers=workers)
    assert set(outcomes) == {item.id for item in footage} == {record.id for record in client.records()}
    assert all(isinstance(outcome, Embedded) for outcome in outcomes.values())
    record = client.get("0002-c1-t1")
    assert (record.camera_id, record.metadata["person"]) == ("c1", "0002")


def test_a_refused_tracklet_does_not_stop_the_others(client: Client, people: Path) -> None:
    good, bad, empty = (*read_footage(people)[:2], Footage("empty"))
    outcomes = collect(client, [replace(bad, frames=(b"text",)), empty, good])
    assert isinstance(outcomes[good.id], Embedded)
    assert "not" in str(outcomes[bad.id])
    assert outcomes["empty"] == "no box of it lies inside the video's frames"
    assert [record.id for record in client.records()] == [good.id]


def test_an_enrolled_id_is_refused_unless_replaced(client: Client, people: Path) -> None:
    (item, *_) = read_footage(people)
    collect(client, [item])
    assert "409" in str(collect(client, [item])[item.id])
    changed = replace(item, camera="other")
    assert isinstance(collect(client, [changed], replace=True)[item.id], Embedded)
    assert client.get(item.id).camera_id == "other"


def test_footage_is_read_only_a_little_ahead(client: Client, people: Path) -> None:
    (item, *_) = read_footage(people)
    done = 0
    furthest = 0

    def read() -> Iterator[Footage]:
        nonlocal furthest
        for number in range(20):
            furthest = max(furthest, number - done)
            yield replace(item, id=f"t{number}")

    def report(_item: Footage, _outcome: Embedded | str) -> None:
        nonlocal done
        done += 1

    enroll_all(client, read(), workers=2, report=report)
    assert done == 20
    assert furthest <= 4


def test_a_service_that_is_gone_ends_it(people: Path) -> None:
    with Client("http://127.0.0.1:9") as nowhere, pytest.raises(UnreachableError):
        collect(nowhere, read_footage(people))
