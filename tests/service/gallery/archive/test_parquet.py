"""Export and import keep records to the bit, in a file that other programs read."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from service.gallery import GalleryError, Record
from service.gallery.archive.parquet import (
    RecordFile,
    export_records,
    import_records,
    records_of_files,
    records_of_gallery,
)
from service.gallery.archive.read_only import open_read_only
from service.gallery.embedded.gallery import EmbeddedGallery
from tests.service.gallery.engines import MILVUS, milvus_database
from tests.service.gallery.samples import DIMENSION, JPEG, SPACE, assert_same, at, enrol, open_gallery, record, vector

pa: Any = pytest.importorskip("pyarrow")
pq: Any = pytest.importorskip("pyarrow.parquet")

SOON = datetime.now(UTC).replace(microsecond=123457) + timedelta(days=1)
RECORDS = [
    record("a.b:c_d-1", camera_id="käse", start_time=at(0), end_time=at(0.000001), thumbnail=JPEG, expires_at=SOON),
    record("bare", camera_id=None),
    replace(
        record(
            "odd", metadata={"nested": {"x": [1, 2.5, None, True]}, "": "\ud83d", "big": 2**70, "1.0": 1.0, "f": 0.1}
        ),
        thumbnails=(JPEG + b"first", JPEG + b"second", JPEG + b"third"),
    ),
    record("old", start_time=datetime(1, 1, 1, tzinfo=UTC), end_time=datetime(9999, 12, 31, 23, 59, tzinfo=UTC)),
    # Close to unit length, and with zeros of both signs and a subnormal number: nothing is made unit length again.
    record("bits", embedding=np.array([0.9999, -0.0, 0.0, 1e-44, 0.01, 0, 0, 0], np.float32)),
    *(record(f"r{number:03}") for number in range(100)),
]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A closed gallery of RECORDS."""
    gallery = open_gallery(tmp_path / "data")
    enrol(gallery, RECORDS)
    gallery.close()
    return tmp_path / "data"


@pytest.fixture
def exported(directory: Path, tmp_path: Path) -> Path:
    with open_read_only(directory) as files:
        assert export_records(records_of_files(files), files.stamp, tmp_path / "out.parquet") == len(RECORDS)
    return tmp_path / "out.parquet"


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[EmbeddedGallery]:
    opened = open_gallery(tmp_path / "new")
    yield opened
    opened.close()


