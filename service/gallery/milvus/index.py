"""Which index the vectors get, by their number, and the change from one to another."""

import logging
import math
import threading
from typing import Any

from pymilvus import MilvusClient
from pymilvus.milvus_client.index import IndexParams

from service.gallery.milvus.connection import Connection
from service.gallery.milvus.distributed_locks import DistributedLocks
from service.gallery.records import GalleryError, GalleryUnavailable

log = logging.getLogger(__name__)

EXACT_ROWS = 50_000
"""Up to which every vector is compared: some milliseconds of a core for each ten thousand of 512 dimensions."""
_LISTS = 1024
"""Of an IVF index. Milvus builds one for each sealed segment, of at most some hundred thousand rows, so that the number
need not grow with the collection."""
_PROBES = 128
"""Lists that a search without a filter reads, of each segment."""
_CHECK_SECONDS = 10.0
_ATTEMPTS = 5
_CLOSE_SECONDS = 5.0


def index_params(kind: str) -> IndexParams:
    """An index of this kind over the vectors, by cosine."""
    params = MilvusClient.prepare_index_params()
    lists = {} if kind == "FLAT" else {"nlist": _LISTS}
    params.add_index("vector", index_type=kind, index_name="vector", metric_type="COSINE", params=lists)
    return params


class IndexKeeper:
    """Keeps the index of a collection right for its size, in a thread of its own, one replica at a time.

    Up to `EXACT_ROWS` it is FLAT, which compares everything; above IVF_SQ8, a quarter of the memory, or GPU_IVF_FLAT
    where the cluster has GPUs. Of the approximate kinds Milvus has, IVF is the one whose recall under a filter can be
    kept: the lists that a search reads grow as the share of rows that pass shrinks, up to all. Graphs (HNSW,
    GPU_CAGRA) have no such screw, and lose their way where few rows pass. What is found is ranked by exact scores.

    Milvus has to release a collection to change its index. For these seconds, once in a collection's life, searches
    raise `GalleryUnavailable`.
    """

    def __init__(self, connection: Connection, collection: str, claims: DistributedLocks, *, gpu: bool) -> None:
        self._connection = connection
        self._collection = collection
        self._claims = claims
        self._large = "GPU_IVF_FLAT" if gpu else "IVF_SQ8"
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="milvus-index", daemon=True)
        self.kind = "FLAT"
        """The kind of index there is now, as far as this replica knows."""

    @property
    def exact(self) -> bool:
        """Whether a search compares every row."""
        return self.kind == "FLAT"

    def parameters(self, limit: int, share: float) -> dict[str, int]:
        """Of a search for `limit` rows, where this share of all rows passes the filter."""
        if self.exact:
            return {}
        return {"nprobe": max(1, min(_LISTS, math.ceil(max(_PROBES, limit / 8) / max(share, 1e-9))))}

    def start(self) -> None:
        """Look at the index now, and from now on."""
        self.kind = self._read() or self.kind
        self._thread.start()

    def close(self) -> None:
        """Stop looking. Of a change under way only its next step is waited for; the next look goes on with it."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_SECONDS)

    def check(self) -> None:
        """Look at index and size, and change what does not fit."""
        kind = self._read()
        if kind is not None:
            self.kind = kind
        if kind is None or (kind == "FLAT" and self._rows() > EXACT_ROWS):
            with self._claims.place(["task index"]) as claim:
                if claim.contested():
                    claim.wait()
                self._change()

    def _run(self) -> None:
        while not self._ending.wait(_CHECK_SECONDS):
            try:
                self.check()
            except GalleryError as error:
                log.info("the index could not be looked after now: %s", error)

    def _change(self) -> None:
        kind, rows = self._read(), self._rows()
        wanted = self._large if rows > EXACT_ROWS else "FLAT"
        if kind is not None and (kind != "FLAT" or wanted == "FLAT"):
            return  # another replica was faster
        log.info("the index of %s changes from %s to %s at %d rows", self._collection, kind, wanted, rows)
        if kind is not None:
            self._drop()
        self._connection.call("create_index", self._collection, index_params(wanted), seconds=600.0)
        self._connection.load(self._collection)
        self.kind = wanted

    def _drop(self) -> None:
        for attempt in range(_ATTEMPTS):
            self._connection.call("release_collection", self._collection)
            try:
                self._connection.call("drop_index", self._collection, "vector")
            except GalleryError:  # another replica has loaded it again for a search, just before
                if attempt == _ATTEMPTS - 1:
                    self._connection.load(self._collection)
                    raise
            else:
                return

    def _read(self) -> str | None:
        """The kind of the index there is."""
        if not self._connection.call("list_indexes", self._collection, field_name="vector"):
            return None
        facts: dict[str, Any] = self._connection.call("describe_index", self._collection, "vector")
        return str(facts["index_type"])

    def _rows(self) -> int:
        try:
            return self._connection.count(self._collection, "")
        except GalleryUnavailable:  # without an index nothing is loaded; the statistics leave out what came last
            return int(self._connection.call("get_collection_stats", self._collection)["row_count"])
