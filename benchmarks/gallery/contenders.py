"""Other libraries under one roof: rows in, the ten best out, where they can with a filter of one key."""

import importlib
from abc import ABC, abstractmethod
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery.answers import TOP, Answers
from benchmarks.gallery.embedded import Embedded, ask
from benchmarks.gallery.population import TEAM, Population
from service.gallery.embedded.index.flat import faiss
from service.gallery.records import Filter

_EFFORTS = (16, 32, 64, 128, 256, 512, 1024)
_COLLECTION = "tracklets"
_PROBES = 20
"""LanceDB's own choice; at 100,000 rows more of them find nothing more, comparing more rows in full does."""
Rows = NDArray[np.float32]


class Contender(ABC):
    """A way to keep and search ``count`` unit vectors ``[count, D]``, in a process of its own.

    ``settings`` are values of the one knob that trades time for recall, the library's own choice first; the rest
    ascends. ``name`` says the parameters that were chosen for it.
    """

    name: ClassVar[str]
    module: ClassVar[str] = "faiss"
    knob: ClassVar[str] = ""
    settings: ClassVar[tuple[int, ...]] = (0,)
    filters: ClassVar[bool] = True
    durable: ClassVar[bool] = False

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        self._folder, self._dimension, self._count = folder, dimension, count
        self._setting = self.settings[0]
        self._population = Population(count)

    @abstractmethod
    def add(self, start: int, rows: Rows) -> None:
        """Rows ``[n, D]`` from number ``start`` on."""

    def finish(self) -> None:  # noqa: B027 (most have nothing to do)
        """Build what is built once all rows are there."""

    def at_work(self) -> bool:
        """Whether it builds in the background by its own account."""
        return False

    @abstractmethod
    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        """Numbers of the ten best."""

    def search(self, queries: Rows, setting: int, filtered: bool, seconds: float) -> Answers:
        """Ask one query after the other."""
        self._setting = setting
        return ask(lambda query: (self.find(query, filtered=filtered), False), queries, 1, seconds)

    def _allowed(self) -> NDArray[np.bool_]:
        allowed: NDArray[np.bool_] = self._population.teams(0, self._count) == TEAM
        return allowed


class Not3d(Contender):
    """The project's gallery."""

    name = "**not3d**, as it comes"
    durable = True

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._gallery = Embedded(folder, dimension, count, None)

    def add(self, start: int, rows: Rows) -> None:
        """Enrol in bulk."""
        self._gallery.enrol(start, rows)

    def at_work(self) -> bool:
        """Whether an index is made."""
        return self._gallery.at_work()

    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        """Through the gallery's own method."""
        return self._gallery.find(query, Filter(metadata={"team": TEAM}) if filtered else Filter())[0]


class FaissFlat(Contender):
    """The exact scan."""

    name = "FAISS flat, `IndexFlatIP`"

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._index: Any = faiss.IndexFlatIP(dimension)
        self._selector: Any = faiss.IDSelectorBitmap(np.packbits(self._allowed(), bitorder="little"))

    def add(self, start: int, rows: Rows) -> None:  # noqa: ARG002
        """The next rows."""
        self._index.add(rows)

    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        """With a selector where filtered."""
        parameters = self._parameters(self._selector if filtered else None)
        return _kept(self._index.search(query[None], TOP, params=parameters)[1][0])

    def _parameters(self, selector: Any) -> Any:
        return faiss.SearchParameters(sel=selector)


class FaissHnsw(FaissFlat):
    """FAISS's graph."""

    name = "FAISS HNSW, M 32, efConstruction 40"
    knob = "efSearch"
    settings = _EFFORTS

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._index = faiss.IndexHNSWFlat(dimension, 32, faiss.METRIC_INNER_PRODUCT)

    def _parameters(self, selector: Any) -> Any:
        return faiss.SearchParametersHNSW(efSearch=self._setting, sel=selector)


class Hnswlib(Contender):
    """The graph of its inventors."""

    name = "hnswlib, M 16, ef_construction 200"
    module = "hnswlib"
    knob = "ef"
    settings = (10, *_EFFORTS)

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._index: Any = importlib.import_module(self.module).Index("ip", dimension)
        self._index.init_index(count, ef_construction=200, M=16)
        self._passing = self._allowed().tolist()

    def add(self, start: int, rows: Rows) -> None:
        """With all cores."""
        self._index.add_items(rows, np.arange(start, start + len(rows)))

    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        """With a Python function as the filter, which is how it filters."""
        self._index.set_ef(self._setting)
        passes = self._passing.__getitem__ if filtered else None
        try:
            return _kept(self._index.knn_query(query[None], TOP, num_threads=1, filter=passes)[0][0].astype(np.int64))
        except RuntimeError:  # it found fewer than ten
            return []


