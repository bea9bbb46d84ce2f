"""SIGKILL loses no acknowledged change; `python -m benchmarks.durability` is the long version of this test."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.durability.rounds import Lost, Moment, Plan, Rounds
from benchmarks.durability.writer import make_record, open_gallery

PLANS: list[tuple[Moment, float, int, bool, bool]] = [
    ("writing", 0.3, 0, False, False),
    ("starting", 0.03, 0, True, True),
    ("writing", 0.5, 0, True, False),
    ("saving", 0, 5, False, False),
    ("closing", 0.01, 0, True, False),
    ("writing", 0.1, 0, False, True),
]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Silence the warnings about an index that has to be rebuilt, which are expected here."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def test_acknowledged_changes_survive_kill_9(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path)
    outcomes = [rounds.run(Plan(seed, *plan)) for seed, plan in enumerate(PLANS)]
    # Each of the three that write is killed after the first change, and a slow disk makes few more.
    assert sum(outcome.acknowledged for outcome in outcomes) >= 3


def test_the_check_notices_a_loss(tmp_path: Path) -> None:
    """Remove one record, and give another one the metadata of another state."""
    rounds = Rounds(tmp_path)
    first = Plan(1, "writing", 0.2, 0, approximate=False, reopen=True)
    rounds.run(first)
    for damage in ("gone", "half"):
        gallery = open_gallery(tmp_path / "data", approximate=False)
        record = next(iter(gallery.list(limit=1).items))
        if damage == "gone":
            gallery.delete(record.id)
        else:
            gallery.put(replace(make_record(record.id, "new"), metadata=record.metadata))
        gallery.close()
        message = "lost or stored in part" if damage == "gone" else "another vector than its metadata say"
        with pytest.raises(Lost, match=message):
            rounds.check(first)
        gallery = open_gallery(tmp_path / "data", approximate=False)
        gallery.put(make_record(record.id, str(record.metadata["state"])))
        gallery.close()
    rounds.check(first)
