import time
from uuid import UUID

import pytest
from pydantic import TypeAdapter, ValidationError

from service.ids import TrackletId, new_id

ADAPTER: TypeAdapter[str] = TypeAdapter(TrackletId)


def test_a_new_id_is_a_uuid_of_version_7_that_starts_with_the_time() -> None:
    before = time.time_ns() // 1_000_000
    value = UUID(new_id())
    after = time.time_ns() // 1_000_000
    assert value.version == 7
    assert value.variant == "specified in RFC 4122"
    assert before <= value.int >> 80 <= after


def test_new_ids_differ_and_sort_by_age() -> None:
    assert len({new_id() for _ in range(1000)}) == 1000
    first = new_id()
    time.sleep(0.002)
    assert first < new_id()


@pytest.mark.parametrize("value", ["a", "gate-3:0042", "A_b.c", "x" * 128, "...", new_id()])
def test_well_formed_ids_are_accepted(value: str) -> None:
    assert ADAPTER.validate_python(value) == value


@pytest.mark.parametrize("value", ["", "x" * 129, "a b", "a/b", "ä", "a\n", ".", "..", "a%20", "\x00", "\u0661"])
def test_other_ids_are_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(value)
