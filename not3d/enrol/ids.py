"""Ids of tracklets: readable, and never the same for two different tracklets.

An id is the tracklet's name in the alphabet of the service. If another tracklet has that id already, or if the name
loses letters, a digest of camera, source and track is appended.
"""

import hashlib
import json
import os
import re
import unicodedata

MAX_ID_LENGTH = 128
_DIGEST_LENGTH = 12
_NO_NAME = "tracklet"


def printable(text: str) -> str:
    r"""Return the text with escapes for what cannot be printed or sent: `\xff` for a byte that is not UTF-8."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in text)


def unescaped(text: str) -> str:
    """Return the path whose `printable` form this is, as the file system names it."""
    parts = re.split(r"((?:\\x[0-9a-f]{2})+)", text)
    raw = [bytes.fromhex(part.replace("\\x", "")) if part.startswith("\\x") else os.fsencode(part) for part in parts]
    return os.fsdecode(b"".join(raw))


def readable_id(*names: str) -> tuple[str, bool]:
    """Return names as an id, and whether all their letters and digits are in it.

    Accents are removed, other characters become `-`. An id that is not complete must be completed with `with_digest`.
    """
    parts, complete = [], True
    for name in names:
        plain = unicodedata.normalize("NFKD", name)
        kept = "".join(c for c in plain if not unicodedata.combining(c))
        part = re.sub(r"[^A-Za-z0-9._:-]", "-", kept)
        if any((c.isalnum() and not c.isascii()) or "\ud800" <= c <= "\udfff" for c in kept):
            part, complete = part.strip("-"), False
        parts.append(part)
    text = "-".join(filter(None, parts))
    named = text.strip(".-_:") != ""
    complete = complete and named and all(parts) and len(text) <= MAX_ID_LENGTH
    return (text[:MAX_ID_LENGTH] if named else _NO_NAME), complete


def with_digest(readable: str, *facts: str) -> str:
    """Return an id that no other tracklet has: the readable id, then a digest of facts.

    Args:
        readable: from `readable_id`; cut to the length that is left.
        facts: camera, source and track of the tracklet, exactly as they are.
    """
    exact = json.dumps(facts)  # ASCII: other characters are escaped, each in its own way
    digest = hashlib.sha256(exact.encode("ascii")).hexdigest()[:_DIGEST_LENGTH]
    return f"{readable[: MAX_ID_LENGTH - _DIGEST_LENGTH - 1]}-{digest}"


def _escape(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
