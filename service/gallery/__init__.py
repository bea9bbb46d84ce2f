"""Where enrolled tracklets are kept and found again: the `Gallery` protocol and its engines."""

from service.gallery.protocol import Gallery
from service.gallery.records import (
    JSON,
    AuditEntry,
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
    Page,
    Record,
    SearchResult,
    SpaceMismatch,
)

__all__ = [
    "JSON",
    "AuditEntry",
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
    "Page",
    "Record",
    "SearchResult",
    "SpaceMismatch",
]
