"""The audit log in Milvus: a collection to which entries are only ever added."""

import json
import threading
import time
from collections.abc import Sequence
from typing import Literal

from service.gallery import checks, clock
from service.gallery.milvus.connection import MAX_ROWS, Connection
from service.gallery.milvus.expressions import quoted
from service.gallery.milvus.schema import split
from service.gallery.records import JSON, AuditEntry, InvalidArgument
from service.ids import new_id

_LAST = 10**20 - 1


class Journal:
    """Entries under keys that fall as time goes on, because Milvus gives the smallest keys first.

    The order is that of the replicas' clocks; entries of one replica are in the order they were written.
    """

    def __init__(self, connection: Connection, collection: str) -> None:
        self._connection = connection
        self._collection = collection
        self._lock = threading.Lock()
        self._latest = 0

    def write(
        self, action: Literal["delete", "erase", "expire"], *, by: str, condition: dict[str, JSON], erased: int, at: int
    ) -> str:
        """Add an entry; its receipt. `at` is in microseconds since 1970."""
        receipt = new_id()
        entry = {"time": at, "action": action, "by": by, "filter": condition, "erased": erased}
        with self._lock:
            self._latest = max(time.time_ns(), self._latest + 1)
            position = f"{_LAST - self._latest:020d}-{receipt}"
        row = {"position": position, "vector": [0.0, 0.0], "receipt": receipt, "entry": split(json.dumps(entry))}
        self._connection.upsert(self._collection, [row])
        return receipt

    def write_expiry(self, count: int, at: int) -> str:
        """Add an entry on `count` records that had expired at the moment `at`, in microseconds; its receipt."""
        condition = checks.audit_condition_of_expiry(at)
        return self.write("expire", by=checks.EXPIRY, condition=condition, erased=count, at=at)

    def read(self, limit: int, before: str | None) -> Sequence[AuditEntry]:
        """At most `limit` entries, newest first, older than the receipt `before`.

        Raises `InvalidArgument` for a receipt that nobody was given.
        """
        last = ""
        if before is not None:
            found = self._connection.query(self._collection, f"receipt == {quoted(before)}", ["position"])
            if not found:
                raise InvalidArgument("before is not a receipt of this audit log")
            last = found[0]["position"]
        entries: list[AuditEntry] = []
        while len(entries) < limit:
            step = min(limit - len(entries), MAX_ROWS)
            part = self._connection.query(
                self._collection, f"position > {quoted(last)}", ["position", "receipt", "entry"], step
            )
            for row in part:
                entry = json.loads("".join(row["entry"]))
                entries.append(AuditEntry(row["receipt"], **(entry | {"time": clock.to_datetime(entry["time"])})))
            if len(part) < step:
                break
            last = part[-1]["position"]
        return entries
