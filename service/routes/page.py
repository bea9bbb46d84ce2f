"""The search page at `/`: static files of the package, below a path that changes with their content."""

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.http.dependencies import NO_QUERY
from service.http.problems import Problem

FOLDER: Final = Path(__file__).parents[1] / "page"
SEGMENT: Final = "page"
PLACEHOLDER: Final = b"{files}"
"""In `index.html`, where the address of the other files belongs."""
MODULES: Final = b"{modules}"
"""In `index.html`, where the names of all modules belong."""
MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY: Final = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",  # blob: pictures that the operator adds, and thumbnails that need a key
        "media-src blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",  # no text ever becomes markup
        "trusted-types 'none'",
    ]
)
_COMMENT: Final = re.compile(rb"^[ \t]*(//.*|/\*(?s:.*?)\*/[ \t]*)\n", re.MULTILINE)
_INDENTATION: Final = re.compile(rb"^[ \t]+", re.MULTILINE)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "Vary": "Accept-Encoding",
}

router = APIRouter(include_in_schema=False)
"""Needs no key: these files hold nothing about people. Everything else that the page asks for does."""


@router.get("/", dependencies=NO_QUERY)
async def read_page(request: Request) -> Response:
    """Return the page.

    Its links start with the path prefix if one is known. Otherwise they are relative, so that they also work behind a
    proxy that removes a prefix without saying so.
    """
    prefix: str = request.scope.get("root_path", "")
    files = load_files()
    address = f"{prefix}/{SEGMENT}/{files.version}" if prefix else f"{SEGMENT}/{files.version}"
    page = _File.of(files.index.replace(PLACEHOLDER, address.encode()), "text/html; charset=utf-8")
    return _answer(request, page, "no-cache")


@router.get(f"/{SEGMENT}/{{version}}/{{name:path}}", dependencies=NO_QUERY)
async def read_file(request: Request, version: str, name: str) -> Response:
    """Return one of the page's files. Its address holds a hash of all of them, so a browser may keep it for ever."""
    files = load_files()
    found = files.by_name.get(name) if version == files.version else None
    if found is None:
        raise Problem("not-found", "no such file of the search page; load the page again")
    return _answer(request, found, "public, max-age=31536000, immutable")


@dataclass(frozen=True)
class _File:
    """A file as it is sent, plain and compressed."""

    data: bytes
    compressed: bytes
    media_type: str
    etag: str

    @classmethod
    def of(cls, data: bytes, media_type: str) -> "_File":
        etag = f'W/"{hashlib.sha256(data).hexdigest()[:32]}"'
        return cls(data, gzip.compress(data, mtime=0), media_type, etag)


@dataclass(frozen=True)
class PageFiles:
    """The files of the page. `version` is a hash of all of them."""

    index: bytes
    by_name: Mapping[str, _File]
    version: str


@cache
def load_files() -> PageFiles:
    """Read the files of the page, once in a process."""
    paths = sorted(path for path in FOLDER.rglob("*") if path.suffix in MEDIA_TYPES)
    by_name = {path.relative_to(FOLDER).as_posix(): _File.of(_read(path), MEDIA_TYPES[path.suffix]) for path in paths}
    modules = " ".join(name for name in by_name if name.endswith(".js"))
    index = (FOLDER / "index.html").read_bytes().replace(MODULES, modules.encode())
    everything = hashlib.sha256(index)
    for name, file in by_name.items():
        everything.update(f"\n{name} {file.etag}".encode())
    return PageFiles(index, by_name, everything.hexdigest()[:16])


def _read(path: Path) -> bytes:
    """Return a file as it is sent: ours without indentation and without the comments that have lines of their own."""
    data = path.read_bytes()
    is_ours = path.suffix in {".js", ".css"} and path.parent == FOLDER
    return _INDENTATION.sub(b"", _COMMENT.sub(b"", data)) if is_ours else data


def _answer(request: Request, file: _File, cache_control: str) -> Response:
    headers = HEADERS | {"Cache-Control": cache_control, "ETag": file.etag}
    known = request.headers.get("if-none-match", "")
    if known == "*" or file.etag in [tag.strip() for tag in known.split(",")]:
        return Response(status_code=304, headers=headers)
    if re.search(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", request.headers.get("accept-encoding", "")):
        return Response(file.compressed, headers=headers | {"Content-Encoding": "gzip"}, media_type=file.media_type)
    return Response(file.data, headers=headers, media_type=file.media_type)
