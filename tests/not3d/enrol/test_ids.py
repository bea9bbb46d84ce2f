"""Ids that are readable and never shared."""

import re
from pathlib import Path

import pytest

from not3d.enrol.discovery import list_tracklets
from not3d.enrol.ids import printable, readable_id, unescaped, with_digest
from service.ids import ID_PATTERN


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("0001", "c1", "t1"), ("0001-c1-t1", True)),
        (("Gate 3", "track é#7"), ("Gate-3-track-e-7", True)),
        (("張三",), ("tracklet", False)),
        (("0001", "門口", "t1"), ("0001-t1", False)),
        (("a\udcffb",), ("a-b", False)),
        (("...",), ("tracklet", False)),
        (("a" * 200,), ("a" * 128, False)),
    ],
)
def test_names_become_ids_of_the_service(names: tuple[str, ...], expected: tuple[str, bool]) -> None:
    assert readable_id(*names) == expected
    assert re.fullmatch(ID_PATTERN, with_digest(readable_id(*names)[0], "camera", *names))


@pytest.mark.parametrize("text", ["plain", "é", "a\udcffb", "line\nend", "no\xa0break", "\u202egpj.exe", "\x1b[1m"])
def test_what_cannot_be_printed_is_escaped_and_found_again(text: str) -> None:
    assert printable(text).isprintable()
    printable(text).encode()
    assert unescaped(printable(text)) == text


NAMES = [
    *("a b", "a#b", "a-b", "A-b", "a_b", "張三", "李四", "Иван", "é", "e\u0301", "e", "+++", "@@@", "x" * 200),
    *("x" * 199 + "y", "a\udcff", "a\udcfe", "a\\xff", "a\nb", "-", "--", "🙂", "ß", "ss"),
]


def test_folders_of_any_name_get_ids_of_their_own_in_any_order(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in NAMES:
        (root / name).mkdir(parents=True)
        (root / name / "1.jpg").touch()
    items = list_tracklets(root).items
    assert len({item.id for item in items}) == len(NAMES)
    for item in items:
        assert re.fullmatch(ID_PATTERN, item.id)
        assert item.fallback_id not in {other.id for other in items if other is not item}
        for text in item.open().metadata.values():
            text.encode()
            assert text.isprintable()
    assert {"a_b", "A-b"} <= {item.id for item in items}


def test_separators_inside_names_do_not_make_names_equal(tmp_path: Path) -> None:
    for name in ("a-b/c/d", "a/b-c/d", "a/b/c-d"):
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "1.jpg").touch()
    ids = [item.id for item in list_tracklets(tmp_path / "root").items]
    assert len(set(ids)) == 3
    assert all(name.startswith("a-b-c-d-") for name in ids)
