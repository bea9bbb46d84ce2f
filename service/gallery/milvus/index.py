"""The index over the vectors: which kind, by their number, and the change from one kind to another."""

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
"""Up to this number every vector is compared: some milliseconds of one core for 10,000 vectors of 512 dimensions."""
_LISTS = 1024
"""Lists of an IVF index. Milvus builds one index for each sealed segment of at most some hundred thousand rows, so the
number does not depend on the size of the collection."""
_PROBES = 128
"""Lists of each segment that a search without a filter reads."""
_CHECK_SECONDS = 10.0
_ATTEMPTS = 5
_CLOSE_SECONDS = 5.0


def index_params(kind: str) -> IndexParams:
    """Return the parameters of a cosine index of this kind over the vectors."""
    params = MilvusClient.prepare_index_params()
    lists = {} if kind == "FLAT" else {"nlist": _LISTS}
    params.add_index("vector", index_type=kind, index_name="vector", metric_type="COSINE", params=lists)
    return params


class IndexManager:
    """Changes the kind of a collection's index when the collection grows, in a thread, one replica at a time.

    Up to `EXACT_ROWS` rows the index is FLAT, which compares every row. Above, it is IVF_SQ8, which needs a quarter of
    the memory, or GPU_IVF_FLAT if the cluster has GPUs. IVF is the approximate kind whose recall stays high under a
    filter: the smaller the share of rows that pass, the more lists a search reads, up to all. Graphs (HNSW, GPU_CAGRA)
    have no such parameter and lose recall if few rows pass. The rows that are found are ranked by exact scores.

    Milvus can change an index only after it has released the collection. This takes seconds and happens once for a
    collection; searches raise `GalleryUnavailable` meanwhile.
    """

    def __init__(self, connection: Connection, collection: str, locks: DistributedLocks, *, gpu: bool) -> None:
        self._connection = connection
        self._collection = collection
        self._locks = locks
        self._large = "GPU_IVF_FLAT" if gpu else "IVF_SQ8"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="milvus-index", daemon=True)
        self.kind = "FLAT"
        """The kind of the index when this replica looked last."""

    @property
    def exact(self) -> bool:
        """Whether a search compares every row."""
        return self.kind == "FLAT"

    def parameters(self, limit: int, share: float) -> dict[str, int]:
        """Return the parameters of a search for `limit` rows, if this share of all rows passes the filter."""
        if self.exact:
            return {}
        return {"nprobe": max(1, min(_LISTS, math.ceil(max(_PROBES, limit / 8) / max(share, 1e-9))))}

    def start(self) -> None:
        """Read the kind of the index, and start the thread."""
        self.kind = self._read_kind() or self.kind
        self._thread.start()

    def close(self) -> None:
        """Stop the thread. A change may be left unfinished; the next check by any replica finishes it."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_SECONDS)

    def check(self) -> None:
        """Change the index if its kind does not fit the number of rows."""
        kind = self._read_kind()
        if kind is not None:
            self.kind = kind
        if kind is None or (kind == "FLAT" and self._count_rows() > EXACT_ROWS):
            with self._locks.request(["task index"]) as lock:
                lock.acquire()
                self._change()

    def _run(self) -> None:
        while not self._stopping.wait(_CHECK_SECONDS):
            try:
                self.check()
            except GalleryError as error:
                log.info("index not checked, next try in %d s: %s", _CHECK_SECONDS, error)

    def _change(self) -> None:
        kind, rows = self._read_kind(), self._count_rows()
        wanted = self._large if rows > EXACT_ROWS else "FLAT"
        if kind is not None and (kind != "FLAT" or wanted == "FLAT"):  # another replica has changed it
            self.kind = kind
            return
        log.info("index of %s changes from %s to %s at %d rows", self._collection, kind, wanted, rows)
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
            except GalleryError:  # another replica has loaded the collection again for a search
                if attempt == _ATTEMPTS - 1:
                    self._connection.load(self._collection)
                    raise
            else:
                return

    def _read_kind(self) -> str | None:
        """Return the kind of the index, or `None` if there is no index."""
        if not self._connection.call("list_indexes", self._collection, field_name="vector"):
            return None
        facts: dict[str, Any] = self._connection.call("describe_index", self._collection, "vector")
        return str(facts["index_type"])

    def _count_rows(self) -> int:
        try:
            return self._connection.count(self._collection, "")
        except GalleryUnavailable:  # without an index nothing is loaded; the statistics lack the newest rows
            return int(self._connection.call("get_collection_stats", self._collection)["row_count"])
