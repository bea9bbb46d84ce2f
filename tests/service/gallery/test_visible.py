import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.audit.log import AuditLog
from service.audit.removals import Removals
from service.callers import ANONYMOUS, Caller
from service.cases.store import CaseStore
from service.gallery.async_gallery import AsyncGallery
from service.gallery.embedded.gallery import EmbeddedGallery
from service.gallery.records import DuplicateId, Filter, GalleryError, InvalidArgument, Record, StoredJson
from service.gallery.visible import CameraRefused, VisibleGallery
from service.ids import camera_named_by
from service.telemetry.metrics import Metrics

CAMERAS = ["a", "b", "c", None]
OWN = frozenset({"a", "b"})
LIMITED = Caller("limited", frozenset({"search", "enroll", "erase"}), OWN)
WHEN = datetime(2026, 5, 1, tzinfo=UTC)
IDS = [f"{prefix}{name}" for prefix in ("", "a:", "b:", "c:", "mqtt:a:", "mqtt:c:a:") for name in ("x", "y", "z")]
JPEG = b"\xff\xd8\xff\xd9"


def record_of(id: str, camera: str | None, seed: int) -> Record:
    vector = np.random.default_rng(seed % 5).normal(size=4).astype(np.float32)  # some are equal
    vector /= np.linalg.norm(vector)
    times = (WHEN, WHEN) if seed % 3 else (None, None)
    kept = (JPEG,) if seed % 2 else ()
    return Record(id, vector, camera, *times, {"seed": seed % 4}, 1, 1, WHEN, thumbnails=kept)


@asynccontextmanager
async def opened(
    folder: Path, records: list[Record], caller: Caller, *, centring: bool
) -> AsyncIterator[VisibleGallery]:
    folder.mkdir()
    inner = EmbeddedGallery.open(
        folder, embedding_space="0" * 16, dimension=4, model_name="sample", camera_centring=centring
    )
    inner.enrol(records, "error")
    gallery = AsyncGallery(inner, 1, Metrics(), lambda _: None)
    log, cases = AuditLog.open(folder), CaseStore.open(folder)
    try:
        yield VisibleGallery(gallery, caller, Removals(gallery, log), cases, OWN)
    finally:
        await gallery.close()
        await log.close()
        await cases.close()


def plain(record: Record | None) -> Any:
    return None if record is None else (record.id, record.camera_id, dict(record.metadata), record.embedding.tolist())


async def answer(gallery: VisibleGallery, call: tuple[Any, ...]) -> Any:
    """Return everything that a caller learns from a call."""
    try:
        match call:
            case ("get", id_):
                return plain(await gallery.get(id_)), await gallery.thumbnail(id_)
            case ("list", filter_, limit):
                pages, cursor = [], None
                while True:
                    page = await gallery.list(filter_, limit=limit, cursor=cursor)
                    pages.append([plain(record) for record in page.items])
                    if (cursor := page.next_cursor) is None:
                        return pages
            case ("search", seed, top_k, filter_, min_score, camera):
                query = record_of("", None, seed).embedding
                found = await gallery.search(query, top_k, filter_, min_score, camera)
                hits = [(plain(hit.record), hit.score, hit.centred) for hit in found.hits]
                return hits, found.searched, found.exact, gallery.score_mode
            case ("erase", filter_, dry_run):
                erasure = await gallery.erase(filter_, dry_run=dry_run)
                return erasure.matched, erasure.erased, sorted(erasure.ids)
            case ("delete", id_):
                return await gallery.delete(id_)
            case ("add", record):
                return await gallery.add(record)
            case ("put", record):
                return await gallery.put(record)
            case _:
                return await gallery.count()
    except GalleryError as error:
        return type(error), str(error)


FILTERS = st.builds(
    Filter,
    camera_ids=st.none() | st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=2, unique=True).map(tuple),
    exclude_camera_ids=st.lists(st.sampled_from(["a", "c"]), max_size=1).map(tuple),
    after=st.none() | st.just(WHEN),
    metadata=st.just({}) | st.builds(lambda seed: {"seed": seed}, st.integers(0, 3)),
    exclude_ids=st.lists(st.sampled_from(IDS), max_size=2).map(tuple),
)
LISTED = st.builds(lambda camera: Filter(camera_ids=camera), st.none() | st.sampled_from([("a",), ("b",), ("c",)]))
RECORDS = st.builds(record_of, st.sampled_from(IDS), st.sampled_from(CAMERAS), st.integers(0, 50))
CALLS = st.one_of(
    st.tuples(st.just("get"), st.sampled_from(IDS)),
    st.tuples(st.just("list"), LISTED, st.integers(1, 4)),
    st.tuples(
        st.just("search"), st.integers(0, 4), st.integers(1, 5), FILTERS, st.none() | st.just(0.2),
        st.sampled_from(["a", "c", None]),
    ),
    st.tuples(st.just("erase"), FILTERS, st.booleans()),
    st.tuples(st.just("delete"), st.sampled_from(IDS)),
    st.tuples(st.sampled_from(["add", "put"]), RECORDS),
    st.tuples(st.just("count")),
)  # fmt: skip


