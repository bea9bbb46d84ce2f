"""Whether a tracklet is enrolled already, from the same footage, and which id a new one gets.

A record's metadata says where its footage was and has a digest of it. The digest covers the size of each file and the
content of a few, so that a resumed run compares a hundred thousand tracklets without reading all their frames.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path

from not3d.client import Client, ProblemError
from not3d.client.responses import Record
from not3d.enrol.tracklets import FootageError, Item, ListedTracklet, LocalTracklet
from training.datasets.files import IMAGE_SUFFIXES, natural_key

LISTED_PER_LOOKUP = 200
"""Asking for one id takes as long as listing about so many records."""
DIGEST = "footage_digest"
"""The key of the digest in a record's metadata."""
_IDENTITY = ("source", "tracklet", "track", "box")
"""Keys of the metadata that say which footage a record is from."""
_DIGEST_LENGTH = 32
_COMPARED_TOGETHER = 1000
_PIECE = 2**20
"""Bytes at the beginning, in the middle and at the end of a video that the digest covers."""


class Comparison(StrEnum):
    """How a record compares with a tracklet: `same` footage, `changed` since then, or `other` footage."""

    SAME = "same"
    CHANGED = "changed"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class EnrolledFootage:
    """What is known of the footage of a record; an empty text is unknown."""

    camera: str
    origin: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, record: Record) -> "EnrolledFootage":
        """Return what a record says about its footage."""
        facts = [record.metadata.get(key, "") for key in (*_IDENTITY, DIGEST)]
        *origin, digest = (fact if isinstance(fact, str) else "" for fact in facts)
        return cls(record.camera_id or "", tuple(origin), digest)


@dataclass
class Plan:
    """What to send, under which ids, and what not.

    `skipped` are ids whose footage is enrolled; `unverified` those of them whose records have no digest. `refused` are
    tracklets whose id is enrolled from other footage, with the reason.
    """

    send: list[Item] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)
    refused: list[tuple[Item, str]] = field(default_factory=list)


def find_enrolled(
    client: Client, ids: Collection[str], found: Callable[[int], None] = lambda _count: None
) -> dict[str, EnrolledFootage]:
    """Return the ids that are enrolled already, with what their records say about their footage.

    If there are many, the ids of the gallery are listed page by page; a few ids in a large gallery are asked for one by
    one.

    Args:
        client: of the service.
        ids: of the tracklets to enrol.
        found: called now and then with the number of ids found so far.

    Raises:
        ClientError: the service refuses or does not answer.
    """
    facts = client.info()
    wanted, enrolled = set(ids), dict[str, EnrolledFootage]()
    if len(wanted) * LISTED_PER_LOOKUP < facts.gallery["records"]:
        for name in wanted:
            if (record := find_record(client, name)) is not None:
                enrolled[name] = EnrolledFootage.of(record)
                found(len(enrolled))
        return enrolled
    cursor: str | None = None
    while True:
        page = client.list(limit=facts.limits["max_page"], cursor=cursor)
        enrolled.update((record.id, EnrolledFootage.of(record)) for record in page.items if record.id in wanted)
        found(len(enrolled))
        cursor = page.next_cursor
        if cursor is None:
            return enrolled


def find_record(client: Client, name: str) -> Record | None:
    """Return the record, or `None` if the id is not enrolled."""
    try:
        return client.get(name)
    except ProblemError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return None


def make_plan(
    items: Iterable[Item],
    enrolled: Mapping[str, EnrolledFootage],
    *,
    replace_existing: bool = False,
    compared: Callable[[int], None] = lambda _count: None,
) -> Plan:
    """Compare tracklets with the records that have their ids.

    Args:
        items: the tracklets.
        enrolled: from `find_enrolled`, of all `id` and `fallback_id`.
        replace_existing: send also what is enrolled, to replace its record.
        compared: called now and then with the number of tracklets that were compared.
    """
    plan = Plan()
    items = list(items)

    def decide(item: Item) -> tuple[str, str]:
        return _decide(item, enrolled, replace_existing=replace_existing)

    with ThreadPoolExecutor(4, thread_name_prefix="compare") as pool:
        # A few at a time: the pending results of a hundred thousand calls would need much memory.
        for start in range(0, len(items), _COMPARED_TOGETHER):
            part = items[start : start + _COMPARED_TOGETHER]
            for item, (target, reason) in zip(part, pool.map(decide, part), strict=True):
                if reason:
                    plan.refused.append((item, reason))
                elif target in enrolled and not replace_existing:
                    plan.skipped.append(target)
                    if not enrolled[target].digest:
                        plan.unverified.append(target)
                else:
                    plan.send.append(item if target == item.id else replace(item, id=target))
            compared(start + len(part))
    return plan


