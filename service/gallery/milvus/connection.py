"""Calls to a Milvus server: their timeouts, what its errors mean, and how to continue after it restarts."""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from pymilvus import CollectionSchema, MilvusClient, MilvusException
from pymilvus.milvus_client.index import IndexParams

from service.gallery.address import MilvusAddress
from service.gallery.records import DiskFull, GalleryError, GalleryUnavailable

# The library logs every error with a traceback before it raises it. We log an error once, where it is handled.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

MAX_ROWS = 16_384
"""The largest number of rows that Milvus returns for one query or search."""
_CALL_SECONDS = 10.0
_PROBE_SECONDS = 1.0
_LOAD_SECONDS = 60.0
_REQUEST_LOAD_SECONDS = 3.0
"""How long a request waits while a collection is loaded. The server continues to load after that."""
_NOT_LOADED = {101, 102, 106, 202, 502, 503, 601, 602}
"""A collection, partition, channel or segment is not loaded, or not completely, as after a restart of the server."""
_WRONG_REQUEST = {1100, 1101}
_DISK_LIMIT = 7
_MAX_CAUSES = 8
_ACCESS_DENIED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


class Connection:
    """One client of the server, for any thread. Every failure is raised as a `GalleryError`.

    After a call that the server did not answer, the next call first probes the server with a short timeout, so that a
    request to a stopped server takes one second and not ten. If the server has not loaded a collection, as after its
    restart, the collection is loaded and the call is repeated once.
    """

    def __init__(self, address: MilvusAddress) -> None:
        """Connect. Raises `GalleryUnavailable` if the server does not answer, `GalleryError` if it denies access."""
        self._address = address
        self._lost = False
        self._loading = threading.Lock()
        try:
            self._client = MilvusClient(
                uri=address.uri,
                user=address.user,
                password=address.password,
                db_name=address.database,
                timeout=_PROBE_SECONDS * 5,
                dedicated=True,
            )
            self.version = str(self._client.get_server_version(timeout=_CALL_SECONDS))
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise self._translate(error) from error

    def call(self, name: str, /, *args: Any, seconds: float = _CALL_SECONDS, **kwargs: Any) -> Any:
        """Call a method of the library's client."""
        try:
            if self._lost:
                self._client.get_server_version(timeout=_PROBE_SECONDS)
            answer = getattr(self._client, name)(*args, timeout=seconds, **kwargs)
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise self._translate(error) from error
        self._lost = False
        return answer

    def query(
        self, collection: str, where: str, fields: Sequence[str], limit: int | None = None, *, level: str = "Strong"
    ) -> list[Mapping[str, Any]]:
        """Return the rows that pass `where`; with a `limit`, those with the smallest keys, in the order of the keys."""
        more: dict[str, Any] = {}
        if limit is not None:
            # As the library's iterator does: without this, some servers return any rows instead of the first ones.
            more = {"limit": limit, "iterator": "True", "reduce_stop_for_best": True}
        answer = self._call_loaded(
            "query", collection, filter=where, output_fields=list(fields), consistency_level=level, **more
        )
        return list(answer)

    def count(self, collection: str, where: str, *, level: str = "Strong") -> int:
        """Return how many rows pass `where`."""
        return int(self.query(collection, where, ["count(*)"], level=level)[0]["count(*)"])

    def search(self, collection: str, **kwargs: Any) -> list[Mapping[str, Any]]:
        """Return the hits of one query vector."""
        return list(self._call_loaded("search", collection, **kwargs)[0])

    def upsert(self, collection: str, rows: list[dict[str, Any]]) -> None:
        """Insert rows, or replace those with the same keys. Returns when they are in the server's log on disk."""
        self.call("upsert", collection, rows)

    def delete(self, collection: str, where: str) -> None:
        """Remove the rows that pass `where`."""
        self._call_loaded("delete", collection, filter=where)

    def create(self, name: str, schema: CollectionSchema, index: IndexParams, **kwargs: Any) -> None:
        """Create a collection unless it exists, and load it. Several replicas may do this at the same time."""
        if not self.call("has_collection", name):
            try:
                self.call(
                    "create_collection",
                    name,
                    schema=schema,
                    index_params=index,
                    consistency_level="Strong",
                    seconds=_LOAD_SECONDS,
                    **kwargs,
                )
            except GalleryError:
                if not self.call("has_collection", name):  # otherwise another replica has created it
                    raise
        if not self.call("list_indexes", name, field_name="vector"):  # a replica ended before it created the index
            self.call("create_index", name, index, seconds=_LOAD_SECONDS)
        self.load(name)

    def load(self, collection: str, seconds: float = _LOAD_SECONDS) -> None:
        """Load a collection on the server, and wait until it is loaded.

        Raises `GalleryUnavailable` if this takes more than `seconds`, also if another thread is loading it.
        """
        if not self._loading.acquire(timeout=seconds):
            raise GalleryUnavailable(f"Milvus at {self._address} is loading the gallery: try again")
        try:
            self.call("load_collection", collection, seconds=seconds)
        finally:
            self._loading.release()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _call_loaded(self, name: str, collection: str, **kwargs: Any) -> Any:
        try:
            return self.call(name, collection, **kwargs)
        except GalleryUnavailable as error:
            if not isinstance(error.__cause__, MilvusException) or error.__cause__.code not in _NOT_LOADED:
                raise
        self.load(collection, _REQUEST_LOAD_SECONDS)
        return self.call(name, collection, **kwargs)

    def _translate(self, error: MilvusException | grpc.RpcError | grpc.FutureTimeoutError) -> GalleryError:
        code = error.code() if isinstance(error, grpc.Call) else getattr(error, "code", None)
        text = (error.details() if isinstance(error, grpc.Call) else getattr(error, "message", None)) or repr(error)
        if code in _ACCESS_DENIED or "auth check failure" in text or _is_denied(error):
            return GalleryError(
                f"Milvus at {self._address} denies access: check the user and password in NOT3D_GALLERY ({text})"
            )
        if code == _DISK_LIMIT or "disk quota" in text:
            return DiskFull(f"Milvus at {self._address} has no space left: {text}")
        if code in _WRONG_REQUEST or "cannot parse expression" in text:
            return GalleryError(f"Milvus at {self._address} cannot run the request: {text}")
        self._lost = code not in _NOT_LOADED
        return GalleryUnavailable(f"Milvus at {self._address} does not answer: {text}")


def _is_denied(error: BaseException) -> bool:
    """Return whether the server denied access below an error that says only that there is no connection."""
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):  # causes may form a circle
        cause = cause and (cause.__cause__ or cause.__context__)
        if isinstance(cause, grpc.Call) and cause.code() in _ACCESS_DENIED:
            return True
    return False
