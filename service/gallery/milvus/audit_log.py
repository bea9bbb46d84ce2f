"""The audit log in Milvus: a collection whose entries are never changed or removed."""

import json
import threading
import time
from collections.abc import Sequence
from typing import Literal

from service.gallery import checks, clock
from service.gallery.milvus.connection import MAX_ROWS, Connection
from service.gallery.milvus.schema import quoted, split
from service.gallery.records import JSON, AuditEntry, InvalidArgument
from service.ids import new_id

_MAX_POSITION = 10**20 - 1


class AuditLog:
    """Entries whose keys decrease with time, because Milvus returns the smallest keys first.

    The order is that of the replicas' clocks. The entries of one replica are in the order in which it wrote them.
    """

    def __init__(self, connection: Connection, collection: str) -> None:
        self._connection = connection
        self._collection = collection
        self._lock = threading.Lock()
        self._latest = 0

    def write(
        self, action: Literal["delete", "erase", "expire"], *, by: str, condition: dict[str, JSON], erased: int, at: int
    ) -> str:
        """Add an entry and return its receipt. `at` is in microseconds since 1970."""
        receipt = new_id()
        entry = {"time": at, "action": action, "by": by, "filter": condition, "erased": erased}
        with self._lock:
            self._latest = max(time.time_ns(), self._latest + 1)
            position = f"{_MAX_POSITION - self._latest:020d}-{receipt}"
        row = {"position": position, "vector": [0.0, 0.0], "receipt": receipt, "entry": split(json.dumps(entry))}
        self._connection.upsert(self._collection, [row])
        return receipt

    def write_expiry(self, count: int, at: int) -> str:
        """Add an entry about `count` records that had expired at `at`, in microseconds, and return its receipt."""
        condition = checks.audit_condition_of_expiry(at)
        return self.write("expire", by=checks.EXPIRY, condition=condition, erased=count, at=at)

    def read(self, limit: int, before: str | None) -> Sequence[AuditEntry]:
        """Return at most `limit` entries, newest first; with `before`, those older than this receipt.

        Raises `InvalidArgument` if `before` is not a receipt of this log.
        """
        last = ""
        if before is not None:
            found = self._connection.query(self._collection, f"receipt == {quoted(before)}", ["position"])
            if not found:
                raise InvalidArgument("before is not a receipt of this audit log")
            last = found[0]["position"]
        fields = ["position", "receipt", "entry"]
        entries: list[AuditEntry] = []
        while len(entries) < limit:
            size = min(limit - len(entries), MAX_ROWS)
            rows = self._connection.query(self._collection, f"position > {quoted(last)}", fields, size)
            for row in rows:
                entry = json.loads("".join(row["entry"]))
                entries.append(AuditEntry(row["receipt"], **(entry | {"time": clock.to_datetime(entry["time"])})))
            if len(rows) < size:
                break
            last = rows[-1]["position"]
        return entries
