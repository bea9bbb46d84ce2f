"""The gallery on a Milvus server. All records are on the server, so several replicas of the service can share it."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from service.gallery import checks, clock
from service.gallery.address import MilvusAddress
from service.gallery.milvus.audit_log import AuditLog
from service.gallery.milvus.connection import MAX_ROWS, Connection
from service.gallery.milvus.distributed_locks import DistributedLocks
from service.gallery.milvus.index import IndexManager, index_params
from service.gallery.milvus.schema import (
    FIELDS,
    audit_schema,
    condition,
    decode,
    encode,
    locks_schema,
    quoted,
    quoted_list,
    records_schema,
)
from service.gallery.protocol import Gallery
from service.gallery.records import (
    AuditEntry,
    DuplicateId,
    Erasure,
    Filter,
    GalleryError,
    Hit,
    OnConflict,
    Page,
    Record,
    SearchResult,
    SpaceMismatch,
)

_EXTRA_HITS = 32
"""Hits fetched in addition to `top_k`: the index orders by less exact scores, and equal scores are ordered by id."""
_SCORE_ERROR = 1e-4
"""The largest error of Milvus's cosine in single precision."""
_THREADS = 16
_IDS_PER_QUERY = 2000


class MilvusGallery(Gallery):
    """A `Gallery` in the collections `not3d_SPACE`, `not3d_SPACE_audit` and `not3d_SPACE_claims` of one database.

    Each embedding space has its own collections. An acknowledged change is in the server's write-ahead log. Reads are
    strongly consistent: they see every change that any replica acknowledged before. `DistributedLocks` make changes of
    one record run one after another, also in different replicas. The records of one `enrol` are one message of at most
    some 50 MB; the server may limit it further.

    A call that raises `GalleryUnavailable` may still have changed the records, if only the server's answer was lost.
    Call it again: `put` and `delete` have the same effect twice, and `add` raises `DuplicateId`.
    """

    score_mode = "cosine"

    def __init__(
        self, connection: Connection, address: MilvusAddress, embedding_space: str, dimension: int, *, gpu: bool = False
    ) -> None:
        """Use `open`."""
        self.embedding_space = embedding_space
        self.dimension = dimension
        self._connection = connection
        self._address = address
        self._records = f"not3d_{embedding_space}"
        self._locks = DistributedLocks(connection, f"{self._records}_claims")
        self._audit_log = AuditLog(connection, f"{self._records}_audit")
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="milvus")
        self._index = IndexManager(connection, self._records, self._locks, gpu=gpu)
        self._closed = False

    @classmethod
    def open(
        cls,
        address: MilvusAddress,
        *,
        embedding_space: str,
        dimension: int,
        model_name: str,
        shards: int = 1,
        gpu: bool = False,
    ) -> "MilvusGallery":
        """Open the gallery of this embedding space, or create it.

        Raises:
            GalleryUnavailable: the server does not answer; try again later.
            GalleryError: the server denies access.
            SpaceMismatch: the collection has another dimension.
        """
        connection = Connection(address)
        try:
            gallery = cls(connection, address, embedding_space, dimension, gpu=gpu)
            name, flat = gallery._records, index_params("FLAT")
            connection.create(name, records_schema(dimension, f"not3d, model {model_name}"), flat, num_shards=shards)
            for suffix, schema in (("claims", locks_schema()), ("audit", audit_schema())):
                connection.create(f"{name}_{suffix}", schema, flat, num_shards=1)
            fields = connection.call("describe_collection", name)["fields"]
            kept = next(field["params"]["dim"] for field in fields if field["name"] == "vector")
            if int(kept) != dimension:
                raise SpaceMismatch(f"the collection {name} has dimension {kept}, but the model has {dimension}")
            gallery._index.start()
        except BaseException:
            connection.close()
            raise
        return gallery

    @property
    @override
    def engine(self) -> str:
        return f"Milvus {self._connection.version} at {self._address} ({self._index.kind})"

    @override
    def enrol(self, records: Sequence[Record], on_conflict: OnConflict) -> set[str]:
        new = checks.encode_all(records, lambda record: encode(record, self.dimension))
        self._check_open()
        if not new:
            return set()
        now = clock.now()
        with self._locked(list(new)) as found:
            existing = {id_ for id_, expires in found.items() if expires > now}
            if existing and on_conflict == "error":
                raise DuplicateId(min(existing))
            if expired := len(found) - len(existing):
                self._audit_log.write_expiry(expired, now)
            skipped = existing if on_conflict == "skip" else set()
            if added := [row for id_, row in new.items() if id_ not in skipped]:
                self._connection.upsert(self._records, added)
        return existing

    @override
    def get(self, id: str) -> Record | None:
        found = self._one(id, FIELDS)
        return decode(found) if found else None

    @override
    def thumbnail(self, id: str) -> bytes | None:
        found = self._one(id, ["has_thumbnail", "thumbnail"])
        return base64.b64decode("".join(found["thumbnail"])) if found and found["has_thumbnail"] else None

    @override
    def delete(self, id: str, *, by: str = "") -> bool:
        checks.check_text(id, "id")
        checks.check_text(by, "by")
        self._check_open()
        now = clock.now()
        with self._locked([id]) as found:
            if id not in found:
                return False
            if expired := found[id] <= now:
                self._audit_log.write_expiry(1, now)
            else:
                self._audit_log.write("delete", by=by, condition={"id": id}, erased=1, at=now)
            self._connection.delete(self._records, f"id in {quoted_list([id])}")
        return not expired

    @override
    def list(
        self,
        *,
        camera_id: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        self._check_open()
        checks.check_limit(limit)
        last_seen = checks.decode_cursor(cursor)
        wanted = Filter(camera_ids=None if camera_id is None else (camera_id,), after=after, before=before)
        where = condition(wanted, clock.now())
        found: list[Mapping[str, Any]] = []
        # One more than `limit` shows whether there is another page.
        while len(found) <= limit:
            size = min(limit + 1 - len(found), MAX_ROWS)
            after_last = f"{where} and id > {quoted(found[-1]['id'] if found else last_seen)}"
            rows = self._connection.query(self._records, after_last, FIELDS, size)
            found += rows
            if len(rows) < size:
                break
        items = [decode(row) for row in found[:limit]]
        return Page(items, checks.encode_cursor(items[-1].id) if len(found) > limit else None)

    @override
    def search(
        self,
        embedding: NDArray[np.float32],
        top_k: int,
        filter: Filter = Filter(),  # noqa: B008 (frozen, so a shared default is safe)
        min_score: float | None = None,
        camera_id: str | None = None,
    ) -> SearchResult:
        self._check_open()
        query = checks.check_query(embedding, self.dimension)
        checks.check_limit(top_k, "top_k", MAX_ROWS)
        where = condition(filter, clock.now())
        index = self._index
        counting = self._pool.submit(self._connection.count, self._records, where)
        share = 1.0 if index.exact or filter.is_empty else self._share(where)
        limit = min(top_k + _EXTRA_HITS, MAX_ROWS)
        while True:
            ranked = self._nearest(query, limit, where, index.parameters(limit, share))
            if len(ranked) < limit or limit == MAX_ROWS:
                break
            # A record that was not fetched scores at most as much as the last one fetched, apart from rounding.
            if ranked[-1].score < ranked[top_k - 1].score - _SCORE_ERROR:
                break
            limit = min(4 * limit, MAX_ROWS)
        hits = [hit for hit in ranked[:top_k] if min_score is None or hit.score >= min_score]
        return SearchResult(hits, counting.result(), index.exact)

    @override
    def erase(self, filter: Filter, *, dry_run: bool, by: str = "") -> Erasure:
        checks.check_erasure(filter, by)
        self._check_open()
        now = clock.now()
        where, with_expired = condition(filter, now), condition(filter, None)
        if dry_run:
            return Erasure(matched=self._connection.count(self._records, where), erased=0)
        with self._locked_task("erase"):
            matched = self._connection.count(self._records, where)
            if expired := self._connection.count(self._records, with_expired) - matched:
                self._audit_log.write_expiry(expired, now)
            receipt = self._audit_log.write(
                "erase", by=by, condition=checks.audit_condition(filter), erased=matched, at=now
            )
            self._remove(with_expired)
        return Erasure(matched=matched, erased=matched, receipt=receipt)

    @override
    def expire(self) -> int:
        self._check_open()
        now = clock.now()
        where = f"expires_at <= {now}"
        with self._locked_task("expire"):
            count = self._connection.count(self._records, where)
            if count:
                self._audit_log.write_expiry(count, now)
                self._remove(where)
        return count

    @override
    def audit(self, *, limit: int = 100, before: str | None = None) -> Sequence[AuditEntry]:
        self._check_open()
        checks.check_limit(limit)
        checks.check_text(before, "before")
        return self._audit_log.read(limit, before)

    @override
    def check(self) -> None:
        pass  # the state is on the server, and the connection recovers by itself

    @override
    def count(self) -> int:
        self._check_open()
        return self._connection.count(self._records, f"expires_at > {clock.now()}")

    @override
    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._index.close()
            self._pool.shutdown()
            self._connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise GalleryError("the gallery is closed")

    @contextmanager
    def _locked(self, ids: Sequence[str]) -> Iterator[dict[str, int]]:
        """Lock these ids, and give the `expires_at` of those that have a row."""
        with self._locks.request([f"id {id_}" for id_ in ids]) as lock:
            reading = self._pool.submit(self._expiry_times, ids)
            found = self._expiry_times(ids) if lock.acquire() else reading.result()
            lock.check_age()
            yield found

    @contextmanager
    def _locked_task(self, task: str) -> Iterator[None]:
        with self._locks.request([f"task {task}"]) as lock:
            lock.acquire()
            yield

    def _expiry_times(self, ids: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for start in range(0, len(ids), _IDS_PER_QUERY):
            where = f"id in {quoted_list(ids[start : start + _IDS_PER_QUERY])}"
            rows = self._connection.query(self._records, where, ["id", "expires_at"])
            found |= {row["id"]: row["expires_at"] for row in rows}
        return found

    def _one(self, id: str, fields: Sequence[str]) -> Mapping[str, Any] | None:
        checks.check_text(id, "id")
        self._check_open()
        where = f"id in {quoted_list([id])} and expires_at > {clock.now()}"
        found = self._connection.query(self._records, where, fields)
        return found[0] if found else None

    def _share(self, where: str) -> float:
        """Return about what share of the rows passes. Reads without strong consistency, which is faster."""
        passing, rows = (self._connection.count(self._records, filter_, level="Eventually") for filter_ in (where, ""))
        return passing / max(1, rows)

    def _nearest(self, query: NDArray[np.float32], limit: int, where: str, parameters: dict[str, int]) -> Sequence[Hit]:
        found = self._connection.search(
            self._records,
            data=[query],
            anns_field="vector",
            limit=limit,
            filter=where,
            search_params={"metric_type": "COSINE", "params": parameters},
            output_fields=list(FIELDS),
            consistency_level="Strong",
        )
        # While a record is replaced, the index may return it twice. Either state is right.
        records = list({hit["id"]: decode(hit["entity"]) for hit in found}.values())
        if not records:
            return []
        scores = _cosines(np.stack([record.embedding for record in records]), query)
        hits = [Hit(record, score) for record, score in zip(records, scores.tolist(), strict=True)]
        return sorted(hits, key=lambda hit: (-hit.score, hit.record.id))

    def _remove(self, where: str) -> None:
        """Remove the rows that pass `where`.

        A server may first search for the rows that pass and later remove their ids, with records that were enrolled
        under these ids in between. So this searches itself, locks the ids, and searches again before it removes them.
        """
        last = ""
        while True:
            found = self._connection.query(self._records, f"{where} and id > {quoted(last)}", ["id"], _IDS_PER_QUERY)
            if not found:
                return
            ids = [row["id"] for row in found]
            with self._locks.request([f"id {id_}" for id_ in ids]) as lock:
                lock.acquire()
                again = self._connection.query(self._records, f"{where} and id in {quoted_list(ids)}", ["id"])
                lock.check_age()
                if again:
                    self._connection.delete(self._records, f"id in {quoted_list(row['id'] for row in again)}")
            last = ids[-1]


def _cosines(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosines `[N]` of rows `[N, D]` with a query `[D]`. They do not depend on the other rows."""
    wide, direction = vectors.astype(np.float64), query.astype(np.float64)
    lengths = np.sqrt(np.add.reduce(wide * wide, axis=1)) * np.sqrt(np.add.reduce(direction * direction))
    cosines: NDArray[np.float64] = np.clip(np.add.reduce(wide * direction, axis=1) / lengths, -1.0, 1.0)
    return cosines
