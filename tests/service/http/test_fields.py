import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from service.http.fields import Body, CameraId, Metadata, Timestamp

TIMES: TypeAdapter[datetime] = TypeAdapter(Timestamp)
METADATA: TypeAdapter[dict[str, Any]] = TypeAdapter(Metadata)


class Timed(Body):
    """A body with a time."""

    time: Timestamp


CAMERAS: TypeAdapter[str] = TypeAdapter(CameraId)


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2024-05-01T12:00:00Z", "2024-05-01T12:00:00Z"),
        ("2024-05-01t12:00:00z", "2024-05-01T12:00:00Z"),
        ("2024-05-01 12:00:00+02:00", "2024-05-01T10:00:00Z"),
        ("2024-05-01T12:00:00.25-00:30", "2024-05-01T12:30:00.250000Z"),
        ("2024-05-01T12:00:00.123456789Z", "2024-05-01T12:00:00.123456Z"),
    ],
)
def test_times_are_kept_and_written_in_utc(text: str, utc: str) -> None:
    assert TIMES.dump_json(TIMES.validate_python(text)) == f'"{utc}"'.encode()
    assert Timed.model_validate_json(f'{{"time": "{text}"}}').model_dump_json() == f'{{"time":"{utc}"}}'


@pytest.mark.parametrize(
    "value",
    [
        "2024-05-01T12:00:00",
        "2024-05-01",
        "1714564800",
        1714564800,
        1714564800.5,
        "1714564800.5",
        "2024-05-01T12:00:00+02",
        "12:00:00Z",
        "",
        [],
        "yesterday",
        "2024-13-01T00:00:00Z",
        "2024-05-01T12:00:60Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "٢٠٢٤-05-01T12:00:00Z",
        datetime(2024, 5, 1),
        True,
    ],
)
def test_values_that_are_not_rfc_3339_times_are_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        TIMES.validate_python(value)
    with pytest.raises(ValidationError):
        Timed.model_validate_json(json.dumps({"time": value}, default=str))


def test_an_aware_datetime_is_accepted() -> None:
    assert TIMES.validate_python(datetime(2024, 5, 1, tzinfo=UTC)) == datetime(2024, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    ['{"a": NaN}', '{"a": [1, {"b": -Infinity}]}', '{"a": 1e999}', '{"a": 9223372036854775808}', '{"a": "\\ud800"}'],
)
def test_metadata_that_readers_of_json_read_differently_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        METADATA.validate_json(text)


def test_a_lone_surrogate_in_a_key_is_refused() -> None:
    with pytest.raises(ValidationError):
        METADATA.validate_python({"\ud800": 1})


def test_other_metadata_is_not_changed() -> None:
    value = {"a": [1, 2.5, None, True, {"ü": "\x00"}], "n": -(2**63)}
    assert METADATA.validate_python(value) == value


@pytest.mark.parametrize("value", ["", "x" * 129, "a\nb", "\x00"])
def test_bad_camera_ids_are_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        CAMERAS.validate_python(value)


def test_a_camera_id_can_have_spaces_and_letters_of_any_language() -> None:
    assert CAMERAS.validate_python("Gate 3, Süd") == "Gate 3, Süd"
