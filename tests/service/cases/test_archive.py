"""The zip file of a case: equal cases give equal bytes, and any change is found."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from service.cases.archive import MANIFEST, CaseFileError, to_json, verify_archive, write_archive

FILES = {"index.html": b"<p>hello", "case.json": b"{}", "pictures/00001-0.jpg": b"\xff\xd8\xff" + bytes(3000)}


def of(files: dict[str, bytes]) -> bytes:
    """Return a zip file of any entries, as an attacker writes one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def entries(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_equal_files_give_equal_bytes(tmp_path: Path) -> None:
    data = write_archive(FILES, "case")
    assert data == write_archive(dict(reversed(FILES.items())), "case")
    (tmp_path / "case.zip").write_bytes(data)
    case, digest = verify_archive(tmp_path / "case.zip")
    assert (case, len(digest)) == ("case", 64)
    assert entries(data).keys() == {*FILES, MANIFEST}


def changed(data: bytes) -> bytes:
    return of(entries(data) | {"index.html": b"<p>HELLO"})


def missing(data: bytes) -> bytes:
    return of({name: value for name, value in entries(data).items() if name != "case.json"})


def added(data: bytes) -> bytes:
    return of(entries(data) | {"more.txt": b"x"})


def without_manifest(data: bytes) -> bytes:
    return of({name: value for name, value in entries(data).items() if name != MANIFEST})


def one_byte(data: bytes) -> bytes:
    place = data.index(b"<p>hello")
    return data[:place] + b"<q" + data[place + 2 :]


def traversal(data: bytes) -> bytes:
    return of(entries(data) | {"../../evil.txt": b"x"})


def absolute(data: bytes) -> bytes:
    return of(entries(data) | {"/etc/evil": b"x"})


def backslash(data: bytes) -> bytes:
    return of(entries(data) | {"pictures\\evil": b"x"})


def link(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in entries(data).items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o120777 if name == "case.json" else 0o100644) << 16
            archive.writestr(entry, value)
    return buffer.getvalue()


def twice(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in entries(data).items():
            archive.writestr(zipfile.ZipInfo(name), value)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(zipfile.ZipInfo("case.json"), b"{}")
    return buffer.getvalue()


def bomb(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in (entries(data) | {"bomb": bytes(50_000_000)}).items():
            archive.writestr(name, value)
    return buffer.getvalue()


def lying_size(data: bytes) -> bytes:
    """Say in the directory that a file has 4 GB."""
    place = data.rindex(b"PK\x01\x02")
    return data[: place + 20] + struct.pack("<II", 2**32 - 2, 2**32 - 2) + data[place + 28 :]


def behind(data: bytes) -> bytes:
    return data + b"more"


def before(data: bytes) -> bytes:
    return b"#!/bin/sh\n" + data


def comment(data: bytes) -> bytes:
    return data[:-2] + struct.pack("<H", 4) + b"more"


def cut(data: bytes) -> bytes:
    return data[:-30]


def other_manifest(data: bytes) -> bytes:
    return of(entries(data) | {MANIFEST: b"[]"})


def deep_manifest(data: bytes) -> bytes:
    return of(entries(data) | {MANIFEST: b"[" * 100_000})


def no_zip(_: bytes) -> bytes:
    return b"no zip file"


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (changed, "'index.html' was changed"),
        (one_byte, "damaged|was changed"),
        (missing, "'case.json' is missing"),
        (added, r"'more.txt' was added"),
        (without_manifest, "'manifest.json' is missing"),
        (traversal, "is not the name of a file"),
        (absolute, "is not the name of a file"),
        (backslash, "is not the name of a file"),
        (link, "is not a plain file"),
        (twice, "duplicate file"),
        (bomb, "is compressed"),
        (lying_size, "bytes|damaged"),
        (behind, "bytes were added"),
        (before, "bytes were added"),
        (comment, "comments"),
        (cut, "damaged"),
        (other_manifest, "is not of the format"),
        (deep_manifest, "is not JSON|is not of the format"),
        (no_zip, "is not a zip file"),
    ],
)
def test_what_was_tampered_with_is_found(tmp_path: Path, tamper: Callable[[bytes], bytes], reason: str) -> None:
    path = tmp_path / "case.zip"
    path.write_bytes(tamper(write_archive(FILES, "case")))
    with pytest.raises(CaseFileError, match=reason):
        verify_archive(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_replaced_manifest_has_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "case.zip"
    path.write_bytes(write_archive(FILES, "case"))
    genuine = verify_archive(path)
    path.write_bytes(write_archive(FILES | {"index.html": b"forged"}, "case"))
    assert verify_archive(path)[1] != genuine[1]


def test_a_manifest_that_lists_itself_or_no_digests_is_refused(tmp_path: Path) -> None:
    for files in ({MANIFEST: "0" * 64}, {"case.json": 3}, ["case.json"]):
        path = tmp_path / "case.zip"
        manifest = {"format": "not3d-case-1", "case": "x", "files": files}
        path.write_bytes(of({"case.json": b"{}", MANIFEST: to_json(json.loads(json.dumps(manifest)))}))
        with pytest.raises(CaseFileError, match=r"wrong digests|does not name"):
            verify_archive(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CaseFileError, match="does not exist"):
        verify_archive(tmp_path / "absent.zip")
