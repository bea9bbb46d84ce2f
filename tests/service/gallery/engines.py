"""The engines on which the tests of the protocol run: embedded, Milvus Lite, and a Milvus server if one is named.

`NOT3D_TEST_MILVUS=http://127.0.0.1:19530` names the server. The tests create collections and drop them at the end.
"""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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

    def __init__(self, address: MilvusAddress) -> None:
        self.address = address
        self.space = uuid4().hex[:16]

    def open(self) -> Gallery:
        from service.gallery.milvus import MilvusGallery

        return MilvusGallery.open(self.address, embedding_space=self.space, dimension=DIMENSION, model_name="sample")

    def collections(self) -> list[str]:
        return [f"not3d_{self.space}{suffix}" for suffix in ("", "_audit", "_claims")]

    def empty(self) -> None:
        from service.gallery.milvus.connection import Connection

        connection = Connection(self.address)
        for name, key in zip(self.collections(), ("id", "position", "claim"), strict=True):
            connection.delete(name, f'{key} > ""')
        connection.close()

    def drop(self) -> None:
        from service.gallery.milvus.connection import Connection

        connection = Connection(self.address)
        for name in self.collections():
            connection.call("drop_collection", name)
        connection.close()


@contextmanager
def milvus_database(name: str) -> Iterator[MilvusDatabase]:
    """Milvus Lite in a temporary folder, or the server."""
    with tempfile.TemporaryDirectory() as folder:
        address = MilvusAddress(str(Path(folder) / "lite.db") if name == "lite" else SERVER or "")
        database = MilvusDatabase(address)
        yield database
        if name != "lite":  # its folder is removed
            database.drop()
