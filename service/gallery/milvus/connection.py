"""Calls of the Milvus server: how long they may take, what its errors mean, and how it is found again."""

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from pymilvus import CollectionSchema, MilvusClient, MilvusException
from pymilvus.milvus_client.index import IndexParams

from service.gallery.address import MilvusAddress
from service.gallery.records import DiskFull, GalleryError, GalleryUnavailable

# Its library logs every error with a traceback before it raises it; ours are told once, where they are handled.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)

MAX_ROWS = 16_384
"""Most rows that Milvus gives in one answer of a query or a search."""
_CALL_SECONDS = 10.0
_PROBE_SECONDS = 1.0
_LOAD_SECONDS = 60.0
_PATIENCE_SECONDS = 3.0
"""How long a request waits while a collection is loaded, which goes on without it."""
_NOT_LOADED = {101, 102, 106, 202, 502, 503, 601, 602}
"""Collection, partition, channel or segment that is not loaded, or not fully: so after a restart of the server."""
_WRONG_REQUEST = {1100, 1101}
_DISK_LIMIT = 7
_REFUSED_TO_US = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


class Connection:
    """One client of the server, for any thread; every failure comes out as a `GalleryError`.

    Once a call has found nobody, the next ones first ask briefly whether somebody is there, so that a server that is
    down costs a request a second and not ten. A collection that the server has not loaded, as after its restart, is
    loaded and the call made again.
    """

    def __init__(self, address: MilvusAddress) -> None:
        """Connect. Raises `GalleryUnavailable` where nobody answers, `GalleryError` where we are refused."""
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

    @property
    def client(self) -> MilvusClient:
        """The library's own client, for what needs no repetition."""
        return self._client

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
        """The rows that pass `where`; with a `limit`, those with the smallest keys, in their order."""
        more: dict[str, Any] = {}
        if limit is not None:
            # What the library's own iterator sends: without it, some engines give any rows and not the first ones.
            more = {"limit": limit, "iterator": "True", "reduce_stop_for_best": True}
        answer = self._loaded(
            "query", collection, filter=where, output_fields=list(fields), consistency_level=level, **more
        )
        return list(answer)

    def count(self, collection: str, where: str, *, level: str = "Strong") -> int:
        """How many rows pass `where`."""
        return int(self.query(collection, where, ["count(*)"], level=level)[0]["count(*)"])

    def search(self, collection: str, **kwargs: Any) -> list[Mapping[str, Any]]:
        """The hits of one query vector."""
        return list(self._loaded("search", collection, **kwargs)[0])

    def upsert(self, collection: str, rows: list[dict[str, Any]], *, seconds: float = _CALL_SECONDS) -> None:
        """Write rows; those of the same key are replaced. Returns once they are in the server's log on disk."""
        self.call("upsert", collection, rows, seconds=seconds)

    def delete(self, collection: str, where: str) -> None:
        """Remove the rows that pass `where`."""
        self._loaded("delete", collection, filter=where)

    def create(self, name: str, schema: CollectionSchema, index: IndexParams, **kwargs: Any) -> None:
        """Create and load a collection, unless there is one. Several replicas may do so at once."""
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
                if not self.call("has_collection", name):  # else another replica was faster
                    raise
        if not self.call("list_indexes", name, field_name="vector"):  # a replica died between the two
            self.call("create_index", name, index, seconds=_LOAD_SECONDS)
        self.load(name)

    def load(self, collection: str, seconds: float = _LOAD_SECONDS) -> None:
        """Make the server load a collection, and wait until it has.

        Raises `GalleryUnavailable` where that takes longer, also while another thread waits for it.
        """
        if not self._loading.acquire(timeout=seconds):
            raise GalleryUnavailable(f"Milvus at {self._address} is loading the gallery")
        try:
            self.call("load_collection", collection, seconds=seconds)
        finally:
            self._loading.release()

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def _loaded(self, name: str, collection: str, **kwargs: Any) -> Any:
        try:
            return self.call(name, collection, **kwargs)
        except GalleryUnavailable as error:
            if not isinstance(error.__cause__, MilvusException) or error.__cause__.code not in _NOT_LOADED:
                raise
        self.load(collection, _PATIENCE_SECONDS)
        return self.call(name, collection, **kwargs)

    def _translate(self, error: MilvusException | grpc.RpcError | grpc.FutureTimeoutError) -> GalleryError:
        code = error.code() if isinstance(error, grpc.Call) else getattr(error, "code", None)
        text = (error.details() if isinstance(error, grpc.Call) else getattr(error, "message", None)) or repr(error)
        if code in _REFUSED_TO_US or "auth check failure" in text:
            return GalleryError(f"Milvus at {self._address} refuses the user or the password of NOT3D_GALLERY: {text}")
        if code == _DISK_LIMIT or "disk quota" in text:
            return DiskFull(f"Milvus at {self._address} has no space left: {text}")
        if code in _WRONG_REQUEST or "cannot parse expression" in text:
            return GalleryError(f"Milvus at {self._address} did not understand: {text}")
        self._lost = code not in _NOT_LOADED
        return GalleryUnavailable(f"Milvus at {self._address} does not answer as it should: {text}")
