"""Equality of metadata, and which records are valid."""

from dataclasses import replace
from datetime import timedelta
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.gallery import JSON, InvalidArgument, Record
from service.gallery.checks import encode, terms_of
from tests.service.gallery.samples import DIMENSION, NOON, at, record, vector


def term(value: JSON) -> bytes:
    (one,) = terms_of({"k": value})
    return one


def equal(a: JSON, b: JSON) -> bool:
    """Return whether JSON values are equal: as in Python, except that true is not 1."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return a == b


scalars = cast(
    "st.SearchStrategy[JSON]",
    st.none()
    | st.booleans()
    | st.sampled_from([0, 1, -0.0, 0.0, 1.0, "1", "true", "", 2**53, 2**53 + 1, float(2**53), 1e300, 0.1])
    | st.integers(-3, 3)
    | st.floats(-3, 3)
    | st.text(max_size=2),
)
values: st.SearchStrategy[JSON] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=4,
)


@given(values, values)
def test_terms_are_equal_if_and_only_if_the_values_are(a: JSON, b: JSON) -> None:
    assert (term(a) == term(b)) is equal(a, b)
    assert term(a) == term(a)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (True, 1, False),
        (False, 0, False),
        (1, 1.0, True),
        (1, "1", False),
        (None, "null", False),
        ([], {}, False),
        ([1, [True]], [1, [1]], False),
        ({"x": 1, "y": 2}, {"y": 2, "x": 1.0}, True),
        ({"x": 1}, {"x": 1, "y": None}, False),
        (2**53 + 1, float(2**53), False),
        ("é", "e\u0301", False),
    ],
)
def test_equality_of_terms_in_edge_cases(a: JSON, b: JSON, same: bool) -> None:
    assert (term(a) == term(b)) is same


def test_a_term_separates_key_and_value() -> None:
    assert set(terms_of({"a": "b"})) != set(terms_of({'a":"b': ""}))
    assert len(set(terms_of({"a": 1, "b": 1}))) == 2


def deep(levels: int) -> JSON:
    value: JSON = 1
    for _ in range(levels):
        value = [value]
    return value


sample = record("a")


@pytest.mark.parametrize(
    ("unusable", "reason"),
    [
        (replace(sample, id=""), "id is empty"),
        (replace(sample, id="a\0b"), "id contains a NUL"),
        (replace(sample, id="\ud800"), "id is not valid Unicode"),
        (replace(sample, camera_id="\ud800"), "camera_id"),
        (replace(sample, start_time=NOON.replace(tzinfo=None)), "start_time has no time zone"),
        (replace(sample, created_at=NOON.replace(tzinfo=None)), "created_at has no time zone"),
        (replace(sample, expires_at=NOON.replace(tzinfo=None)), "expires_at has no time zone"),
        (replace(sample, thumbnails=(b"\x89PNG",)), "not a JPEG"),
        (replace(sample, thumbnails=(b"\xff\xd8\xff" + bytes(2**20),)), "1048579 bytes"),
        (replace(sample, start_time=at(1), end_time=at(0)), "later"),
        (replace(sample, frames=-1), "frames"),
        (replace(sample, clips=2**40), "clips"),
        (replace(sample, metadata={"x": float("nan")}), "NaN"),
        (replace(sample, metadata={"x": float("-inf")}), "infinity"),
        (replace(sample, metadata={"x": {1: 2}}), "key"),  # type: ignore[dict-item]
        (replace(sample, metadata={"x": b"1"}), "bytes"),  # type: ignore[dict-item]
        (replace(sample, metadata={"x": 10**5000}), "number"),
        (replace(sample, metadata={"x": deep(100_000)}), "deeper"),
        (replace(sample, metadata=[]), "JSON object"),  # type: ignore[arg-type]
        (replace(sample, embedding=vector("a") * np.float32(1.01)), "length 1.01"),
    ],
)
def test_invalid_records_are_refused(unusable: Record, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        encode(unusable, DIMENSION)


def test_times_are_kept_to_the_microsecond() -> None:
    moment = NOON.replace(year=9998, microsecond=999_999)
    row = encode(replace(sample, start_time=moment), DIMENSION)
    assert row.start_time is not None
    assert NOON + timedelta(microseconds=row.start_time - encode(sample, DIMENSION).created_at) == moment
