"""Entries of the audit log, and the hash chain that shows whether one was changed, removed or inserted.

An entry has a head and parts. The first part has the details of what happened, and there is one more part for each
record that it names, with its id and score. The head has the digest of each part and the hash of the previous entry:

    digest = SHA-256(salt + content)                the content is canonical JSON
    hash   = SHA-256(canonical JSON of the head)

To erase a part, its salt and content are removed and its digest stays. So the chain can still be verified. The salt of
16 random bytes keeps a digest from telling which of all possible ids it was made of.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from json.encoder import encode_basestring_ascii
from math import isfinite
from typing import Any, Final, Literal, TypeAlias

from pydantic import JsonValue

from service.gallery.clock import format_timestamp

# fmt: off
Kind: TypeAlias = Literal[
    "search", "read_vectors", "replace", "change", "delete", "erase", "expire", "verdict", "case", "export",
    "watchlist", "key", "session", "cut",
]
# fmt: on
"""What an entry is about. `cut`: older entries were removed, because their time in the log is over."""
START: Final = bytes(32)
"""The hash before the first entry."""
SALT_BYTES: Final = 16

_encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
canonical = _encoder.encode
"""Returns a JSON value as text: sorted keys, no spaces, ASCII."""
_HIT: Final = frozenset({"id", "rank", "role", "score"})


def canonical_record(content: Mapping[str, JsonValue]) -> str:
    """Return what `canonical` returns, in a third of the time for a hit of a search, of which an entry has many."""
    if content.keys() == _HIT:
        name, rank, role, score = (content[key] for key in ("id", "rank", "role", "score"))
        if isinstance(name, str) and isinstance(role, str) and type(rank) is int and _is_finite(score):
            quote = encode_basestring_ascii
            return f'{{"id":{quote(name)},"rank":{rank},"role":{quote(role)},"score":{score!r}}}'
    return canonical(content)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an entry. Once it is erased, it has its digest only."""

    digest: bytes
    salt: bytes | None
    content: str | None

    @classmethod
    def of(cls, content: Mapping[str, JsonValue], salt: bytes) -> "Part":
        """Return a new part."""
        text = canonical_record(content)
        return cls(digest_of(salt, text), salt, text)

    def erased(self) -> "Part":
        """Return this part without its content."""
        return Part(self.digest, None, None)

    @property
    def intact(self) -> bool:
        """Whether the content, unless it was erased, is what the digest was made of."""
        if self.salt is None or self.content is None:
            return self.salt is None and self.content is None
        return digest_of(self.salt, self.content) == self.digest


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the audit log. `by` is the name of a key or user, or what else acted, such as `expiry`."""

    position: int
    receipt: str
    time: datetime
    kind: Kind
    by: str
    parts: tuple[Part, ...]
    previous: bytes
    hash: bytes

    @property
    def details(self) -> dict[str, JsonValue]:
        """What happened; empty if it was erased."""
        return _parse(self.parts[0])

    @property
    def records(self) -> list[dict[str, JsonValue]]:
        """The records that the entry names, without those that were erased."""
        return [_parse(part) for part in self.parts[1:] if part.content is not None]

    @property
    def erased_records(self) -> int:
        """How many records the entry named that were erased since."""
        return sum(part.content is None for part in self.parts[1:])

    def to_json(self) -> dict[str, Any]:
        """Return the entry as `not3d audit export` writes it; `read_json` reads it."""
        return {
            "position": self.position,
            "receipt": self.receipt,
            "time": format_timestamp(self.time),
            "kind": self.kind,
            "by": self.by,
            "parts": [
                {"digest": part.digest.hex()}
                | ({} if part.salt is None else {"salt": part.salt.hex(), "content": json.loads(part.content or "{}")})
                for part in self.parts
            ],
            "previous": self.previous.hex(),
            "hash": self.hash.hex(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Entry":
        """Read what `to_json` returned. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        parts = tuple(
            Part(
                bytes.fromhex(part["digest"]),
                bytes.fromhex(part["salt"]) if "salt" in part else None,
                canonical(part["content"]) if "content" in part else None,
            )
            for part in value["parts"]
        )
        return cls(
            int(value["position"]),
            value["receipt"],
            datetime.fromisoformat(value["time"]),
            value["kind"],
            value["by"],
            parts,
            bytes.fromhex(value["previous"]),
            bytes.fromhex(value["hash"]),
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """The first entry at which a chain is not what was written, and why."""

    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found: the entries that were checked, the last of them, and what is wrong."""

    entries: int
    position: int
    hash: bytes
    fault: Fault | None


def digest_of(salt: bytes, content: str) -> bytes:
    """Return the digest of a part."""
    return hashlib.sha256(salt + content.encode("ascii")).digest()


def hash_of(
    position: int, receipt: str, time: str, kind: str, by: str, digests: Iterable[bytes], previous: bytes
) -> bytes:
    """Return the hash of an entry; `time` is RFC 3339."""
    head = {
        "position": position,
        "receipt": receipt,
        "time": time,
        "kind": kind,
        "by": by,
        "parts": [digest.hex() for digest in digests],
        "previous": previous.hex(),
    }
    return hashlib.sha256(canonical(head).encode("ascii")).digest()


def verify(entries: Iterable[Entry], position: int = 0, previous: bytes = START) -> Verification:
    """Check a chain of entries, oldest first, that follows the entry at `position` with the hash `previous`."""
    count = 0
    for entry in entries:
        if fault := _find_fault(entry, position, previous):
            return Verification(count, position, previous, Fault(entry.position, fault))
        count, position, previous = count + 1, entry.position, entry.hash
    return Verification(count, position, previous, None)


def _find_fault(entry: Entry, position: int, previous: bytes) -> str | None:
    if entry.position != position + 1:
        return f"follows entry {position}: entries between them are missing, or the order was changed"
    if entry.previous != previous:
        return f"does not follow entry {position}: one of the two was replaced"
    digests = [part.digest for part in entry.parts]
    time = format_timestamp(entry.time)
    if entry.hash != hash_of(entry.position, entry.receipt, time, entry.kind, entry.by, digests, previous):
        return "was changed: its hash is of other contents"
    if not all(part.intact for part in entry.parts):
        return "was changed: a part does not have the content that its digest was made of"
    return None


def _is_finite(score: JsonValue) -> bool:
    return type(score) is float and isfinite(score)


def _parse(part: Part) -> dict[str, JsonValue]:
    parsed: dict[str, JsonValue] = json.loads(part.content or "{}")
    return parsed
