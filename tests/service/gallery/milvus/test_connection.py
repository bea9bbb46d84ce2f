"""What Milvus's errors mean to a caller, and how long a caller waits for one that is gone."""

import time
from typing import Any

import pytest

pymilvus = pytest.importorskip("pymilvus")

from service.gallery import DiskFull, GalleryError, GalleryUnavailable  # noqa: E402
from service.gallery.address import MilvusAddress  # noqa: E402
from service.gallery.milvus import connection  # noqa: E402
from service.gallery.milvus.connection import Connection  # noqa: E402
from service.gallery.milvus.expressions import quoted  # noqa: E402
from tests.service.gallery.engines import HAS_LITE, milvus_place  # noqa: E402
from tests.service.gallery.samples import record, vector  # noqa: E402
from tests.service.test_server import free_port  # noqa: E402


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        (2, "Fail connecting to server", GalleryUnavailable),
        (5, "service internal error", GalleryUnavailable),
        (8, "rate limit exceeded", GalleryUnavailable),
        (7, "no room", DiskFull),
        (9, "quota exceeded[reason=disk quota exhausted]", DiskFull),
        (1100, "invalid parameter", GalleryError),
        (65535, "cannot parse expression: id >", GalleryError),
        (65535, "auth check failure, please check username and password are correct", GalleryError),
    ],
)
def test_errors_by_their_code(code: int, message: str, kind: type[GalleryError]) -> None:
    bare = object.__new__(Connection)
    bare._address = MilvusAddress("http://db:19530", "me", "secret")
    told = bare._translate(pymilvus.MilvusException(code=code, message=message))
    assert type(told) is kind
    assert str(told).startswith("Milvus at db:19530 ")
    assert message in str(told)


def test_a_server_that_is_not_there_is_found_out_quickly() -> None:
    began = time.monotonic()
    with pytest.raises(GalleryUnavailable):
        Connection(MilvusAddress(f"http://127.0.0.1:{free_port()}"))
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("text", "literal"), [("a", '"a"'), ('"] or id != "', r'"\"] or id != \""'), ("\\\n\r\t", '"\\\\\\n\\r\t"')]
)
def test_nothing_in_a_text_ends_its_literal(text: str, literal: str) -> None:
    assert quoted(text) == literal


@pytest.mark.skipif(not HAS_LITE, reason="milvus-lite is not installed")
def test_a_collection_that_was_let_go_is_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a restart of the server; while one thread waits for it, the others are refused before long."""
    with milvus_place("lite") as place:
        gallery: Any = place.open()
        gallery.put(record("a"))
        for _ in range(2):
            gallery._connection.call("release_collection", gallery._records)
            assert [hit.record.id for hit in gallery.search(vector("a"), 1).hits] == ["a"]
        monkeypatch.setattr(connection, "_PATIENCE_SECONDS", 0.1)
        gallery._connection.call("release_collection", gallery._records)
        with gallery._connection._loading, pytest.raises(GalleryUnavailable, match="is loading"):
            gallery.get("a")
        assert gallery.get("a") is not None
        gallery.close()