def _decide(item: Item, enrolled: Mapping[str, EnrolledFootage], *, replace_existing: bool) -> tuple[str, str]:
    """Return the id of the item, enrolled if its footage is, and why it cannot be sent, if so."""
    free = ""
    for candidate in dict.fromkeys((item.id, item.fallback_id or item.id)):
        record = enrolled.get(candidate)
        if record is None:
            free = free or candidate
            continue
        try:
            comparison, reason = compare(item, record, replace_existing=replace_existing)
        except (FootageError, OSError) as error:
            return candidate, f"cannot be read: {error}"
        if comparison is not Comparison.OTHER:
            return candidate, "" if replace_existing else reason
    return (free, "") if free else (item.id, f"its id is enrolled from other footage; {_CURE}")


_CURE = "--id-prefix gives other ids, --replace replaces the record"


def compare(item: Item, record: EnrolledFootage, *, replace_existing: bool = False) -> tuple[Comparison, str]:
    """Compare a tracklet with a record that has its id.

    Returns:
        The result, and the reason why the tracklet cannot count as enrolled, "" if it can.

    Raises:
        FootageError, OSError: the footage cannot be read.
    """
    origin = tuple(item.origin.get(key, "") for key in _IDENTITY)
    if not any(record.origin):
        return Comparison.CHANGED, f"its id is enrolled, and the record does not say from which footage; {_CURE}"
    other_camera = bool(record.camera and item.camera and record.camera != item.camera)
    moved = record.origin != origin
    if (moved and not _may_be_moved(record, origin)) or (other_camera and not replace_existing):
        return Comparison.OTHER, ""
    same = not record.digest or record.digest == digest_of(item)
    if moved and not same:
        return Comparison.OTHER, ""
    if other_camera and not (record.digest and same):
        return Comparison.OTHER, ""
    if not same:
        return Comparison.CHANGED, f"its id is enrolled from footage of the same name with other frames; {_CURE}"
    if item.camera and not record.camera:
        return (
            Comparison.CHANGED,
            f"the same footage is enrolled without a camera, not with camera {item.camera}; {_CURE}",
        )
    return Comparison.SAME, ""


def _may_be_moved(record: EnrolledFootage, origin: tuple[str, ...]) -> bool:
    """Return whether a record may be of the same folder, reached from a folder further up or down."""
    ours, theirs = (f"/{source}" for source in (origin[0], record.origin[0]))
    return bool(record.digest) and record.origin[2:] == origin[2:] and (ours.endswith(theirs) or theirs.endswith(ours))


def digest_of(item: Item) -> str:
    """Return the digest of a tracklet's footage and boxes.

    Raises:
        OSError: a file cannot be read.
    """
    return _digest_of_folder(item.folder) if isinstance(item, ListedTracklet) else _digest_of_tracklet(item)


def _digest_of_folder(folder: str) -> str:
    """Return the same digest as of the opened tracklet; here each file costs one call of the system."""
    with os.scandir(folder) as entries:
        frames = [
            (natural_key(entry.name), entry.path, entry.stat().st_size)
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - a path for each takes long
            and not entry.name.startswith(".")
            and entry.is_file()
        ]
    frames.sort()
    digest = hashlib.sha256(repr([size for _, _, size in frames]).encode())
    for index in _sample(len(frames)):
        digest.update(Path(frames[index][1]).read_bytes())
    return digest.hexdigest()[:_DIGEST_LENGTH]


def _digest_of_tracklet(tracklet: LocalTracklet) -> str:
    if tracklet.digest:
        return tracklet.digest
    digest = hashlib.sha256()
    if tracklet.video is not None:
        status = tracklet.video.stat()
        digest.update(_digest_of_video(tracklet.video, status.st_size, status.st_mtime_ns))
    else:
        frames = tracklet.frames
        sizes = [frame.stat().st_size if isinstance(frame, Path) else len(frame) for frame in frames]
        digest.update(repr(sizes).encode())
        for index in _sample(len(frames)):
            frame = frames[index]
            digest.update(frame.read_bytes() if isinstance(frame, Path) else frame)
    if tracklet.boxes:
        digest.update(repr([tuple(map(float, box)) for box in tracklet.boxes]).encode())
    return digest.hexdigest()[:_DIGEST_LENGTH]


def _sample(count: int) -> list[int]:
    """Return the indices of the frames whose content is in the digest."""
    return sorted({0, count // 2, count - 1}) if count else []


@lru_cache(64)
def _digest_of_video(path: Path, size: int, changed: int) -> bytes:  # noqa: ARG001 - they are part of the key
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in (0, max(0, size // 2 - _PIECE // 2), max(0, size - _PIECE)):
            file.seek(start)
            digest.update(file.read(_PIECE))
    return digest.digest()
