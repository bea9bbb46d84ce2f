"""The engines on which the tests of the protocol run: embedded, Milvus Lite, and a Milvus server if one is named.

`NOT3D_TEST_MILVUS=http://127.0.0.1:19530` names the server. The tests create collections and drop them at the end.
"""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from service.gallery import Gallery
from service.gallery.address import MilvusAddress
from tests.service.gallery.samples import DIMENSION

SERVER = os.environ.get("NOT3D_TEST_MILVUS")
HAS_LITE = all(map(importlib.util.find_spec, ("pymilvus", "milvus_lite")))
ENGINES = [
    "embedded",
    pytest.param("lite", marks=pytest.mark.skipif(not HAS_LITE, reason="milvus-lite is not installed")),
    pytest.param("server", marks=pytest.mark.skipif(not SERVER, reason="NOT3D_TEST_MILVUS names no server")),
]
MILVUS = ENGINES[1:]


class MilvusDatabase:
    """The collections of one embedding space, in which several galleries can be open, as of several replicas."""

    def __init__(self, address: MilvusAddress, space: str | None = None, dimension: int = DIMENSION) -> None:
        self.address, self.dimension = address, dimension
        self.space = space or uuid4().hex[:16]

    def open(self) -> Gallery:
        from service.gallery.milvus import MilvusGallery

        facts: dict[str, Any] = {"embedding_space": self.space, "dimension": self.dimension, "model_name": "sample"}
        return MilvusGallery.open(self.address, **facts)

    def collections(self) -> list[str]:
        from service.gallery.milvus.gallery import collection_suffix

        return [f"not3d_{collection_suffix(self.space)}{suffix}" for suffix in ("", "_audit", "_claims")]

    def empty(self) -> None:
        from service.gallery.milvus.connection import Connection

        connection = Connection(self.address)
        for name, key in zip(self.collections(), ("id", "position", "claim"), strict=True):
            connection.delete(name, f'{key} > ""')
        connection.close()

    def drop(self) -> None:
        from service.gallery.milvus.connection import Connection

        connection = Connection(self.address)
        for name in (
            *self.collections(),
            *(f"{self.collections()[0]}_{each}" for each in ("watchlists", "alerts", "deliveries", "judged")),
        ):
            if connection.call("has_collection", name):
                connection.call("drop_collection", name)
        connection.close()


@contextmanager
def milvus_database(name: str, space: str | None = None, dimension: int = DIMENSION) -> Iterator[MilvusDatabase]:
    """Milvus Lite in a temporary folder, or the server; of a new embedding space unless one is given."""
    with tempfile.TemporaryDirectory() as folder:
        address = MilvusAddress(str(Path(folder) / "lite.db") if name == "lite" else SERVER or "")
        database = MilvusDatabase(address, space, dimension)
        if name != "lite" and space:  # an earlier run that was ended may have left it
            database.drop()
        yield database
        if name != "lite":  # its folder is removed
            database.drop()
