"""Stored JSON: how often its text is parsed."""

from dataclasses import replace

import pytest

from service.gallery import JSON, Gallery
from service.gallery.records import StoredJson, json_values
from tests.service.gallery.samples import assert_same, record

MANY_KEYS: dict[str, JSON] = {f"k{number}": number for number in range(300)}


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the texts that were parsed since the test began."""
    parsed: list[str] = []
    parse = StoredJson.parse

    def count(stored: StoredJson) -> dict[str, JSON]:
        parsed.append(stored.text)
        return parse(stored)

    monkeypatch.setattr(StoredJson, "parse", count)
    return parsed


def test_all_values_are_read_with_one_parse(parses: list[str]) -> None:
    stored = StoredJson('{"a": 1, "b": [2]}')
    assert json_values(stored) == {"a": 1, "b": [2]}
    assert list(stored.items()) == [("a", 1), ("b", [2])]
    assert list(stored.values()) == [1, [2]]
    assert len(parses) == 3
    given = {"a": 1}
    assert json_values(given) == given
    assert json_values(given) is not given


def test_a_change_parses_the_metadata_a_fixed_number_of_times(any_gallery: Gallery, parses: list[str]) -> None:
    any_gallery.add(record("a", metadata=MANY_KEYS))
    changed = any_gallery.update("a", lambda old: replace(old, camera_id="c2"))
    assert len(parses) <= 2  # on Milvus, once more for the watchlists
    assert_same(changed, record("a", metadata=MANY_KEYS, camera_id="c2"))
