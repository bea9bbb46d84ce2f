"""Searches that can be continued: what their next hits are searched with, and the ids that were shown already."""

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from service.callers import Caller

KEEP_SECONDS: Final = 600.0
"""Time for which a search can be continued."""
MAX_SEARCHES: Final = 256
MAX_IDS: Final = 100_000
"""Ids that all searches together may keep; a vector counts as `IDS_OF_VECTOR` of them."""
IDS_OF_VECTOR: Final = 40

BodyT = TypeVar("BodyT")


@dataclass(frozen=True, slots=True, eq=False)
class Continuation(Generic[BodyT]):
    """A search, and the hits that were shown of it.

    Attributes:
        body: the request without its footage and without its vectors.
        vector: the query's own vector `[D]`, unless the query is a record; records are read again for each page, so a
            record that was erased is no query any more.
        examples: the `embeddings` of the request, as they were sent `[E, D]`.
        evidence: what the audit log says about the query.
        shown: the ids of the hits, best first.
        values: what the request has besides that counts of `MAX_IDS`: ids, cameras and metadata.
    """

    body: BodyT
    vector: NDArray[np.float32] | None
    examples: NDArray[np.float64]
    evidence: Mapping[str, JsonValue]
    shown: tuple[str, ...]
    values: int = 0

    @property
    def weight(self) -> int:
        """What it counts of `MAX_IDS`."""
        return len(self.shown) + self.values + IDS_OF_VECTOR * (len(self.examples) + (self.vector is not None))


class Continuations(Generic[BodyT]):
    """The searches that can be continued, in memory only: the newest of them, each for `KEEP_SECONDS`.

    A cursor is a random name, so it tells nothing about the query. Only the key or user that got it can use it.
    Use the object in the thread of the event loop.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, tuple[float, Caller, Continuation[BodyT]]] = OrderedDict()
        self._weight = 0

    def keep(self, caller: Caller, continuation: Continuation[BodyT]) -> str:
        """Keep a search and return its cursor."""
        cursor = secrets.token_urlsafe(16)
        self._kept[cursor] = (self._clock() + KEEP_SECONDS, caller, continuation)
        self._weight += continuation.weight
        self._drop()
        return cursor

    def find(self, cursor: str, caller: Caller) -> Continuation[BodyT] | None:
        """Return the search of a cursor, or `None` if it is not kept, or another caller's."""
        self._drop()
        _, owner, found = self._kept.get(cursor, (0.0, None, None))
        if owner is None or (owner.name, owner.cameras) != (caller.name, caller.cameras):
            return None
        return found

    def _drop(self) -> None:
        """Drop what is too old, and the oldest if there is too much."""
        now = self._clock()
        while self._kept:
            ends, _, oldest = next(iter(self._kept.values()))
            if ends > now and len(self._kept) <= MAX_SEARCHES and self._weight <= MAX_IDS:
                return
            self._kept.popitem(last=False)
            self._weight -= oldest.weight