class Usearch(Contender):
    """A graph without filters."""

    name = "usearch, connectivity 16, expansion_add 128, f32"
    module = "usearch.index"
    knob = "expansion_search"
    settings = (64, *_EFFORTS[3:])
    filters = False

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._index: Any = importlib.import_module(self.module).Index(ndim=dimension, metric="ip", dtype="f32")

    def add(self, start: int, rows: Rows) -> None:
        """With all cores."""
        self._index.add(np.arange(start, start + len(rows)), rows)

    def find(self, query: Rows, *, filtered: bool) -> list[int]:  # noqa: ARG002
        """Plain."""
        self._index.expansion_search = self._setting
        return _kept(self._index.search(query, TOP).keys.astype(np.int64))


class Lance(Contender):
    """A columnar file with an index of product codes."""

    name = "LanceDB, IVF-PQ, 20 probes"
    module = "lancedb"
    knob = "refine_factor"
    settings = (10, 20, 40, 80, 160)
    durable = True

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._arrow: Any = importlib.import_module("pyarrow")
        vector = self._arrow.list_(self._arrow.float32(), dimension)
        fields = ("number", self._arrow.int64()), ("team", self._arrow.int64()), ("vector", vector)
        self._schema = self._arrow.schema(fields)
        connection = importlib.import_module(self.module).connect(str(folder))
        self._table: Any = connection.create_table(_COLLECTION, schema=self._schema)

    def add(self, start: int, rows: Rows) -> None:
        """As a batch."""
        vectors = self._arrow.FixedSizeListArray.from_arrays(self._arrow.array(rows.ravel()), self._dimension)
        numbers, teams = np.arange(start, start + len(rows)), self._population.teams(start, len(rows))
        columns = {"number": numbers, "team": teams, "vector": vectors}
        self._table.add(self._arrow.table(columns, schema=self._schema))

    def finish(self) -> None:
        """Join the batches' files, and index vectors and key."""
        indexes = importlib.import_module("lancedb.index")
        self._table.optimize(cleanup_older_than=timedelta(milliseconds=1))
        self._table.create_index("vector", config=indexes.IvfPq(distance_type="cosine"))
        self._table.create_index("team", config=indexes.BTree())

    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        """Filtered first, then searched."""
        asked = self._table.search(query, vector_column_name="vector").distance_type("cosine").limit(TOP)
        asked = asked.nprobes(_PROBES).refine_factor(self._setting).select(["number", "_distance"])
        if filtered:
            asked = asked.where(f"team = {TEAM}")
        found: list[int] = asked.to_arrow()["number"].to_pylist()
        return found


class MilvusLite(Contender):
    """Milvus in a file."""

    name = "Milvus Lite, HNSW, M 16, efConstruction 200"
    module = "milvus_lite"
    knob = "ef"
    settings = _EFFORTS
    durable = True

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        milvus = importlib.import_module("pymilvus")
        folder.mkdir(parents=True, exist_ok=True)
        self._client: Any = milvus.MilvusClient(str(folder / "milvus.db"))
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("number", milvus.DataType.INT64, is_primary=True)
        schema.add_field("team", milvus.DataType.INT64)
        schema.add_field("vector", milvus.DataType.FLOAT_VECTOR, dim=dimension)
        indexes = self._client.prepare_index_params()
        parameters = {"M": 16, "efConstruction": 200}
        indexes.add_index("vector", index_type="HNSW", metric_type="COSINE", params=parameters)
        self._client.create_collection(_COLLECTION, schema=schema, index_params=indexes)

    def add(self, start: int, rows: Rows) -> None:
        """As a batch."""
        teams = self._population.teams(start, len(rows))
        batch = [{"number": start + place, "team": int(teams[place]), "vector": row} for place, row in enumerate(rows)]
        self._client.insert(_COLLECTION, batch)

    def finish(self) -> None:
        """Seal what is there, so that it is indexed."""
        self._client.flush(_COLLECTION)
        self._client.load_collection(_COLLECTION)

    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        """With an expression as the filter."""
        found = self._client.search(
            _COLLECTION,
            data=[query],
            limit=TOP,
            filter=f"team == {TEAM}" if filtered else "",
            search_params={"metric_type": "COSINE", "params": {"ef": self._setting}},
        )
        return [int(hit["number"]) for hit in found[0]]


CONTENDERS: tuple[type[Contender], ...] = (Not3d, FaissFlat, FaissHnsw, Hnswlib, Usearch, Lance, MilvusLite)


def _kept(numbers: NDArray[np.int64]) -> list[int]:
    found: list[int] = numbers[numbers >= 0].tolist()
    return found
