"""The gallery that many replicas of the service share: every record is in Milvus, and nothing is kept here."""

import base64
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from service.gallery import checks, clock, cursors
from service.gallery.address import MilvusAddress
from service.gallery.milvus.connection import MAX_ROWS, Connection
from service.gallery.milvus.distributed_locks import DistributedLocks
from service.gallery.milvus.expressions import condition, quoted, quoted_list
from service.gallery.milvus.index import IndexKeeper, index_params
from service.gallery.milvus.journal import Journal
from service.gallery.milvus.schema import FIELDS, claims_schema, decode, encode, log_schema, records_schema
from service.gallery.protocol import Gallery
from service.gallery.records import (
    AuditEntry,
    DuplicateId,
    EmptyFilter,
    Erasure,
    Filter,
    GalleryError,
    Hit,
    InvalidArgument,
    OnConflict,
    Page,
    Record,
    SearchResult,
    SpaceMismatch,
)

log = logging.getLogger(__name__)

_SPARE = 32
"""Hits fetched beyond top_k: an index orders by coarser numbers than the scores, and ties go by id."""
_DOUBT = 1e-4
"""What Milvus's single-precision cosine may be off by."""
_THREADS = 16
_IDS_AT_ONCE = 2000


class MilvusGallery(Gallery):
    """A `Gallery` in the collections `not3d_SPACE`, `not3d_SPACE_audit` and `not3d_SPACE_claims` of one database.

    Records of another space are in other collections, so that vectors of two models never meet. What was acknowledged
    is in the server's write-ahead log. Reads are strongly consistent: they see all that any replica had acknowledged
    before. Changes of the same record take turns (`DistributedLocks`), also those of several replicas, so that of two
    `add` of one id exactly one wins.

    Where a call raises `GalleryUnavailable`, the change may still have been made, if the server got it and the answer
    was lost. To ask again is right: `put` and `delete` come to the same, and `add` then raises `DuplicateId`.
    """

    def __init__(
        self, connection: Connection, address: MilvusAddress, embedding_space: str, dimension: int, *, gpu: bool = False
    ) -> None:
        """Use `open`."""
        self.embedding_space = embedding_space
        self.dimension = dimension
        self._connection = connection
        self._address = address
        self._records = f"not3d_{embedding_space}"
        self._claims = DistributedLocks(connection, f"{self._records}_claims")
        self._journal = Journal(connection, f"{self._records}_audit")
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="milvus")
        self._index = IndexKeeper(connection, self._records, self._claims, gpu=gpu)
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
        """Open the gallery of this space, or create it there.

        Raises `GalleryUnavailable` where the server does not answer (yet), `GalleryError` where it refuses us, and
        `SpaceMismatch` where its collection is of another dimension.
        """
        connection = Connection(address)
        try:
            gallery = cls(connection, address, embedding_space, dimension, gpu=gpu)
            name, bare = gallery._records, index_params("FLAT")
            connection.create(name, records_schema(dimension, f"not3d, model {model_name}"), bare, num_shards=shards)
            for suffix, schema in (("claims", claims_schema()), ("audit", log_schema())):
                connection.create(f"{name}_{suffix}", schema, bare, num_shards=1)
            fields = connection.call("describe_collection", name)["fields"]
            kept = next(field["params"]["dim"] for field in fields if field["name"] == "vector")
            if int(kept) != dimension:
                raise SpaceMismatch(f"the collection {name} has dimension {kept}, this model's embeddings {dimension}")
            gallery._index.start()
        except BaseException:
            connection.close()
            raise
        return gallery

    @property
    def engine(self) -> str:
        """What keeps and searches the records, for people to read."""
        return f"Milvus {self._connection.version} at {self._address} ({self._index.kind})"

    @override
    def enrol(self, records: Sequence[Record], on_conflict: OnConflict) -> set[str]:
        new = checks.encode_all(records, lambda record: encode(record, self.dimension))
        self._check()
        if not new:
            return set()
        now = clock.now()
        with self._holding(list(new)) as found:
            taken = {id_ for id_, expires in found.items() if expires > now}
            if taken and on_conflict == "error":
                raise DuplicateId(min(taken))
            if expired := len(found) - len(taken):
                self._journal.write_expiry(expired, now)
            left = taken if on_conflict == "skip" else set()
            if added := [row for id_, row in new.items() if id_ not in left]:
                self._connection.upsert(self._records, added)
        return taken

    def get(self, id: str) -> Record | None:
        """The record of this id."""
        found = self._one(id, FIELDS)
        return decode(found) if found else None

    def thumbnail(self, id: str) -> bytes | None:
        """The JPEG kept with this record."""
        found = self._one(id, ["has_thumbnail", "thumbnail"])
        return base64.b64decode("".join(found["thumbnail"])) if found and found["has_thumbnail"] else None

    def delete(self, id: str, *, by: str = "") -> bool:
        """Remove one record, with an entry in the audit log before that. False where there was none."""
        checks.check_text(id, "id")
        checks.check_text(by, "by")
        self._check()
        now = clock.now()
        with self._holding([id]) as existing:
            if id not in existing:
                return False
            if expired := existing[id] <= now:
                self._journal.write_expiry(1, now)
            else:
                self._journal.write("delete", by=by, condition={"id": id}, erased=1, at=now)
            self._connection.delete(self._records, f"id in {quoted_list([id])}")
        return not expired

    def list(
        self,
        *,
        camera_id: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Records in order of their ids. A record that stays enrolled meanwhile is on exactly one of the pages."""
        self._check()
        if limit < 1:
            raise InvalidArgument(f"limit is {limit}, not a positive number")
        last_seen = "" if cursor is None else cursors.decode(cursor)
        wanted = Filter(camera_ids=None if camera_id is None else (camera_id,), after=after, before=before)
        where = condition(wanted, clock.now())
        found: list[Mapping[str, Any]] = []
        # One more than asked for tells whether there is another page.
        while len(found) <= limit:
            step = min(limit + 1 - len(found), MAX_ROWS)
            after_last = f"{where} and id > {quoted(found[-1]['id'] if found else last_seen)}"
            part = self._connection.query(self._records, after_last, FIELDS, step)
            found += part
            if len(part) < step:
                break
        items = [decode(row) for row in found[:limit]]
        return Page(items, cursors.encode(items[-1].id) if len(found) > limit else None)

    def search(
        self,
        embedding: NDArray[np.float32],
        top_k: int,
        filter: Filter = Filter(),  # noqa: B008 (frozen, so a shared default is safe)
        min_score: float | None = None,
    ) -> SearchResult:
        """The `top_k` records nearest to `embedding` `[D]` by cosine, of those that pass `filter`.

        Equal scores rank by id, at the cut-off too. Records below `min_score` are left out but counted as searched.
        """
        self._check()
        query = checks.check_vector(embedding, self.dimension, "embedding")
        if not query.any():
            raise InvalidArgument("embedding is all zeros, which has no direction")
        if not 1 <= top_k <= MAX_ROWS:
            raise InvalidArgument(f"top_k is {top_k}, not a number from 1 to {MAX_ROWS}")
        where = condition(filter, clock.now())
        index = self._index
        counting = self._pool.submit(self._connection.count, self._records, where)
        share = 1.0 if index.exact or filter.is_empty else self._share(where)
        limit = min(top_k + _SPARE, MAX_ROWS)
        while True:
            ranked = self._nearest(query, limit, where, index.parameters(limit, share))
            if len(ranked) < limit or limit == MAX_ROWS:
                break
            # Nobody that was not fetched can score more than the last one that was, but for rounding.
            if ranked[-1].score < ranked[top_k - 1].score - _DOUBT:
                break
            limit = min(4 * limit, MAX_ROWS)
        hits = [hit for hit in ranked[:top_k] if min_score is None or hit.score >= min_score]
        return SearchResult(hits, counting.result(), index.exact)

    def erase(self, filter: Filter, *, dry_run: bool, by: str = "") -> Erasure:
        """Remove every record that passes `filter`, with an entry in the audit log before that.

        What is enrolled while it runs may be removed or stay. Raises `EmptyFilter` where all would go.
        """
        checks.check_text(by, "by")
        self._check()
        if filter.is_empty:
            raise EmptyFilter("an erasure needs at least one condition: an empty filter would erase the whole gallery")
        now = clock.now()
        where, every = condition(filter, now), condition(filter, None)
        if dry_run:
            return Erasure(matched=self._connection.count(self._records, where), erased=0)
        with self._alone("erase"):
            matched = self._connection.count(self._records, where)
            if expired := self._connection.count(self._records, every) - matched:
                self._journal.write_expiry(expired, now)
            receipt = self._journal.write(
                "erase", by=by, condition=checks.audit_condition(filter), erased=matched, at=now
            )
            self._remove(every)
        return Erasure(matched=matched, erased=matched, receipt=receipt)

    def expire(self) -> int:
        """Remove what has expired; how many. Those are one entry of the audit log, unless there were none."""
        self._check()
        now = clock.now()
        where = f"expires_at <= {now}"
        with self._alone("expire"):
            count = self._connection.count(self._records, where)
            if count:
                self._journal.write_expiry(count, now)
                self._remove(where)
        return count

    def audit(self, *, limit: int = 100, before: str | None = None) -> Sequence[AuditEntry]:
        """The audit log, newest first, of entries older than the receipt `before`."""
        self._check()
        if limit < 1:
            raise InvalidArgument(f"limit is {limit}, not a positive number")
        checks.check_text(before, "before")
        return self._journal.read(limit, before)

    def check(self) -> None:
        """Nothing to find out: what breaks here is on the server, and the connection to it heals by itself."""

    def count(self) -> int:
        """How many records are enrolled."""
        self._check()
        return self._connection.count(self._records, f"expires_at > {clock.now()}")

    def close(self) -> None:
        """Let go of the connection; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._index.close()
            self._pool.shutdown()
            self._connection.close()

    def _check(self) -> None:
        if self._closed:
            raise GalleryError("the gallery is closed")

    @contextmanager
    def _holding(self, ids: Sequence[str]) -> Iterator[dict[str, int]]:
        """Keep everybody else from changing these records; those of them that have a row, with their `expires_at`."""
        with self._claims.place([f"id {one}" for one in ids]) as claim:
            looking = self._pool.submit(self._existing, ids)
            contested = claim.contested()
            existing = looking.result()
            if contested:
                claim.wait()
                existing = self._existing(ids)
            claim.check()
            yield existing

    @contextmanager
    def _alone(self, task: str) -> Iterator[None]:
        with self._claims.place([f"task {task}"]) as claim:
            if claim.contested():
                claim.wait()
            yield

    def _existing(self, ids: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for start in range(0, len(ids), _IDS_AT_ONCE):
            where = f"id in {quoted_list(ids[start : start + _IDS_AT_ONCE])}"
            part = self._connection.query(self._records, where, ["id", "expires_at"])
            found |= {row["id"]: row["expires_at"] for row in part}
        return found

    def _one(self, id: str, fields: Sequence[str]) -> Mapping[str, Any] | None:
        checks.check_text(id, "id")
        self._check()
        where = f"id in {quoted_list([id])} and expires_at > {clock.now()}"
        found = self._connection.query(self._records, where, fields)
        return found[0] if found else None

    def _share(self, where: str) -> float:
        """About which share of the rows passes: an approximate index looks at more of itself, the fewer they are.

        Not strongly consistent, and so at once.
        """
        passing, rows = (self._connection.count(self._records, one, level="Eventually") for one in (where, ""))
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
        # While a record is being replaced, the index may show it twice; its states are equally true.
        records = list({hit["id"]: decode(hit["entity"]) for hit in found}.values())
        if not records:
            return []
        scores = _cosines(np.stack([record.embedding for record in records]), query)
        hits = [Hit(record, score) for record, score in zip(records, scores.tolist(), strict=True)]
        return sorted(hits, key=lambda hit: (-hit.score, hit.record.id))

    def _remove(self, where: str) -> None:
        """Remove the rows that pass, none that passes no longer.

        A server may look for what passes first and remove those ids later, with whatever was enrolled under them
        in between. So they are looked for here, and once more while nobody else can change them.
        """
        last = ""
        while True:
            found = self._connection.query(self._records, f"{where} and id > {quoted(last)}", ["id"], _IDS_AT_ONCE)
            if not found:
                return
            ids = [row["id"] for row in found]
            with self._claims.place([f"id {one}" for one in ids]) as claim:
                if claim.contested():
                    claim.wait()
                again = self._connection.query(self._records, f"{where} and id in {quoted_list(ids)}", ["id"])
                claim.check()
                if again:
                    self._connection.delete(self._records, f"id in {quoted_list(row['id'] for row in again)}")
            last = ids[-1]


def _cosines(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines `[N]` of rows `[N, D]` with a query `[D]`; equal rows have equal ones, in any company."""
    wide, direction = vectors.astype(np.float64), query.astype(np.float64)
    lengths = np.sqrt(np.add.reduce(wide * wide, axis=1)) * np.sqrt(np.add.reduce(direction * direction))
    cosines: NDArray[np.float64] = np.clip(np.add.reduce(wide * direction, axis=1) / lengths, -1.0, 1.0)
    return cosines
