"""The gallery: a searchable store of tracklet embeddings.

A record is one enrolled tracklet: its embedding, camera, times, metadata and, if given, a thumbnail. A gallery finds
the records nearest to a query by cosine, and filters them by camera, time and metadata. All embeddings of a gallery
are of one model, because vectors of different models cannot be compared. `protocol.py` defines what every gallery
does, and `records.py` what it stores and returns, with its errors. There are two engines. `embedded` needs no server:
SQLite stores the records in a directory, and an index in memory finds them. `milvus` stores them on a Milvus server,
which any number of service processes can share. `opening.py` opens the gallery that the settings name. `archive` works
on the files of the embedded gallery: snapshots, checks, Parquet. To add an engine, write a subclass of `Gallery`, open
it in `opening.py`, and add it to `tests/service/gallery/engines.py`, so that the tests of the protocol run on it.
"""

from service.gallery.protocol import Gallery
from service.gallery.records import (
    JSON,
    AuditEntry,
    CameraSummary,
    DiskFull,
    DuplicateId,
    EmptyFilter,
    Erasure,
    Filter,
    GalleryBroken,
    GalleryError,
    GalleryLocked,
    GalleryUnavailable,
    Hit,
    InvalidArgument,
    OnConflict,
    OtherCount,
    Page,
    Record,
    ScoreMode,
    SearchResult,
    SpaceMismatch,
    StorageLost,
    TimeOfDay,
)

__all__ = [
    "JSON",
    "AuditEntry",
    "CameraSummary",
    "DiskFull",
    "DuplicateId",
    "EmptyFilter",
    "Erasure",
    "Filter",
    "Gallery",
    "GalleryBroken",
    "GalleryError",
    "GalleryLocked",
    "GalleryUnavailable",
    "Hit",
    "InvalidArgument",
    "OnConflict",
    "OtherCount",
    "Page",
    "Record",
    "ScoreMode",
    "SearchResult",
    "SpaceMismatch",
    "StorageLost",
    "TimeOfDay",
]
