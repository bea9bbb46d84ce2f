"""Where enrolled tracklets are kept and found again: the `Gallery` protocol and its engines."""

from service.gallery.embedded import EmbeddedGallery
from service.gallery.protocol import Gallery
from service.gallery.records import (
    JSON,
    DiskFull,
    DuplicateId,
    EmptyFilter,
    Erasure,
    Filter,
    GalleryError,
    GalleryLocked,
    Hit,
    InvalidArgument,
    Page,
    Record,
    SearchResult,
    SpaceMismatch,
)

__all__ = [
    "JSON",
    "DiskFull",
    "DuplicateId",
    "EmbeddedGallery",
    "EmptyFilter",
    "Erasure",
    "Filter",
    "Gallery",
    "GalleryError",
    "GalleryLocked",
    "Hit",
    "InvalidArgument",
    "Page",
    "Record",
    "SearchResult",
    "SpaceMismatch",
]
