"""The gallery and other libraries: same vectors, same queries, one process after the other."""

import importlib
import importlib.util
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.gallery.drawing import TEAM, Drawing, Population, draw
from benchmarks.gallery.embedded import Embedded
from benchmarks.gallery.ground_truth import TOP, Answers, ask
from benchmarks.gallery.scale import MeasurementSettings, draw_ahead, exact_scan, progress, wait_until_idle
from benchmarks.process import MB, ObjectProcess, disk_bytes, footprint
from benchmarks.report import Report
from service.gallery.embedded.index.flat import faiss
from service.gallery.records import Filter

_WANTED_RECALL = 0.99
_EFFORTS = (16, 32, 64, 128, 256, 512, 1024)
_COLLECTION = "tracklets"
_PROBES = 20
"""LanceDB's default; at 100,000 rows more probes find no more, comparing more rows in full precision does."""
Rows = NDArray[np.float32]


class Library(ABC):
    """A library that stores and searches `count` unit vectors `[count, D]`, in a separate process.

    `settings` are values of the one parameter that trades time for recall: the library's default first, then ascending.
    `name` includes the chosen parameters.
    """

    name: ClassVar[str]
    module: ClassVar[str] = "faiss"
    parameter: ClassVar[str] = ""
    settings: ClassVar[tuple[int, ...]] = (0,)
    filters: ClassVar[bool] = True
    durable: ClassVar[bool] = False

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        self._folder, self._dimension, self._count = folder, dimension, count
        self._setting = self.settings[0]
        self._population = Population(count)

    @abstractmethod
    def add(self, start: int, rows: Rows) -> None:
        """Add rows `[n, D]`, numbered from `start`."""

    def finish(self) -> None:  # noqa: B027 (most libraries need nothing)
        """Build what needs all rows."""

    def is_building(self) -> bool:
        """Return whether it builds an index in the background."""
        return False

    @abstractmethod
    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        """Return the numbers of the ten best rows."""

    def search(self, queries: Rows, setting: int, filtered: bool, seconds: float) -> Answers:
        self._setting = setting
        return ask(lambda query: (self.find(query, filtered=filtered), False), queries, 1, seconds)

    def _allowed(self) -> NDArray[np.bool_]:
        allowed: NDArray[np.bool_] = self._population.teams(0, self._count) == TEAM
        return allowed


class Not3d(Library):
    name = "**not3d**, as it comes"
    durable = True

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._gallery = Embedded(folder, dimension, count, None)

    def add(self, start: int, rows: Rows) -> None:
        self._gallery.enrol(start, rows)

    def is_building(self) -> bool:
        return self._gallery.is_building()

    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        return self._gallery.find(query, Filter(metadata={"team": TEAM}) if filtered else Filter())[0]


class FaissFlat(Library):
    name = "FAISS flat, `IndexFlatIP`"

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._index: Any = faiss.IndexFlatIP(dimension)
        self._selector: Any = faiss.IDSelectorBitmap(np.packbits(self._allowed(), bitorder="little"))

    def add(self, start: int, rows: Rows) -> None:  # noqa: ARG002
        self._index.add(rows)

    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        parameters = self._parameters(self._selector if filtered else None)
        return _valid(self._index.search(query[None], TOP, params=parameters)[1][0])

    def _parameters(self, selector: Any) -> Any:
        return faiss.SearchParameters(sel=selector)


class FaissHnsw(FaissFlat):
    name = "FAISS HNSW, M 32, efConstruction 40"
    parameter = "efSearch"
    settings = _EFFORTS

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._index = faiss.IndexHNSWFlat(dimension, 32, faiss.METRIC_INNER_PRODUCT)

    def _parameters(self, selector: Any) -> Any:
        return faiss.SearchParametersHNSW(efSearch=self._setting, sel=selector)


class Hnswlib(Library):
    name = "hnswlib, M 16, ef_construction 200"
    module = "hnswlib"
    parameter = "ef"
    settings = (10, *_EFFORTS)

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._index: Any = importlib.import_module(self.module).Index("ip", dimension)
        self._index.init_index(count, ef_construction=200, M=16)
        self._passing = self._allowed().tolist()

    def add(self, start: int, rows: Rows) -> None:
        self._index.add_items(rows, np.arange(start, start + len(rows)))

    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        """Filter with a Python function, the only way that hnswlib offers."""
        self._index.set_ef(self._setting)
        passes = self._passing.__getitem__ if filtered else None
        try:
            return _valid(self._index.knn_query(query[None], TOP, num_threads=1, filter=passes)[0][0].astype(np.int64))
        except RuntimeError:  # fewer than ten results
            return []


class Usearch(Library):
    name = "usearch, connectivity 16, expansion_add 128, f32"
    module = "usearch.index"
    parameter = "expansion_search"
    settings = (64, *_EFFORTS[3:])
    filters = False

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._index: Any = importlib.import_module(self.module).Index(ndim=dimension, metric="ip", dtype="f32")

    def add(self, start: int, rows: Rows) -> None:
        self._index.add(np.arange(start, start + len(rows)), rows)

    def find(self, query: Rows, *, filtered: bool) -> list[int]:  # noqa: ARG002
        self._index.expansion_search = self._setting
        return _valid(self._index.search(query, TOP).keys.astype(np.int64))


