import time
from uuid import UUID

import pytest
from pydantic import TypeAdapter, ValidationError

from service.ids import TrackletId, camera_named_by, new_id

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


@pytest.mark.parametrize(
    "value",
    ["a", "gate-3:0042", "A_b.c", "x" * 128, "...", new_id()],
    ids=["letter", "separators", "mixed", "longest", "dots", "new"],
)
def test_well_formed_ids_are_accepted(value: str) -> None:
    assert ADAPTER.validate_python(value) == value


@pytest.mark.parametrize("value", ["", "x" * 129, "a b", "a/b", "ä", "a\n", ".", "..", "a%20", "\x00", "\u0661"])
def test_other_ids_are_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(value)


@pytest.mark.parametrize(
    ("value", "camera"),
    [
        ("gate:1", "gate"),
        ("gate:1:2", "gate"),
        ("frigate:gate:1777887000.5-abc", "gate"),
        ("mqtt:gate:17:1777887000.000", "gate"),
        ("axis:gate:", "gate"),
        ("frigate:gate", "frigate"),  # of a camera with this name
        ("frigate:frigate:1", "frigate"),
        ("Frigate:gate:1", "Frigate"),
        ("::", ""),
        ("gate", None),
        ("01a226ca-9d65-7661-8b1d-a3080c14001c", None),
    ],
)
def test_an_id_names_one_camera(value: str, camera: str | None) -> None:
    assert camera_named_by(value) == camera
