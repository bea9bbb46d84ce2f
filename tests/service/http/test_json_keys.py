import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.http.json_keys import find_duplicate_key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"a": 1, "a": 2}', "a"),
        ('{"a": {"b": 1, "c": [], "b" \n: {}}}', "b"),
        ('[{"a": 1}, {"a": 1, "\\u0061": 2}]', "a"),
        ('{"\\"": 1, "\\"": 2}', '"'),
        ('{"": 1, "": 1}', ""),
        ('{"ü": 1, "\\u00fc": 2}', "ü"),
        ('{"a\\\\": "x", "a\\\\": 3}', "a\\"),
    ],
)
def test_duplicate_keys_are_found(text: str, key: str) -> None:
    json.loads(text)
    assert find_duplicate_key(text.encode()) == key


_JSON: Any = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(value=_JSON, ascii_only=st.booleans())
def test_other_json_has_none(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    assert find_duplicate_key(text) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "' + "x" * 20_000_000 + '"}',
        '{"a": "' + '\\"' * 3_000_000 + '"}',
        '{"a": "' + "\\\\" * 5_000_000 + '"}',
        '{"a": [' + "0.25," * 400_000 + "1]}",
    ],
)
def test_long_values_take_little_time(text: str) -> None:
    data = text.encode()
    start = time.thread_time()
    assert find_duplicate_key(data) is None
    assert time.thread_time() - start < 2
