"""The gallery on a Milvus server. All records are on the server, so several replicas of the service can share it."""

import base64
import hashlib
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from service.gallery import checks, clock
from service.gallery.address import MilvusAddress
from service.gallery.milvus.alerts import MilvusAlerts
from service.gallery.milvus.audit_log import AuditLog
from service.gallery.milvus.connection import MAX_ROWS, Connection
from service.gallery.milvus.distributed_locks import DistributedLocks, LockRequest
from service.gallery.milvus.index import IndexManager, index_params
from service.gallery.milvus.schema import (
    FIELDS,
    NEVER,
    audit_schema,
    condition,
    daily_condition,
    decode,
    encode,
    locks_schema,
    quoted,
    quoted_list,
    records_schema,
    summarise,
)
from service.gallery.protocol import Gallery
from service.gallery.records import (
    AuditEntry,
    CameraSummary,
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
from service.gallery.watch.matching import Matcher
from service.gallery.watch.records import (
    ANY_VERSION,
    Alert,
    AlertQuery,
    AlertRules,
    AnyVersion,
    Delivery,
    OutboxCount,
    Watchlist,
    WatchVector,
)
from service.verdicts import VerdictKind

_EXTRA_HITS = 32
"""Hits fetched in addition to `top_k`: the index orders by less exact scores, and equal scores are ordered by id."""
_SCORE_ERROR = 1e-4
"""The largest error of Milvus's cosine in single precision."""
_THREADS = 16
_IDS_PER_QUERY = 2000
_DAYS = range(-719_163, 2_932_898)
"""All days of Python's calendar, counted from 1970."""


class MilvusGallery(Gallery):
    """A `Gallery` in the collections `not3d_SPACE`, `not3d_SPACE_audit` and `not3d_SPACE_claims` of one database.

    Each embedding space has its own collections, named by `collection_suffix`. An acknowledged change is in the
    server's write-ahead log. Reads are
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
        self._records = f"not3d_{collection_suffix(embedding_space)}"
        self._locks = DistributedLocks(connection, f"{self._records}_claims")
        self._audit_log = AuditLog(connection, f"{self._records}_audit")
        self._watch = MilvusAlerts(connection, self._records, self._locks, dimension, self._enrolled)
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
    def enrol(
        self, records: Sequence[Record], on_conflict: OnConflict, *, cameras: frozenset[str] | None = None
    ) -> set[str]:
        new = checks.encode_all(records, lambda record: encode(record, self.dimension))
        self._check_open()
        if not new:
            return set()
        now = clock.now()
        with self._locked(list(new)) as (found, lock):
            existing = {id_ for id_, expires in found.items() if expires > now}
            of_others = existing - self._existing(existing, cameras) if cameras is not None else set()
            if refused := existing if on_conflict == "error" else of_others:
                raise DuplicateId(min(refused))
            if expired := len(found) - len(existing):
                self._audit_log.write_expiry(expired, now)
            skipped = existing if on_conflict == "skip" else set()
            added = [row for id_, row in new.items() if id_ not in skipped]
            if not added:
                return existing
            raised: list[Alert] = []
            suppressed: list[str] = []
            if self._watch.started:
                rows = [checks.encode(each, self.dimension) for each in records if each.id not in skipped]
                if gone := [id_ for id_ in found if id_ not in existing]:
                    self._watch.forget_expired(gone)
                raised, suppressed = self._watch.raise_alerts(rows, existing)
                if replaced := [row for row in rows if row.id in existing]:
                    self._watch.follow(replaced)
                lock.check_age()
            self._connection.upsert(self._records, added)
        if raised:
            self._watch.rules.on_alerts(raised)
        for name in suppressed:
            self._watch.rules.on_suppressed(name)
        return existing

    @override
    def update(
        self, id: str, change: Callable[[Record], Record | None], *, cameras: frozenset[str] | None = None
    ) -> Record | None:
        checks.check_text(id, "id")
        self._check_open()
        with self._locked([id]):
            found = self._one(id, [*FIELDS, "thumbnail"], cameras)
            if found is None:
                return None
            kept = "".join(found["thumbnail"]).split(",") if found["has_thumbnail"] else []
            new = change(replace(decode(found), thumbnails=tuple(map(base64.b64decode, kept))))
            if new is None:
                return None
            self._connection.upsert(self._records, [encode(new, self.dimension)])
            self._watch.follow([checks.encode(new, self.dimension)])
        return self.get(id)

    @override
    def get(self, id: str, *, cameras: frozenset[str] | None = None) -> Record | None:
        found = self._one(id, FIELDS, cameras)
        return decode(found) if found else None

    @override
    def get_all(self, ids: Sequence[str], *, cameras: frozenset[str] | None = None) -> Mapping[str, Record]:
        self._check_open()
        for id_ in ids:
            checks.check_text(id_, "ids")
        where = f"id in {quoted_list(ids)} and expires_at > {clock.now()}{_of_cameras(cameras)}"
        return {row["id"]: decode(row) for row in self._connection.query(self._records, where, FIELDS)}

    @override
    def find_ids(
        self,
        ids: Sequence[str],
        filter: Filter = Filter(),  # noqa: B008 (frozen, so a shared default is safe)
        *,
        cameras: frozenset[str] | None = None,
    ) -> set[str]:
        self._check_open()
        for id_ in ids:
            checks.check_text(id_, "ids")
        where = f"id in {quoted_list(ids)} and {self._condition(filter, clock.now())}{_of_cameras(cameras)}"
        return {row["id"] for row in self._connection.query(self._records, where, ["id"])}

    @override
    def thumbnail(self, id: str, frame: int | None = None) -> bytes | None:
        found = self._one(id, ["has_thumbnail", "thumbnail"])
        kept = "".join(found["thumbnail"]).split(",") if found and found["has_thumbnail"] else []
        index = checks.choose_thumbnail(len(kept), frame)
        return None if index is None else base64.b64decode(kept[index])

    @override
    def delete(self, id: str, *, by: str = "", cameras: frozenset[str] | None = None) -> bool:
        checks.check_text(id, "id")
        checks.check_text(by, "by")
        self._check_open()
        now = clock.now()
        with self._locked([id]) as (found, _):
            if cameras is None or self._existing({id}, cameras):
                # Also of a record that has expired: a watchlist may still have its vector.
                self._watch.forget([id])
            if id not in found or (cameras is not None and not self._existing({id}, cameras)):
                return False
            if expired := found[id] <= now:
                self._audit_log.write_expiry(1, now)
            else:
                self._audit_log.write("delete", by=by, condition={"id": id}, erased=1, at=now)
            self._connection.delete(self._records, f"id in {quoted_list([id])}")
            self._watch.forget_again([id])
        return not expired

    @override
    def list(
        self,
        filter: Filter = Filter(),  # noqa: B008 (frozen, so a shared default is safe)
        *,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        self._check_open()
        checks.check_limit(limit)
        last_seen = checks.decode_cursor(cursor)
        where = self._condition(filter, clock.now())
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
        *,
        plain: bool = False,
    ) -> SearchResult:
        self._check_open()
        query = checks.check_query(embedding, self.dimension)
        checks.check_limit(top_k, "top_k", MAX_ROWS)
        where = self._condition(filter, clock.now())
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
    def erase(self, filter: Filter, *, dry_run: bool, by: str = "", expected: int | None = None) -> Erasure:
        checks.check_erasure(filter, by)
        self._check_open()
        now = clock.now()
        where, with_expired = self._condition(filter, now), self._condition(filter, None)
        without_time = 0
        if filter.needs_time:
            timeless = self._condition(filter.of_records_without_time(), now)
            without_time = self._connection.count(self._records, timeless)
        if dry_run:
            return Erasure(self._connection.count(self._records, where), 0, without_time=without_time)
        with self._locked_task("erase"):
            found = self._find_all(with_expired)
            matched = sum(expires > now for expires in found.values())
            checks.check_count(matched, expected)
            if expired := len(found) - matched:
                self._audit_log.write_expiry(expired, now)
            receipt = self._audit_log.write(
                "erase", by=by, condition=checks.audit_condition(filter), erased=matched, at=now
            )
            ids = self._remove(list(found), with_expired, self._watch.forget)
            self._watch.forget_again(ids)
        return Erasure(matched, matched, receipt, ids, without_time)

    @override
    def expire(self) -> int:
        self._check_open()
        now = clock.now()
        where = f"expires_at <= {now}"
        with self._locked_task("expire"):
            found = self._find_all(where)
            if found:
                self._audit_log.write_expiry(len(found), now)
                self._remove(list(found), where, self._watch.forget_expired)
        return len(found)

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
    def check_storage(self) -> None:
        pass  # Milvus has the storage

    @override
    def cameras(self) -> Sequence[CameraSummary]:
        self._check_open()
        where = f"expires_at > {clock.now()}"
        found: dict[str, tuple[int, int, int]] = {}
        last_id = ""
        while True:  # Milvus has no minimum of a group
            page = f"{where} and id > {quoted(last_id)}"
            rows = self._connection.query(self._records, page, ["id", "camera_id", "first", "last"], MAX_ROWS)
            for row in rows:
                count, first, last = found.get(row["camera_id"], (0, NEVER, -NEVER))
                found[row["camera_id"]] = count + 1, min(first, row["first"]), max(last, row["last"])
            if len(rows) < MAX_ROWS:
                break
            last_id = rows[-1]["id"]
        order = sorted(found, key=lambda text: (not text, text))  # the empty text is that of records without a camera
        return [summarise(text, *found[text]) for text in order]

    @override
    def count(self) -> int:
        self._check_open()
        return self._connection.count(self._records, f"expires_at > {clock.now()}")

    @override
    def start_alerts(self, rules: AlertRules) -> None:
        self._check_open()
        self._watch.start(rules)

    @override
    def put_watchlist(self, watchlist: Watchlist, *, replaces: datetime | AnyVersion | None = ANY_VERSION) -> bool:
        self._check_open()
        return self._watch.put_watchlist(watchlist, replaces)

    @override
    def matcher(self) -> Matcher:
        self._check_open()
        return self._watch.refresh()

    @override
    def delete_watchlist(self, name: str) -> bool:
        self._check_open()
        return self._watch.delete_watchlist(name)

    @override
    def alerts(self, query: AlertQuery) -> Sequence[Alert]:
        self._check_open()
        return self._watch.read(query)

    @override
    def find_alert(self, id: str) -> Alert | None:
        self._check_open()
        return self._watch.find(id)

    @override
    def judge_alert(self, id: str, author: str, key: str, verdict: VerdictKind | None) -> Alert | None:
        self._check_open()

        def vector(record: str) -> WatchVector | None:
            found = self.get(record)
            return None if found is None else WatchVector(found.embedding, "example", found.id, found.camera_id)

        return self._watch.judge(id, author, key, verdict, vector)

    @override
    def claim_deliveries(self, webhook: str, limit: int, lease: float) -> Sequence[Delivery]:
        self._check_open()
        return self._watch.claim(webhook, limit, lease)

    @override
    def settle_delivery(self, delivery: Delivery, *, delivered: bool, again_at: datetime | None = None) -> None:
        self._check_open()
        self._watch.settle(delivery, delivered=delivered, again_at=again_at)

    @override
    def count_deliveries(self) -> Mapping[str, OutboxCount]:
        self._check_open()
        return self._watch.count_deliveries()

    @override
    def prune_alerts(self, before: datetime) -> int:
        self._check_open()
        return self._watch.prune(before)

    @override
    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._index.close()
            self._pool.shutdown()
            self._connection.close()

    def _condition(self, filter: Filter, now: int | None) -> str:
        """Return the condition of the rows that pass `filter`, as `condition`, with the time of day."""
        where = condition(filter, now)
        window = checks.daily_window(filter)
        if window is None:
            return where
        both = f"{where} and " if where else ""

        def has(some: str) -> bool:
            return self._connection.count(self._records, f"{both}first < {NEVER} and {some}") > 0

        first = bisect_left(_DAYS, True, key=lambda day: has(f"first < {(day + 1) * checks.DAY}"))
        if first == len(_DAYS):
            return f"{both}id == ''"
        last = bisect_left(_DAYS, True, key=lambda day: not has(f"last >= {(day + 1) * checks.DAY}"))
        return both + daily_condition(window, _DAYS[first] * checks.DAY, (_DAYS[last] + 1) * checks.DAY)

    def _check_open(self) -> None:
        if self._closed:
            raise GalleryError("the gallery is closed")

    @contextmanager
    def _locked(self, ids: Sequence[str]) -> Iterator[tuple[dict[str, int], LockRequest]]:
        """Lock these ids, and give the `expires_at` of those that have a row, and the lock."""
        with self._locks.request([f"id {id_}" for id_ in ids]) as lock:
            reading = self._pool.submit(self._expiry_times, ids)
            found = self._expiry_times(ids) if lock.acquire() else reading.result()
            lock.check_age()
            yield found, lock

    @contextmanager
    def _locked_task(self, task: str) -> Iterator[None]:
        with self._locks.request([f"task {task}"]) as lock:
            lock.acquire()
            yield

    def _enrolled(self, ids: Sequence[str]) -> set[str]:
        where = f"id in {quoted_list(ids)} and expires_at > {clock.now()}"
        return {row["id"] for row in self._connection.query(self._records, where, ["id"])}

    def _expiry_times(self, ids: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for start in range(0, len(ids), _IDS_PER_QUERY):
            where = f"id in {quoted_list(ids[start : start + _IDS_PER_QUERY])}"
            rows = self._connection.query(self._records, where, ["id", "expires_at"])
            found |= {row["id"]: row["expires_at"] for row in rows}
        return found

    def _existing(self, ids: Collection[str], cameras: frozenset[str]) -> set[str]:
        """Return those of these ids whose rows are of these cameras, expired ones too."""
        where = f"id in {quoted_list(ids)}{_of_cameras(cameras)}"
        return {row["id"] for row in self._connection.query(self._records, where, ["id"])}

    def _one(self, id: str, fields: Sequence[str], cameras: frozenset[str] | None = None) -> Mapping[str, Any] | None:
        checks.check_text(id, "id")
        self._check_open()
        where = f"id in {quoted_list([id])} and expires_at > {clock.now()}{_of_cameras(cameras)}"
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

    def _find_all(self, where: str) -> dict[str, int]:
        """Return the ids of all rows that pass `where`, ascending, each with its `expires_at`."""
        found: dict[str, int] = {}
        last = ""
        while True:
            after_last = f"{where} and id > {quoted(last)}"
            rows = self._connection.query(self._records, after_last, ["id", "expires_at"], _IDS_PER_QUERY)
            if not rows:
                return found
            found |= {row["id"]: row["expires_at"] for row in rows}
            last = rows[-1]["id"]

    def _remove(self, ids: Sequence[str], where: str, forget: Callable[[Sequence[str]], None]) -> Sequence[str]:
        """Remove those of these rows that still pass `where`; `forget` removes what alerts know of them.

        A server may first search for the rows that pass and later remove their ids, with records that were enrolled
        under these ids in between. So this locks the ids, and searches again before it removes them.

        Returns:
            The ids of the removed rows.
        """
        removed: list[str] = []
        for start in range(0, len(ids), _IDS_PER_QUERY):
            some = ids[start : start + _IDS_PER_QUERY]
            with self._locks.request([f"id {id_}" for id_ in some]) as lock:
                lock.acquire()
                again = self._connection.query(self._records, f"{where} and id in {quoted_list(some)}", ["id"])
                lock.check_age()
                if again:
                    gone = [row["id"] for row in again]
                    forget(gone)
                    self._connection.delete(self._records, f"id in {quoted_list(gone)}")
                    removed += gone
        return removed


def _of_cameras(cameras: frozenset[str] | None) -> str:
    """Return the condition on the camera, to be added to another one."""
    return "" if cameras is None else f" and {condition(Filter(camera_ids=tuple(sorted(cameras))), None)}"


def _cosines(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosines `[N]` of rows `[N, D]` with a query `[D]`. They do not depend on the other rows."""
    wide, direction = vectors.astype(np.float64), query.astype(np.float64)
    lengths = np.sqrt(np.add.reduce(wide * wide, axis=1)) * np.sqrt(np.add.reduce(direction * direction))
    cosines: NDArray[np.float64] = np.clip(np.add.reduce(wide * direction, axis=1) / lengths, -1.0, 1.0)
    return cosines


def collection_suffix(embedding_space: str) -> str:
    """Return the part of a collection's name that stands for an embedding space.

    The server allows letters, digits and underscores only. The space of a bundle has 16 hex digits; any other name is
    replaced by a hash with more digits, so that no two spaces share a collection.
    """
    if re.fullmatch("[0-9a-f]{16}", embedding_space):
        return embedding_space
    return hashlib.sha256(embedding_space.encode()).hexdigest()[:32]
