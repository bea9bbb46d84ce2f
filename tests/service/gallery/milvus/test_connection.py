"""Errors of Milvus as a caller sees them, and how long a caller waits for a server that is gone."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pymilvus = pytest.importorskip("pymilvus")
grpc = pytest.importorskip("grpc")

from not3d.ports import free_port  # noqa: E402
from service.gallery import DiskFull, GalleryError, GalleryUnavailable  # noqa: E402
from service.gallery.address import MilvusAddress  # noqa: E402
from service.gallery.milvus import connection  # noqa: E402
from service.gallery.milvus.connection import Connection  # noqa: E402
from service.gallery.milvus.schema import quoted  # noqa: E402
from tests.service.gallery.engines import HAS_LITE, milvus_database  # noqa: E402
from tests.service.gallery.samples import record, vector  # noqa: E402


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (2, "Fail connecting to server", GalleryUnavailable),
        (5, "service internal error", GalleryUnavailable),
        (8, "rate limit exceeded", GalleryUnavailable),
        (7, "no space", DiskFull),
        (9, "quota exceeded[reason=disk quota exhausted]", DiskFull),
        (1100, "invalid parameter", GalleryError),
        (65535, "cannot parse expression: id >", GalleryError),
        (65535, "auth check failure, please check username and password are correct", GalleryError),
    ],
)
def test_errors_by_their_code(code: int, message: str, kind: type[GalleryError]) -> None:
    bare = object.__new__(Connection)
    bare._address = MilvusAddress("http://db:19530", "me", "secret")
    error = bare._translate(pymilvus.MilvusException(code=code, message=message))
    assert type(error) is kind
    assert str(error).startswith("Milvus at db:19530 ")
    assert message in str(error)


def test_a_server_that_does_not_run_is_unavailable_quickly() -> None:
    began = time.monotonic()
    with pytest.raises(GalleryUnavailable):
        Connection(MilvusAddress(f"http://127.0.0.1:{free_port()}"))
    assert time.monotonic() - began < 15


def test_a_server_that_denies_access_is_named_and_not_waited_for() -> None:
    """The library reports a failed connection, and the reason only in an error below that one."""

    class Deny(grpc.GenericRpcHandler):
        def service(self, _: Any) -> Any:
            reason = (grpc.StatusCode.UNAUTHENTICATED, "auth check failure")
            return grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(*reason))

    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, [Deny()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with pytest.raises(GalleryError, match="denies access: check the user and password") as error:
            Connection(MilvusAddress(f"http://127.0.0.1:{port}", "root", "wrong"))
        server.stop(None).wait()
    assert type(error.value) is GalleryError


@pytest.mark.parametrize(
    ("text", "literal"), [("a", '"a"'), ('"] or id != "', r'"\"] or id != \""'), ("\\\n\r\t", '"\\\\\\n\\r\t"')]
)
def test_no_character_of_a_text_ends_its_literal(text: str, literal: str) -> None:
    assert quoted(text) == literal


@pytest.mark.skipif(not HAS_LITE, reason="milvus-lite is not installed")
def test_a_collection_that_was_released_is_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a restart of the server. While one thread waits for the load, the others get an error soon."""
    with milvus_database("lite") as database:
        gallery: Any = database.open()
        gallery.put(record("a"))
        for _ in range(2):
            gallery._connection.call("release_collection", gallery._records)
            assert [hit.record.id for hit in gallery.search(vector("a"), 1).hits] == ["a"]
        monkeypatch.setattr(connection, "_REQUEST_LOAD_SECONDS", 0.1)
        gallery._connection.call("release_collection", gallery._records)
        with gallery._connection._loading, pytest.raises(GalleryUnavailable, match="is loading"):
            gallery.get("a")
        assert gallery.get("a") is not None
        gallery.close()
