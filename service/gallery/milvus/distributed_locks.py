"""Turns: of all replicas, one at a time changes the records of an id."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import uuid4

from service.gallery import clock
from service.gallery.milvus.connection import Connection
from service.gallery.milvus.expressions import quoted, quoted_list
from service.gallery.records import GalleryError, GalleryUnavailable

log = logging.getLogger(__name__)

_CHOOSING, _WAITING, _DONE = 0, 1, 2
_LEASE_SECONDS = 60.0
"""After which a claim binds nobody: its holder is dead. The replicas' clocks may differ by half of it."""
_LONGEST_TURN_SECONDS = 15.0
"""A holder that took longer gives up before it writes, long before others believe it dead."""
_LONGEST_WAIT_SECONDS = 10.0
_SWEEP_SECONDS = 300.0
_AT_ONCE = 2000


@dataclass(slots=True)
class _Turn:
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class DistributedLocks:
    """Locks by name, over threads, processes and machines.

    Milvus has no unique keys and no conditional writes, so the replicas agree by Lamport's bakery algorithm ("A new
    solution of Dijkstra's concurrent programming problem", 1974), in a collection of claims read with strong
    consistency. A claim is first written without a number, *choosing*. Who then sees no other claim on its names is
    alone and goes on; this is nearly always so, and costs one read, which runs beside the one that looks for the record
    itself. Who sees others takes a number above all of theirs, and waits for those who are still choosing or have a
    smaller one. As everybody writes before reading, of two at once at least one sees the other.

    A claim that is done stays for minutes, marked so, since somebody may have looked for the record just before it
    was written, and for claims only after.
    """

    def __init__(self, connection: Connection, collection: str) -> None:
        self._connection = connection
        self._collection = collection
        self._process = uuid4().hex
        self._serial = count()
        self._mutex = threading.Lock()
        self._turns: dict[str, _Turn] = {}
        self._swept = time.monotonic()

    @contextmanager
    def place(self, names: Sequence[str]) -> Iterator["Claim"]:
        """Claim names until the block ends; ask the claim whether it is `contested` before relying on it."""
        with ExitStack() as stack:
            for name in sorted(names):  # in one order, so that nobody waits in a circle
                stack.enter_context(self._alone_here(name))
            claim = Claim(self._connection, self._collection, self._process, next(self._serial), names)
            claim.write(_CHOOSING)
            try:
                yield claim
            finally:
                try:
                    claim.write(_DONE)
                except GalleryError as error:  # what was done under the claim is done
                    log.debug("a claim is left to run out: %s", error)
        self._sweep()

    @contextmanager
    def _alone_here(self, name: str) -> Iterator[None]:
        with self._mutex:
            turn = self._turns.setdefault(name, _Turn())
            turn.users += 1
        try:
            with turn.lock:
                yield
        finally:
            with self._mutex:
                turn.users -= 1
                if not turn.users:
                    del self._turns[name]

    def _sweep(self) -> None:
        if time.monotonic() - self._swept < _SWEEP_SECONDS:
            return
        self._swept = time.monotonic()
        try:
            old = clock.now() - int(2 * _LEASE_SECONDS * 1e6)
            self._connection.delete(self._collection, f"made_at < {old}")
        except GalleryError as error:
            log.debug("old claims are left for the next time: %s", error)


class Claim:
    """One caller's claim on some names."""

    def __init__(
        self, connection: Connection, collection: str, process: str, serial: int, names: Sequence[str]
    ) -> None:
        self._connection = connection
        self._collection = collection
        self._process = process
        self._key = f"{process}-{serial:x}"
        self._names = names
        self._number = 0
        self._made_at = clock.now()
        self._begun = time.monotonic()

    def write(self, state: int) -> None:
        """Let the others know of it."""
        self._connection.upsert(
            self._collection,
            [
                {
                    "claim": f"{self._key}-{place:x}",
                    "vector": [0.0, 0.0],
                    "name": name,
                    "number": self._number,
                    "made_at": self._made_at,
                    "state": state,
                }
                for place, name in enumerate(self._names)
            ],
        )

    def contested(self) -> bool:
        """Whether another process has, or a moment ago had, a claim on one of the names.

        Then call `wait`, and look for the records again afterwards. Otherwise what has been looked up since the claim
        was written stands.
        """
        return bool(self._others())

    def wait(self) -> None:
        """Wait for this claim's turn. Raises `GalleryUnavailable` where it does not come in time."""
        others = self._others()
        if all(other["state"] == _DONE for other in others):
            return
        self._number = 1 + max(other["number"] for other in others)
        self.write(_WAITING)
        while any(self._is_before(other) for other in self._others()):
            if time.monotonic() - self._begun > _LONGEST_WAIT_SECONDS:
                raise GalleryUnavailable("another replica is changing the same records, or died while it did")

    def check(self) -> None:
        """To be called just before writing. Raises `GalleryUnavailable` where the turn has taken too long."""
        if time.monotonic() - self._begun > _LONGEST_TURN_SECONDS:
            raise GalleryUnavailable("Milvus answers too slowly for a safe change")

    def _is_before(self, other: Mapping[str, Any]) -> bool:
        if other["state"] == _DONE:
            return False
        key = other["claim"].rpartition("-")[0]
        return other["state"] == _CHOOSING or (other["number"], key) < (self._number, self._key)

    def _others(self) -> list[Mapping[str, Any]]:
        """The claims of other processes that still bind. Those of this one took their turns before this was written."""
        since = clock.now() - int(_LEASE_SECONDS * 1e6)
        found: list[Mapping[str, Any]] = []
        for start in range(0, len(self._names), _AT_ONCE):
            names = quoted_list(self._names[start : start + _AT_ONCE])
            where = f"name in {names} and made_at > {since} and not (claim like {quoted(self._process + '-%')})"
            found += self._connection.query(self._collection, where, ["claim", "number", "state"])
        return found
