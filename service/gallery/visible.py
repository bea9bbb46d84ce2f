"""What one caller sees of the gallery: all records, or only those of some cameras."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from service.audit.removals import Removals
from service.callers import Caller
from service.cases.store import CaseStore
from service.gallery.async_gallery import AsyncGallery
from service.gallery.records import (
    CameraSummary,
    Erasure,
    Filter,
    GalleryError,
    NamingCase,
    Page,
    Record,
    ScoreMode,
    SearchResult,
)
from service.ids import camera_named_by


class CameraRefused(GalleryError):
    """A caller may not enrol a record of this camera, or under this id. The message begins with the field."""

    @property
    def field(self) -> str:
        """The field at fault: `camera_id` or `id`."""
        return str(self).partition(":")[0]


class VisibleGallery:
    """The gallery as one caller sees it. Routes use nothing else, so that no call can forget the limit.

    For a caller who is limited to cameras, records of other cameras and records without a camera do not exist: every
    answer is that of a gallery without them. The methods are those of `Gallery`.
    """

    def __init__(
        self,
        gallery: AsyncGallery,
        caller: Caller,
        removals: Removals,
        cases: CaseStore,
        reserved: frozenset[str] = frozenset(),
    ) -> None:
        """`reserved` are the cameras to which any key is limited: see `check_id`."""
        self._gallery, self._caller, self._removals, self._cases = gallery, caller, removals, cases
        self._reserved = reserved
        self.embedding_space = gallery.embedding_space
        # The rest of the name tells how large the gallery is.
        self.engine = gallery.engine if caller.cameras is None else gallery.engine.partition(" (")[0]
        # Centred scores depend on the means of all cameras, so they would tell about records that do not exist here.
        self.score_mode: ScoreMode = gallery.score_mode if caller.cameras is None else "cosine"
        self._plain = self.score_mode != gallery.score_mode

    async def add(self, record: Record) -> None:
        """Enrol a new record.

        Raises:
            CameraRefused: the caller may not enrol records of this camera, or under this id.
            DuplicateId: its id exists.
        """
        self.check_camera(record.camera_id)
        await self.check_id(record.id, record.camera_id)
        await self._gallery.add(record)

    async def put(self, record: Record) -> bool:
        """Enrol a record, or replace the one with its id; return whether the id is new. Raises as `add`.

        A record that the caller does not see is never replaced, also if it changed its camera just now.
        """
        self.check_camera(record.camera_id)
        await self.check_id(record.id, record.camera_id)
        return await self._gallery.put(record, cameras=self._caller.cameras)

    async def update(self, id: str, change: Callable[[Record], Record]) -> Record | None:
        """Change one record and return it, or return `None` if there is none. Raises `CameraRefused` as `add`."""

        def checked(record: Record) -> Record:
            new = change(record)
            self.check_camera(new.camera_id)
            if self._caller.cameras is None or new.camera_id != record.camera_id:
                self._check_reserved(id, new.camera_id)
            return new

        return await self._gallery.update(id, checked, cameras=self._caller.cameras)

    async def get(self, id: str) -> Record | None:
        """Return the record with this id, or `None`."""
        return await self._gallery.get(id, cameras=self._caller.cameras)

    async def get_all(self, ids: Sequence[str]) -> Mapping[str, Record]:
        """Return the records of these ids; an id without a record is left out."""
        return await self._gallery.get_all(ids, cameras=self._caller.cameras)

    async def find_ids(self, ids: Sequence[str], filter: Filter) -> set[str]:
        """Return those of these ids that have a record that passes, as `Gallery.find_ids`."""
        return await self._gallery.find_ids(ids, filter, cameras=self._caller.cameras)

    async def thumbnail(self, id: str, frame: int | None = None) -> bytes | None:
        """Return a JPEG of this record, or `None`, as `Gallery.thumbnail`."""
        return await self._gallery.thumbnail(id, frame) if await self.get(id) else None

    async def delete(self, id: str) -> bool:
        """Remove one record, and what audit log and cases say about it; return whether it existed."""
        existed = await self._gallery.delete(id, by=self._caller.name, cameras=self._caller.cameras)
        if existed:
            self._removals.note_cases(id, await self._cases.find_naming([id]))
            await self._cases.forget([id], self._caller.cameras)
            await self._removals.copy()
        return existed

    async def list(self, filter: Filter, *, limit: int, cursor: str | None) -> Page:
        """Return one page of the records that pass a filter."""
        return await self._gallery.list(self.restrict(filter), limit=limit, cursor=cursor)

    async def cameras(self) -> Sequence[CameraSummary]:
        """Return each camera that has records, as `Gallery.cameras`."""
        return [camera for camera in await self._gallery.cameras() if self._caller.sees(camera.camera_id)]

    async def search(
        self,
        embedding: NDArray[np.float32],
        top_k: int,
        filter: Filter,
        min_score: float | None = None,
        camera_id: str | None = None,
    ) -> SearchResult:
        """Return the best `top_k` records that pass `filter`, as `Gallery.search`."""
        chosen = self.restrict(filter)
        return await self._gallery.search(embedding, top_k, chosen, min_score, camera_id, plain=self._plain)

    async def search_best(
        self,
        queries: Sequence[tuple[NDArray[np.float32], str | None]],
        top_k: int,
        filter: Filter,
        min_score: float | None = None,
    ) -> SearchResult:
        """Return the best `top_k` records by their best score with any of the queries, as `Gallery.search_best`."""
        return await self._gallery.search_best(queries, top_k, self.restrict(filter), min_score, plain=self._plain)

    async def erase(self, filter: Filter, *, dry_run: bool, expected: int | None = None) -> Erasure:
        """Remove every record that passes `filter`, and what audit log and cases say about it, or count them.

        Raises `OtherCount` if another number of records passes than `expected`.
        """
        erasure = await self._gallery.erase(
            self.restrict(filter), dry_run=dry_run, by=self._caller.name, expected=expected
        )
        if dry_run:
            return replace(erasure, cases=await self._find_cases(filter))
        cases = await self._cases.find_naming(erasure.ids)
        self._removals.note(replace(erasure, cases=cases))
        seen = cases
        if cases and self._caller.cameras is not None:
            seen = await self._cases.find_naming(erasure.ids, self._caller.cameras)
        erasure = replace(erasure, cases=seen, verdicts=await self._cases.forget(erasure.ids, self._caller.cameras))
        await self._removals.copy()
        return erasure

    async def _find_cases(self, filter: Filter) -> Sequence[NamingCase]:
        """Return the cases that name records which pass a filter, of those that the caller sees."""
        chosen: list[str] = []
        ids = await self._cases.records()
        while ids:
            chosen += sorted(await self.find_ids(ids, filter))
            ids = await self._cases.records(ids[-1])
        return await self._cases.find_naming(chosen, self._caller.cameras) if chosen else ()

    async def count(self) -> int:
        """Return how many records are enrolled."""
        if self._caller.cameras is None:
            return await self._gallery.count()
        return (await self._gallery.erase(self.restrict(Filter()), dry_run=True)).matched

    def check_camera(self, camera_id: str | None) -> None:
        """Check that the caller may enrol records of this camera. Raises `CameraRefused`."""
        if not self._caller.sees(camera_id):
            given = "no camera_id was sent" if camera_id is None else f"{camera_id} is not one of them"
            raise CameraRefused(f"camera_id: this key is limited to cameras, and {given}; send a camera_id of the key")

    async def check_id(self, id: str, camera_id: str | None) -> None:
        """Check that the caller may enrol a record of this camera under this id, or replace the one that has it.

        An id belongs to one record. A caller who is limited to cameras and could enrol under any id would learn which
        ids records of other cameras have. So such a caller names records `CAMERA:NAME`, or as a bridge
        `SOURCE:CAMERA:NAME`, and nobody can give such names to records of other cameras. Records that the caller sees
        can be replaced under any id. An id of the caller's own that another camera's record got before the key was made
        is found only when the record is enrolled (`DuplicateId`).

        Raises:
            CameraRefused: the id is not one of those that the caller can give.
        """
        if self._caller.cameras is None:
            self._check_reserved(id, camera_id)
            return
        stored = await self.get(id)
        if stored is None and camera_named_by(id) != camera_id:
            raise CameraRefused(
                f"id: a key that is limited to cameras gives new records ids that name their camera, such as "
                f"{camera_id}:{id.rpartition(':')[2]}, or as a bridge frigate:{camera_id}:{id.rpartition(':')[2]}; or "
                "POST /embed without id"
            )
        if stored is not None and stored.camera_id != camera_id:
            self._check_reserved(id, camera_id)

    def _check_reserved(self, id: str, camera_id: str | None) -> None:
        owner = camera_named_by(id)
        if owner in self._reserved and camera_id != owner:
            raise CameraRefused(
                f"id: a key is limited to the camera {owner}, so only its records have ids that name it, such as "
                f"{owner}:NAME; send another id, or this camera_id"
            )

    def restrict(self, filter: Filter) -> Filter:
        """Return the filter with the condition that the caller sees the record."""
        cameras = self._caller.cameras
        if cameras is None:
            return filter
        asked: Iterable[str] = cameras if filter.camera_ids is None else filter.camera_ids
        visible: Sequence[str] = sorted(cameras.intersection(asked))
        return replace(filter, camera_ids=tuple(visible))