class Lance(Library):
    name = "LanceDB, IVF-PQ, 20 probes"
    module = "lancedb"
    parameter = "refine_factor"
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
        vectors = self._arrow.FixedSizeListArray.from_arrays(self._arrow.array(rows.ravel()), self._dimension)
        numbers, teams = np.arange(start, start + len(rows)), self._population.teams(start, len(rows))
        columns = {"number": numbers, "team": teams, "vector": vectors}
        self._table.add(self._arrow.table(columns, schema=self._schema))

    def finish(self) -> None:
        indexes = importlib.import_module("lancedb.index")
        self._table.optimize(cleanup_older_than=timedelta(milliseconds=1))
        self._table.create_index("vector", config=indexes.IvfPq(distance_type="cosine"))
        self._table.create_index("team", config=indexes.BTree())

    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        request = self._table.search(query, vector_column_name="vector").distance_type("cosine").limit(TOP)
        request = request.nprobes(_PROBES).refine_factor(self._setting).select(["number", "_distance"])
        if filtered:
            request = request.where(f"team = {TEAM}")
        found: list[int] = request.to_arrow()["number"].to_pylist()
        return found


class MilvusLite(Library):
    name = "Milvus Lite, HNSW, M 16, efConstruction 200"
    module = "milvus_lite"
    parameter = "ef"
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
        teams = self._population.teams(start, len(rows))
        batch = [{"number": start + index, "team": int(teams[index]), "vector": row} for index, row in enumerate(rows)]
        self._client.insert(_COLLECTION, batch)

    def finish(self) -> None:
        self._client.flush(_COLLECTION)
        self._client.load_collection(_COLLECTION)

    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        found = self._client.search(
            _COLLECTION,
            data=[query],
            limit=TOP,
            filter=f"team == {TEAM}" if filtered else "",
            search_params={"metric_type": "COSINE", "params": {"ef": self._setting}},
        )
        return [int(hit["number"]) for hit in found[0]]


LIBRARIES: tuple[type[Library], ...] = (Not3d, FaissFlat, FaissHnsw, Hnswlib, Usearch, Lance, MilvusLite)


def _valid(numbers: NDArray[np.int64]) -> list[int]:
    found: list[int] = numbers[numbers >= 0].tolist()
    return found


def measure_peers(
    report: Report,
    folder: Path,
    count: int,
    dimension: int,
    settings: MeasurementSettings,
    names: Sequence[str] | None,
) -> None:
    """Print one table for `count` records; `names` are the first words of the wanted libraries."""
    drawing = draw(count, dimension)
    mask = Population(count).teams(0, count) == TEAM
    report.head(
        f"{count:,} x {dimension:,}", "built in", "RSS, of it before", "disk", "setting", "recall@10", "median ms",
        "p99", f"filter of {100 * mask.mean():.1f} %: recall@10", "median ms", "p99", "wrong",
    )  # fmt: skip
    queries = drawing.queries(settings.judged)
    with exact_scan(drawing, count, queries, [np.ones(count, np.bool_), mask]) as exact:
        for library in LIBRARIES:
            title = library.name.strip("*").lower()
            if names and not any(title.startswith(name.lower()) for name in names):
                continue
            if importlib.util.find_spec(library.module.partition(".")[0]) is None:
                report.row(library.name, f"{library.module} is not installed")
                continue
            began = time.perf_counter()
            try:
                _measure(report, library, exact, folder / library.__name__.lower(), drawing, count, queries, settings)
            finally:
                shutil.rmtree(folder / library.__name__.lower(), ignore_errors=True)
            progress(f"{library.name}: {time.perf_counter() - began:.1f} s in all")
    report.end_table()
    report.say(
        "Each library runs alone in its own process and answers one query at a time: first with its default setting, "
        f"then with the smallest setting that finds {_WANTED_RECALL:.0%}, which is also used under the filter. not3d, "
        "LanceDB and Milvus Lite store the records on disk, the others in memory only. Resident sets include the "
        "Python process and its libraries."
    )


def _measure(
    report: Report,
    library: type[Library],
    exact: ObjectProcess,
    folder: Path,
    drawing: Drawing,
    count: int,
    queries: Rows,
    settings: MeasurementSettings,
) -> None:
    with ObjectProcess(library, folder, drawing.dimension, count) as process:
        before = footprint(process.pid).resident
        built = 0.0
        for start, rows in draw_ahead(drawing, count):
            began = time.perf_counter()
            process.call("add", start, rows)
            built += time.perf_counter() - began
        began = time.perf_counter()
        process.call("finish")
        built += time.perf_counter() - began + wait_until_idle(process, settings.idle_seconds)
        size = f"{disk_bytes(folder) / MB:,.0f} MB" if library.durable else "none"
        memory = f"{footprint(process.pid).resident / MB:,.0f} MB, {before / MB:,.0f}"
        facts = [library.name, f"{built:.1f} s", memory, size]
        for setting in library.settings:
            answers: Answers = process.call("search", queries, setting, False, settings.seconds)
            recall, _ = exact.call("judge", 0, answers.numbers)
            enough = recall >= _WANTED_RECALL or setting == library.settings[-1]
            if not (enough or setting == library.settings[0]):
                continue
            cells = [f"{library.parameter} {setting}" if library.parameter else "", *_figures(answers, recall)]
            under_filter = [""] * 4
            if enough and library.filters:
                answers = process.call("search", queries[: settings.filtered], setting, True, settings.seconds)
                recall, wrong = exact.call("judge", 1, answers.numbers)
                under_filter = [*_figures(answers, recall), str(wrong)]
            elif enough:
                under_filter[0] = "cannot filter"
            report.row(*facts, *cells, *under_filter)
            facts = [""] * 4
            if enough:
                return


def _figures(answers: Answers, recall: float) -> list[str]:
    return [f"{recall:.4f}", f"{answers.median_ms:.2f}", f"{answers.p99_ms:.2f}"]