def named_as_the_service_requires(record: Record) -> bool:
    """A camera's name begins ids of its own records only; see `VisibleGallery.check_id`."""
    owner = camera_named_by(record.id)
    return owner not in OWN or record.camera_id == owner


@settings(max_examples=12, deadline=None)
@given(
    st.lists(RECORDS.filter(named_as_the_service_requires), max_size=12, unique_by=lambda record: record.id),
    st.lists(CALLS, min_size=1, max_size=12),
    st.booleans(),
)
def test_a_limited_caller_sees_what_a_gallery_of_its_cameras_would_show(
    records: list[Record], calls: list[tuple[Any, ...]], centring: bool
) -> None:
    async def main(folder: Path) -> None:
        own = [record for record in records if record.camera_id in OWN]
        async with (
            opened(folder / "all", records, LIMITED, centring=centring) as everything,
            opened(folder / "own", own, LIMITED, centring=False) as alone,
        ):
            hidden = {record.id: plain(record) for record in records if record.camera_id not in OWN}
            for call in calls:
                assert await answer(everything, call) == await answer(alone, call), call
            others = VisibleGallery(everything._gallery, ANONYMOUS, everything._removals, everything._cases)
            for id_, before in hidden.items():
                assert plain(await others.get(id_)) == before

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder)))


def test_a_dry_run_finds_cases_without_reading_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record can have a hundred kilobytes, and cases can name all records."""
    records = [record_of(name, "a", seed) for seed, name in enumerate("xyz")]

    async def main() -> None:
        async with opened(tmp_path / "data", records, ANONYMOUS, centring=False) as gallery:
            case = await gallery._cases.create("theft", "case 12/26", "ann")
            other = await gallery._cases.create("other", "case 13/26", "ann")
            for name in "xz":
                await gallery._cases.put_verdict(case.id, name, "same", "ann", "key")
            await gallery._cases.put_verdict(other.id, "y", "same", "ann", "key")
            for name in ("get", "get_all"):
                monkeypatch.setattr(EmbeddedGallery, name, lambda *_, **__: pytest.fail("a record was read"))
            monkeypatch.setattr(StoredJson, "parse", lambda _: pytest.fail("metadata were parsed"))
            erasure = await gallery.erase(Filter(metadata={"seed": 0}), dry_run=True)
            assert [(each.id, each.verdicts) for each in erasure.cases] == [(case.id, 1)]

    asyncio.run(main())


def test_nobody_else_names_records_like_those_of_a_limited_camera(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "data", [record_of("a:old", "c", 1)], LIMITED, centring=False) as limited:
            others = VisibleGallery(limited._gallery, ANONYMOUS, limited._removals, limited._cases, OWN)
            for id_ in ("a:new", "frigate:a:new", "onvif:a:1:2"):
                with pytest.raises(CameraRefused, match="id: a key is limited to the camera a"):
                    await others.put(record_of(id_, "c", 1))
                await limited.put(record_of(id_, "a", 1))
            for id_ in ("frigate:c:new", "frigate:a", "hall:a:new", "frigate:c:a:new"):
                with pytest.raises(CameraRefused, match="such as a:"):
                    await limited.put(record_of(id_, "a", 1))
            await others.put(record_of("a:new", "a", 1))
            await others.put(record_of("c:new", "b", 1))
            with pytest.raises(DuplicateId):  # named before the key was made
                await limited.put(record_of("a:old", "a", 1))
            with pytest.raises(CameraRefused, match="camera_id: this key is limited"):
                await limited.put(record_of("a:new", None, 1))
            with pytest.raises(CameraRefused, match="such as a:other"):
                await limited.put(record_of("other", "a", 1))
            assert not await limited.put(replace(record_of("c:new", "a", 2)))  # it sees this one
            with pytest.raises(InvalidArgument):
                await limited.list(Filter(camera_ids=("c",)), limit=1, cursor="x")

    asyncio.run(main())
