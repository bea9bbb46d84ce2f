"""The protocol of a gallery when records expire or are removed, on every engine."""

from collections.abc import Callable
from typing import Any

import pytest

from service.gallery import AuditEntry, DuplicateId, Erasure, Filter, Gallery, OtherCount
from tests.service.gallery.samples import JPEG, assert_same, at, found, record


@pytest.fixture
def gallery(any_gallery: Gallery) -> Gallery:
    return any_gallery


def test_no_method_finds_an_expired_record(gallery: Gallery, clock: Callable[[float], None]) -> None:
    gallery.add(record("short", expires_at=at(10), thumbnail=JPEG, metadata={"k": 1}))
    gallery.add(record("long", expires_at=at(20)))
    gallery.add(record("ever"))
    clock(9.99)
    assert found(gallery) == {"short", "long", "ever"}
    clock(10)
    assert gallery.get("short") is None
    assert gallery.thumbnail("short") is None
    assert [item.id for item in gallery.list().items] == ["ever", "long"]
    assert found(gallery) == {"long", "ever"}
    assert found(gallery, Filter(metadata={"k": 1})) == set()
    assert gallery.count() == 2
    assert gallery.erase(Filter(camera_ids=("c1",)), dry_run=True) == Erasure(matched=2, erased=0)
    assert gallery.delete("short") is False
    assert [entry.action for entry in gallery.audit()] == ["expire"]  # and that removed it
    assert gallery.expire() == 0


@pytest.mark.parametrize("enrolled_by", ["error", "put", "replace", "skip"])
def test_the_id_of_an_expired_record_is_free(
    gallery: Gallery, clock: Callable[[float], None], enrolled_by: Any
) -> None:
    gallery.add(record("a", expires_at=at(10), thumbnail=JPEG))
    with pytest.raises(DuplicateId):
        gallery.add(record("a"))
    clock(10)
    replacement = record("a", camera_id="c2")
    if enrolled_by == "put":
        assert gallery.put(replacement) is True
    else:
        assert gallery.enrol([replacement], enrolled_by) == set()
    assert_same(gallery.get("a"), replacement)
    assert gallery.count() == 1
    assert found(gallery) == {"a"}
    assert [(entry.action, entry.erased) for entry in gallery.audit()] == [("expire", 1)]


def test_a_replacement_without_expiry_does_not_expire(gallery: Gallery, clock: Callable[[float], None]) -> None:
    gallery.add(record("a", expires_at=at(10)))
    gallery.put(record("a"))
    clock(20)
    assert gallery.expire() == 0
    assert found(gallery) == {"a"}


def test_the_audit_log_has_who_what_and_how_many(gallery: Gallery, clock: Callable[[float], None]) -> None:
    gallery.enrol(
        [record(f"r{number}", metadata={"who": "anna"}, camera_id=f"c{number}") for number in range(5)], "replace"
    )
    gallery.delete("r0", by="key:0123456789ab")
    gallery.delete("absent", by="key:0123456789ab")
    clock(1)
    wanted = Filter(
        camera_ids=("c1", "c2"),
        exclude_camera_ids=("c9",),
        metadata={"who": "anna"},
        exclude_ids=("r2",),
    )
    erasure = gallery.erase(wanted, dry_run=False, by="operator")
    gallery.erase(Filter(after=at(0), before=at(1)), dry_run=False)
    gallery.erase(wanted, dry_run=True, by="curious")
    assert gallery.put(record("r3")) is False  # a replacement is no removal
    last, second, first = gallery.audit()
    assert first == AuditEntry(first.receipt, at(0), "delete", "key:0123456789ab", {"id": "r0"}, 1)
    assert erasure == Erasure(matched=1, erased=1, receipt=second.receipt)
    assert second == AuditEntry(
        second.receipt,
        at(1),
        "erase",
        "operator",
        {
            "camera_ids": ["c1", "c2"],
            "exclude_camera_ids": ["c9"],
            "metadata": {"who": "anna"},
            "exclude_ids": ["r2"],
        },
        1,
    )
    assert (last.by, last.erased) == ("", 0)
    assert last.filter == {"after": "2024-05-01T12:00:00Z", "before": "2024-05-01T12:01:00Z"}


def test_an_erasure_of_another_number_than_expected_removes_nothing(
    gallery: Gallery, clock: Callable[[float], None]
) -> None:
    gallery.enrol([record("a"), record("b"), record("short", expires_at=at(10))], "error")
    wanted = Filter(camera_ids=("c1",))
    clock(10)
    for wrong in (0, 1, 3):
        with pytest.raises(OtherCount, match=f"^2 records pass the filter now, not {wrong}$"):
            gallery.erase(wanted, dry_run=False, expected=wrong)
        assert gallery.erase(wanted, dry_run=True, expected=wrong).matched == 2
    assert gallery.audit() == []
    assert gallery.erase(wanted, dry_run=False, expected=2).erased == 2
    assert gallery.erase(wanted, dry_run=False, expected=0).erased == 0
