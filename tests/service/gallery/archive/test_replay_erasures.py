"""Erasures that happened after a snapshot are repeated after it is restored."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.gallery import AuditEntry, Filter, GalleryError, TimeOfDay
from service.gallery.archive.replay_erasures import read_audit_log, replay_erasures, to_json
from service.gallery.archive.snapshot import restore, take_snapshot
from service.gallery.checks import audit_condition
from tests.service.gallery.samples import NOON, at, enrol, open_gallery, record


@pytest.mark.parametrize("kept_as", ["directory", "lines"])
def test_every_erasure_after_the_snapshot_is_repeated(tmp_path: Path, kept_as: str) -> None:
    gallery = open_gallery(tmp_path / "data")
    enrol(gallery, [record(f"c{number}", camera_id=f"camera-{number}") for number in range(6)])
    enrol(gallery, [record(f"t{number}", start_time=at(number), metadata={"n": number}) for number in range(6)])
    gallery.delete("c0")
    gallery.add(record("c0", camera_id="camera-0"))  # again, before the snapshot: stays
    take_snapshot(tmp_path / "data", tmp_path / "snapshot")
    gallery.delete("c1")
    gallery.erase(Filter(camera_ids=("camera-2", "camera-3"), exclude_ids=("c3",)), dry_run=False)
    gallery.erase(Filter(after=at(4), before=at(10)), dry_run=False)
    gallery.erase(Filter(metadata={"n": 1}), dry_run=False)
    gallery.erase(Filter(time_of_day=TimeOfDay(43_320, 43_320 + 60, 0), created_before=NOON), dry_run=False)
    gallery.erase(Filter(time_of_day=TimeOfDay(5400, 5400 + 179, -37_980), created_after=NOON), dry_run=False)
    gallery.add(record("later"))
    expected = sorted({item.id for item in gallery.list().items} - {"later"})
    source = tmp_path / "data"
    if kept_as == "lines":
        source = tmp_path / "audit.jsonl"
        source.write_text("".join(to_json(entry) + "\n" for entry in gallery.audit()))
    entries = read_audit_log(source)  # while the gallery is open
    assert entries == list(gallery.audit())
    gallery.close()
    restore(tmp_path / "snapshot", tmp_path / "again")
    gallery = open_gallery(tmp_path / "again")
    assert gallery.count() == 12
    assert replay_erasures(gallery, entries) == 7
    assert [item.id for item in gallery.list().items] == expected
    assert [entry.by for entry in gallery.audit()[:4]] == ["restore"] * 4
    assert replay_erasures(gallery, entries) == 0
    gallery.close()


def entry(action: str, condition: Filter | str) -> AuditEntry:
    given = {"id": condition} if isinstance(condition, str) else audit_condition(condition)
    return AuditEntry("r", datetime.now(UTC), action, "me", given, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("hello", "line 1 is not an entry"),
        ("{}", "is not an entry"),
        ("[]", "is not an entry"),
        (to_json(entry("erase", Filter())), "no condition"),
        (to_json(entry("erase", "an id")), "cannot be repeated"),
        (to_json(entry("delete", Filter(camera_ids=("c",)))), "cannot be repeated"),
    ],
)
def test_an_invalid_entry_is_an_error_before_anything_is_erased(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "audit.jsonl").write_text(line)
    with pytest.raises(GalleryError, match=reason):
        read_audit_log(tmp_path / "audit.jsonl")


def test_a_missing_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="cannot be read"):
        read_audit_log(tmp_path / "audit.jsonl")
    with pytest.raises(GalleryError, match="there is no gallery"):
        read_audit_log(tmp_path)
