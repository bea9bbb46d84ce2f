"""Addresses of records in answers, below the path prefix under which a proxy publishes the service."""

from typing import Final

from fastapi import Request

SEGMENT: Final = "gallery"


def record_location(request: Request, tracklet: str) -> str:
    """Return the `Location` of a record.

    If the prefix is known, it is an absolute path. Otherwise it is relative to the path of the request (RFC 9110,
    section 10.2.2), so it is also right behind a proxy that removes a prefix without saying so.
    """
    prefix: str = request.scope.get("root_path", "")
    if prefix:
        return f"{prefix}/{SEGMENT}/{tracklet}"
    path: str = request.scope["path"]
    return "../" * (path.count("/") - 1) + f"{SEGMENT}/{tracklet}"


def thumbnail_url(request: Request, tracklet: str) -> str:
    """Return the path of a record's thumbnail, with the prefix if one is known."""
    return f"{request.scope.get('root_path', '')}/{SEGMENT}/{tracklet}/thumbnail"
