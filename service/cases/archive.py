"""The zip file of a case: what is in it, how it is written, and whether a file is what the service wrote."""

import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from model.errors import Not3dError

FORMAT: Final = "not3d-case-1"
MANIFEST: Final = "manifest.json"
MAX_FILES: Final = 100_000
MAX_BYTES: Final = 2 * 2**30
"""Maximum bytes of all files of a case together."""
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip file can name: the same for every file, so that equal cases give equal files."""
_STEP: Final = 2**20
_END_BYTES: Final = 22
"""Bytes at the end of a zip file without a comment."""


class CaseFileError(Not3dError):
    """A file is not the case that the service wrote."""


def write_archive(files: Mapping[str, bytes], case: str) -> bytes:
    """Return a zip file of these files with a manifest of their SHA-256. Equal files give equal bytes.

    Nothing is compressed: pictures hardly shrink, and different versions of zlib compress differently.
    """
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    manifest = {"format": FORMAT, "case": case, "files": digests}
    everything = {**files, MANIFEST: to_json(manifest)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(everything):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3  # Unix, on every system
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, everything[name])
    return buffer.getvalue()


def to_json(value: Mapping[str, Any], **lists: Sequence[bytes]) -> bytes:
    """Return a JSON object as a file: UTF-8, sorted keys, two spaces.

    Args:
        value: the object, without the fields of `lists`.
        lists: fields that are lists of values which `indent_json` wrote at the depth 4.
    """
    texts = {key: indent_json(each, 2) for key, each in value.items()}
    texts |= {key: b"[\n    " + b",\n    ".join(each) + b"\n  ]" if each else b"[]" for key, each in lists.items()}
    fields = (b"  " + json.dumps(key, ensure_ascii=False).encode() + b": " + texts[key] for key in sorted(texts))
    return b"{\n" + b",\n".join(fields) + b"\n}\n"


def indent_json(value: Any, depth: int) -> bytes:
    """Return a JSON value as `to_json` writes it after so many spaces."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    return text.replace("\n", "\n" + " " * depth).encode()


def verify_archive(path: Path) -> tuple[str, str]:
    """Check that a file is a case as the service wrote it: every file is there, unchanged, and no other one.

    Nothing is written to the disk, and at most `_STEP` bytes of a file are held at a time.

    Returns:
        The id of the case, and the SHA-256 of its manifest in hex: an archive whose files and manifest were both
        replaced has another one.

    Raises:
        CaseFileError: the first thing that is wrong.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _check_entries(archive, path)
            manifest = archive.read(entries[MANIFEST])
            case, digests = _read_manifest(manifest)
            for name in sorted(digests.keys() - entries.keys()):
                raise CaseFileError(f"{name!r} is missing")
            for name in sorted(entries.keys() - digests.keys() - {MANIFEST}):
                raise CaseFileError(f"{name!r} was added: the manifest does not list it")
            for name, expected in sorted(digests.items()):
                if _digest(archive, entries[name]) != expected:
                    raise CaseFileError(f"{name!r} was changed: it does not have the SHA-256 of the manifest")
    except FileNotFoundError as error:
        raise CaseFileError(f"{path} does not exist") from error
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        # The last three: a compression that zipfile does not know, an encrypted file, a name or a size that is invalid.
        raise CaseFileError(f"{path} is not a zip file of a case, or is damaged: {error}") from error
    return case, hashlib.sha256(manifest).hexdigest()


def _check_entries(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the entries by name, after a check of what can be said without reading them."""
    infos = archive.infolist()
    if len(infos) > MAX_FILES:
        raise CaseFileError(f"it has {len(infos)} files, more than the {MAX_FILES} of any case")
    entries: dict[str, zipfile.ZipInfo] = {}
    size = 0
    for info in infos:
        name = info.orig_filename
        if name in entries:
            raise CaseFileError(f"duplicate file {name!r}")
        parts = name.split("/")
        if not name.isascii() or not name.isprintable() or any(part in ("", ".", "..") for part in parts):
            raise CaseFileError(f"{name[:200]!r} is not the name of a file of a case")
        if "\\" in name or ":" in name:
            raise CaseFileError(f"{name[:200]!r} is not the name of a file of a case")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir() or kind not in (0, stat.S_IFREG):
            raise CaseFileError(f"{name!r} is not a plain file")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise CaseFileError(f"{name!r} is compressed or encrypted: the service writes plain files")
        size += info.file_size
        entries[name] = info
    if size > MAX_BYTES:
        raise CaseFileError(f"its files have {size} bytes, more than the {MAX_BYTES} of any case")
    if MANIFEST not in entries:
        raise CaseFileError(f"{MANIFEST!r} is missing")
    _check_layout(archive, infos, path)
    return entries


def _check_layout(archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo], path: Path) -> None:
    """Check that the files follow each other without a gap, and that nothing stands before, between or behind them."""
    if archive.comment or any(info.comment or info.extra for info in infos):
        raise CaseFileError("it has comments or fields that the service does not write")
    position = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset != position:
            raise CaseFileError(f"bytes were added before {info.orig_filename!r}, or files overlap")
        position += 30 + len(info.orig_filename) + info.file_size
    directory = sum(46 + len(info.orig_filename) for info in infos)
    if archive.start_dir != position or path.stat().st_size != position + directory + _END_BYTES:
        raise CaseFileError("bytes were added to it")


def _read_manifest(data: bytes) -> tuple[str, dict[str, str]]:
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CaseFileError(f"{MANIFEST!r} is not JSON") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CaseFileError(f"{MANIFEST!r} is not of the format {FORMAT}: use the version of not3d that wrote it")
    case, files = manifest.get("case"), manifest.get("files")
    if not isinstance(case, str) or not isinstance(files, dict):
        raise CaseFileError(f"{MANIFEST!r} does not name the case and its files")
    if not all(isinstance(digest, str) for digest in files.values()) or MANIFEST in files:
        raise CaseFileError(f"{MANIFEST!r} has wrong digests")
    return case, files


def _digest(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    digest = hashlib.sha256()
    with archive.open(info) as file:
        while block := file.read(_STEP):
            digest.update(block)
    return digest.hexdigest()
