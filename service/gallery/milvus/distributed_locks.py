"""Named locks in Milvus: only one replica at a time changes the record of an id."""

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
from service.gallery.milvus.schema import quoted, quoted_list
from service.gallery.records import GalleryError, GalleryUnavailable

log = logging.getLogger(__name__)

_CHOOSING, _WAITING, _RELEASED = 0, 1, 2
_LEASE_SECONDS = 60.0
"""An older request is ignored, because its process is dead. Clocks of replicas may differ by half of this time."""
_MAX_HOLD_SECONDS = 15.0
"""A process that held its locks for longer does not write. Other processes ignore its request only much later."""
_MAX_WAIT_SECONDS = 10.0
_SWEEP_SECONDS = 300.0
_NAMES_PER_QUERY = 2000


@dataclass(slots=True)
class _LocalLock:
    lock: threading.Lock = field(default_factory=threading.Lock)
    users: int = 0


class DistributedLocks:
    """Named locks across threads, processes and machines.

    Milvus has no unique keys and no conditional writes. So the replicas use Lamport's bakery algorithm ("A new solution
    of Dijkstra's concurrent programming problem", 1974) on a collection of lock requests that is read with strong
    consistency:

    1. A process writes a request without a number, in the state *choosing*.
    2. It reads the requests of other processes for the same names. If there are none, it holds the locks. This is the
       usual case and costs one read, which can run at the same time as the read of the record itself.
    3. Otherwise it takes a number above all of theirs, and waits for the processes that are still choosing or have a
       smaller number. Each process writes before it reads. So of two simultaneous processes, at least one
       sees the other.

    A released request stays in the collection for some minutes. Another process may have read the record just before it
    was written, and the requests just after: the released request tells it to read the record again.
    """

    def __init__(self, connection: Connection, collection: str) -> None:
        self._connection = connection
        self._collection = collection
        self._process = uuid4().hex
        self._serial = count()
        self._mutex = threading.Lock()
        self._local: dict[str, _LocalLock] = {}
        self._swept = time.monotonic()

    @contextmanager
    def request(self, names: Sequence[str]) -> Iterator["LockRequest"]:
        """Request locks, and release them at the end of the block. The locks are held after `LockRequest.acquire`."""
        with ExitStack() as stack:
            for name in sorted(names):  # always in the same order, so that threads cannot deadlock
                stack.enter_context(self._hold_local(name))
            request = LockRequest(self._connection, self._collection, self._process, next(self._serial), names)
            request.write(_CHOOSING)
            try:
                yield request
            finally:
                try:
                    request.write(_RELEASED)
                except GalleryError as error:  # the work is done, and the lease ends by itself
                    log.debug("lock not released, its lease will end: %s", error)
        self._sweep()

    @contextmanager
    def _hold_local(self, name: str) -> Iterator[None]:
        with self._mutex:
            local = self._local.setdefault(name, _LocalLock())
            local.users += 1
        try:
            with local.lock:
                yield
        finally:
            with self._mutex:
                local.users -= 1
                if not local.users:
                    del self._local[name]

    def _sweep(self) -> None:
        if time.monotonic() - self._swept < _SWEEP_SECONDS:
            return
        self._swept = time.monotonic()
        try:
            old = clock.now() - int(2 * _LEASE_SECONDS * 1e6)
            self._connection.delete(self._collection, f"made_at < {old}")
        except GalleryError as error:
            log.debug("old lock requests not removed, next try in %d s: %s", _SWEEP_SECONDS, error)


class LockRequest:
    """One caller's request for some locks."""

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
        """Write the request with this state to the collection, where the other processes read it."""
        self._connection.upsert(
            self._collection,
            [
                {
                    "claim": f"{self._key}-{position:x}",
                    "vector": [0.0, 0.0],
                    "name": name,
                    "number": self._number,
                    "made_at": self._made_at,
                    "state": state,
                }
                for position, name in enumerate(self._names)
            ],
        )

    def acquire(self) -> bool:
        """Wait until the locks are held.

        Returns:
            Whether another process holds one of the locks or held it a moment ago. If so, read the records again.
            Otherwise everything that was read after the request was written is current.

        Raises:
            GalleryUnavailable: another process held a lock for too long.
        """
        others = self._others()
        if not others:
            return False
        if any(other["state"] != _RELEASED for other in others):
            self._number = 1 + max(other["number"] for other in others)
            self.write(_WAITING)
            while any(self._is_before(other) for other in self._others()):
                if time.monotonic() - self._begun > _MAX_WAIT_SECONDS:
                    raise GalleryUnavailable(
                        f"another replica has locked these records for more than {_MAX_WAIT_SECONDS:g} s: try again"
                    )
        return True

    def check_age(self) -> None:
        """Raise `GalleryUnavailable` if the request is so old that a write is not safe. Call this before each write."""
        if time.monotonic() - self._begun > _MAX_HOLD_SECONDS:
            raise GalleryUnavailable(
                f"Milvus answers too slowly: the locks are older than {_MAX_HOLD_SECONDS:g} s, so a write is not safe; "
                "try again"
            )

    def _is_before(self, other: Mapping[str, Any]) -> bool:
        if other["state"] == _RELEASED:
            return False
        key = other["claim"].rpartition("-")[0]
        return other["state"] == _CHOOSING or (other["number"], key) < (self._number, self._key)

    def _others(self) -> list[Mapping[str, Any]]:
        """Return the valid requests of other processes for these names. Threads of one process use the local locks."""
        since = clock.now() - int(_LEASE_SECONDS * 1e6)
        found: list[Mapping[str, Any]] = []
        for start in range(0, len(self._names), _NAMES_PER_QUERY):
            names = quoted_list(self._names[start : start + _NAMES_PER_QUERY])
            where = f"name in {names} and made_at > {since} and not (claim like {quoted(self._process + '-%')})"
            found += self._connection.query(self._collection, where, ["claim", "number", "state"])
        return found