def check(gallery: EmbeddedGallery, expected: list[Record]) -> None:
    assert gallery.count() == len(expected)
    for one in expected:
        assert_same(found := gallery.get(one.id), one)
        assert found is not None
        assert found.embedding.tobytes() == one.embedding.tobytes()  # zeros of both signs are equal as numbers
        kept = [gallery.thumbnail(one.id, frame) for frame in range(len(one.thumbnails) + 1)]
        assert kept == [*one.thumbnails, None]  # all of them, in their order
        assert gallery.thumbnail(one.id) == (one.thumbnails[len(one.thumbnails) // 2] if one.thumbnails else None)


def rewrite(path: Path, table: Any) -> Path:
    pq.write_table(table, path)
    return path


def test_the_round_trip_is_exact_to_the_bit(exported: Path, empty: EmbeddedGallery) -> None:
    counts = import_records(RecordFile(exported), empty)
    assert (counts.enrolled, counts.replaced, counts.skipped, counts.expired) == (len(RECORDS), 0, 0, 0)
    check(empty, RECORDS)


def test_a_gallery_of_any_engine_is_exported_page_by_page(
    directory: Path, exported: Path, empty: EmbeddedGallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.gallery.archive.parquet._ROW_GROUP_BYTES", 4 * DIMENSION * 7)
    gallery = open_gallery(directory)
    export_records(records_of_gallery(gallery), RecordFile(exported).stamp, tmp_path / "pages.parquet")
    gallery.close()
    assert pq.ParquetFile(tmp_path / "pages.parquet").num_row_groups == 15
    import_records(RecordFile(tmp_path / "pages.parquet"), empty)
    check(empty, RECORDS)


@pytest.mark.parametrize("name", MILVUS)
def test_records_move_to_milvus_and_back(exported: Path, tmp_path: Path, name: str) -> None:
    with milvus_database(name) as database:
        there = database.open()
        table = pq.read_table(exported)
        facts = table.schema.metadata | {b"not3d.embedding_space": database.space.encode()}
        path = rewrite(tmp_path / "there.parquet", table.replace_schema_metadata(facts))
        assert import_records(RecordFile(path), there).enrolled == len(RECORDS)
        assert import_records(RecordFile(path), there, "skip").skipped == len(RECORDS)
        export_records(records_of_gallery(there), RecordFile(path).stamp, tmp_path / "back.parquet")
        there.close()
        back = open_gallery(tmp_path / "back", embedding_space=database.space)
    import_records(RecordFile(tmp_path / "back.parquet"), back)
    check(back, RECORDS)
    back.close()


def test_other_programs_read_it(exported: Path) -> None:
    assert exported.stat().st_mode & 0o777 == 0o600
    table = pq.read_table(exported)
    assert table.num_rows == len(RECORDS)
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "id": "string",
        "embedding": f"fixed_size_list<element: float>[{DIMENSION}]",
        "camera_id": "string",
        **dict.fromkeys(("start_time", "end_time", "expires_at", "created_at"), "timestamp[us, tz=UTC]"),
        "metadata": "string",
        "frames": "int32",
        "clips": "int32",
        "thumbnail": "binary",
        "thumbnails": "list<element: binary>",
    }
    facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert facts == {
        "not3d.format": "1",
        "not3d.embedding_space": SPACE,
        "not3d.dimension": str(DIMENSION),
        "not3d.model": "sample",
    }
    rows = {row["id"]: row for row in table.to_pylist()}
    assert rows["a.b:c_d-1"]["thumbnail"] == JPEG
    assert rows["odd"]["thumbnail"] == JPEG + b"second"  # the one that is shown alone
    assert rows["a.b:c_d-1"]["expires_at"] == SOON
    assert json.loads(rows["odd"]["metadata"])["big"] == 2**70
    np.testing.assert_array_equal(np.array(rows["r007"]["embedding"], np.float32), vector("r007"))


def test_expired_records_are_neither_exported_nor_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: EmbeddedGallery
) -> None:
    gallery = open_gallery(tmp_path / "data")
    gallery.add(record("kept"))
    gallery.add(record("expiring", expires_at=SOON))
    gallery.close()
    with open_read_only(tmp_path / "data") as files:
        export_records(records_of_files(files), files.stamp, tmp_path / "before.parquet")
    later = int((SOON + timedelta(seconds=1)).timestamp() * 1e6)
    monkeypatch.setattr("service.gallery.clock.now", lambda: later)
    with open_read_only(tmp_path / "data") as files:
        assert export_records(records_of_files(files), files.stamp, tmp_path / "after.parquet") == 1
    counts = import_records(RecordFile(tmp_path / "before.parquet"), empty)
    assert (counts.enrolled, counts.expired) == (1, 1)
    check(empty, [record("kept")])


def test_an_export_has_one_state_while_a_service_writes(directory: Path, tmp_path: Path) -> None:
    gallery = open_gallery(directory)
    with open_read_only(directory) as files:
        batches = records_of_files(files)
        first = next(batches)
        gallery.delete("r050")
        gallery.add(record("later"))
        names = [one.id for one in first] + [one.id for batch in batches for one in batch]
    gallery.close()
    assert sorted(names) == sorted(one.id for one in RECORDS)


@pytest.mark.parametrize(
    ("on_conflict", "expected"),
    [("skip", (len(RECORDS) - 2, 0, 2)), ("replace", (len(RECORDS) - 2, 2, 0))],
)
def test_existing_ids_are_skipped_or_replaced(
    exported: Path,
    empty: EmbeddedGallery,
    on_conflict: Literal["skip", "replace"],
    expected: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.gallery.archive.parquet._ROWS_PER_STEP", 7)
    mine = [record("r003", camera_id="mine"), record("bare", camera_id="mine", thumbnail=JPEG)]
    empty.enrol(mine, "replace")
    with pytest.raises(GalleryError, match="2 of the file's 105 ids are enrolled already"):
        import_records(RecordFile(exported), empty)
    check(empty, mine)
    seen: list[int] = []
    counts = import_records(RecordFile(exported), empty, on_conflict, seen.append)
    assert (counts.enrolled, counts.replaced, counts.skipped) == expected
    assert seen == [*range(7, 105, 7), 105]
    kept = [one for one in RECORDS if one.id not in {"r003", "bare"}]
    check(empty, [*kept, *mine] if on_conflict == "skip" else RECORDS)
    again = import_records(RecordFile(exported), empty, "skip")
    assert (again.enrolled, again.skipped) == (0, 105)


@pytest.mark.parametrize("on_conflict", ["error", "skip"])
def test_a_record_that_another_client_enrols_meanwhile_stays(
    exported: Path,
    empty: EmbeddedGallery,
    on_conflict: Literal["error", "skip"],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a server other clients enrol too, between the check of the ids and the import."""
    monkeypatch.setattr("service.gallery.archive.parquet._ROWS_PER_STEP", 50)
    theirs = record("r060", camera_id="theirs")

    def enrol_one(rows: int) -> None:
        if rows == 50:
            empty.add(theirs)

    if on_conflict == "skip":
        counts = import_records(RecordFile(exported), empty, "skip", enrol_one)
        assert (counts.enrolled, counts.replaced, counts.skipped) == (104, 0, 1)
    else:
        with pytest.raises(GalleryError, match=r"another client enrolled 'r060' meanwhile.* first 100 rows"):
            import_records(RecordFile(exported), empty, "error", enrol_one)
    assert_same(empty.get("r060"), theirs)


def test_an_interrupted_import_continues(
    exported: Path, empty: EmbeddedGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.gallery.archive.parquet._ROWS_PER_STEP", 10)

    def stop(rows: int) -> None:
        if rows == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_records(RecordFile(exported), empty, "error", stop)
    assert empty.count() == 50
    counts = import_records(RecordFile(exported), empty, "skip")
    assert (counts.enrolled, counts.skipped) == (55, 50)
    check(empty, RECORDS)


@pytest.mark.parametrize("change", ["space", "dimension"])
def test_vectors_of_another_model_are_refused(exported: Path, tmp_path: Path, change: str) -> None:
    space, dimension = ("f" * 16, DIMENSION) if change == "space" else (SPACE, 16)
    gallery = open_gallery(tmp_path / "other", embedding_space=space, dimension=dimension)
    with pytest.raises(GalleryError, match="different models cannot be compared"):
        import_records(RecordFile(exported), gallery, "replace")
    assert gallery.count() == 0
    gallery.close()


def test_other_types_of_text_and_time_are_accepted(exported: Path, tmp_path: Path, empty: EmbeddedGallery) -> None:
    """As polars and pandas write them: large strings, dictionaries, lists of any length, columns in another order."""
    table = pq.read_table(exported)
    facts = table.schema.metadata
    changed = {
        "id": table["id"].cast(pa.large_string()),
        "embedding": table["embedding"].cast(pa.list_(pa.float32())),
        "camera_id": table["camera_id"].dictionary_encode(),
        "frames": table["frames"].cast(pa.int64()),
        "thumbnail": table["thumbnail"].cast(pa.large_binary()),
    }
    columns = {name: changed.get(name, table[name]) for name in reversed(table.column_names)}
    path = rewrite(tmp_path / "other.parquet", pa.table(columns | {"more": table["id"]}).replace_schema_metadata(facts))
    import_records(RecordFile(path), empty)
    check(empty, RECORDS)


def without_facts(table: Any) -> Any:
    return table.replace_schema_metadata({})


def of_another_format(table: Any) -> Any:
    return table.replace_schema_metadata(table.schema.metadata | {b"not3d.format": b"9"})


def with_a_short_vector(table: Any) -> Any:
    lists = [row["embedding"][: 7 if row["id"] == "bare" else 8] for row in table.to_pylist()]
    return table.set_column(1, "embedding", pa.array(lists, pa.list_(pa.float32())))


def with_text(table: Any) -> Any:
    return table.set_column(table.column_names.index("metadata"), "metadata", pa.array(["{"] * table.num_rows))


def with_deep_text(table: Any) -> Any:
    deep = "[" * 100_000 + "]" * 100_000
    return table.set_column(table.column_names.index("metadata"), "metadata", pa.array([deep] * table.num_rows))


def with_an_empty_thumbnail(table: Any) -> Any:
    pictures = [b"" if row["id"] == "bare" else None for row in table.to_pylist()]
    return table.set_column(table.column_names.index("thumbnail"), "thumbnail", pa.array(pictures, pa.binary()))


def with_naive_times(table: Any) -> Any:
    place = table.column_names.index("created_at")
    return table.set_column(place, "created_at", table["created_at"].cast(pa.timestamp("us")))


def with_a_lost_id(table: Any) -> Any:
    return table.set_column(0, "id", pa.array([None, *table["id"].to_pylist()[1:]], pa.string()))


def with_an_id_twice(table: Any) -> Any:
    return pa.concat_tables([table, table.slice(3, 1)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_facts, "does not name its embedding space"),
        (of_another_format, "format 9"),
        (with_a_short_vector, "cannot be read"),
        (with_text, r"row 0 \(id '.*'\): metadata is not JSON"),
        (with_deep_text, r"row 0 \(id '.*'\): metadata is nested too deeply"),
        (with_an_empty_thumbnail, r"thumbnail is not a JPEG file \(record 'bare'\)"),
        (with_naive_times, "without a time zone in column created_at"),
        (with_a_lost_id, "'id' with null values"),
        (with_an_id_twice, "duplicate id"),
        (lambda table: table.drop_columns(["clips"]), "has no column clips"),
    ],
)
def test_an_invalid_file_is_refused(
    exported: Path, tmp_path: Path, empty: EmbeddedGallery, change: Any, reason: str
) -> None:
    path = rewrite(tmp_path / "wrong.parquet", change(pq.read_table(exported)))
    with pytest.raises(GalleryError, match=reason):
        import_records(RecordFile(path), empty)
    assert empty.count() == 0


def test_a_missing_or_damaged_file_is_refused(exported: Path, tmp_path: Path, empty: EmbeddedGallery) -> None:
    with pytest.raises(GalleryError, match=r"absent\.parquet does not exist"):
        RecordFile(tmp_path / "absent.parquet")
    data = bytearray(exported.read_bytes())
    (tmp_path / "cut.parquet").write_bytes(data[:-5])
    with pytest.raises(GalleryError, match="is not a Parquet file, or is damaged"):
        RecordFile(tmp_path / "cut.parquet")


def test_an_export_overwrites_nothing_and_leaves_no_partial_file(
    exported: Path, directory: Path, tmp_path: Path
) -> None:
    def broken() -> Iterator[list[Record]]:
        yield RECORDS
        raise GalleryError("the rest cannot be read")

    stamp = RecordFile(exported).stamp
    with pytest.raises(GalleryError, match="exists"):
        export_records(iter([RECORDS]), stamp, exported)
    with pytest.raises(GalleryError, match="the rest"):
        export_records(broken(), stamp, tmp_path / "half.parquet")
    assert not list(tmp_path.glob("half*"))
    (tmp_path / "taken.parquet.part").touch()
    with pytest.raises(GalleryError, match="another process is writing it"):
        export_records(iter([RECORDS]), stamp, tmp_path / "taken.parquet")
    assert (tmp_path / "taken.parquet.part").exists()


def test_an_empty_gallery_is_an_empty_file(tmp_path: Path, empty: EmbeddedGallery) -> None:
    open_gallery(tmp_path / "data").close()
    with open_read_only(tmp_path / "data") as files:
        assert export_records(records_of_files(files), files.stamp, tmp_path / "none.parquet") == 0
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0
    assert import_records(RecordFile(tmp_path / "none.parquet"), empty).enrolled == 0
