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

from benchmarks.gallery.drawing import TEAM, Population, draw
from benchmarks.gallery.embedded import Embedded
from benchmarks.gallery.ground_truth import TOP, Answers, Flat, Truth, ask, recall_of, spoilt
from benchmarks.gallery.process import Process, disk_bytes
from benchmarks.gallery.scale import Effort, ahead, progress, until_quiet
from benchmarks.serving.process import MB
from benchmarks.serving.report import Report
from service.gallery.embedded.index.flat import faiss
from service.gallery.records import Filter

_WANTED = 0.99


_EFFORTS = (16, 32, 64, 128, 256, 512, 1024)
_COLLECTION = "tracklets"
_PROBES = 20
"""LanceDB's default; at 100,000 rows more probes find no more, comparing more rows in full precision does."""
Rows = NDArray[np.float32]


class Contender(ABC):
    """A library that stores and searches `count` unit vectors `[count, D]`, in a process of its own.

    `settings` are values of the one parameter that trades time for recall: the library's default first, then ascending.
    `name` includes the chosen parameters.
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
        """Add rows `[n, D]`, numbered from `start`."""

    def finish(self) -> None:  # noqa: B027 (most libraries need nothing)
        """Build what needs all rows."""

    def at_work(self) -> bool:
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


class Not3d(Contender):
    name = "**not3d**, as it comes"
    durable = True

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._gallery = Embedded(folder, dimension, count, None)

    def add(self, start: int, rows: Rows) -> None:
        self._gallery.enrol(start, rows)

    def at_work(self) -> bool:
        return self._gallery.at_work()

    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        return self._gallery.find(query, Filter(metadata={"team": TEAM}) if filtered else Filter())[0]


class FaissFlat(Contender):
    name = "FAISS flat, `IndexFlatIP`"

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._index: Any = faiss.IndexFlatIP(dimension)
        self._selector: Any = faiss.IDSelectorBitmap(np.packbits(self._allowed(), bitorder="little"))

    def add(self, start: int, rows: Rows) -> None:  # noqa: ARG002
        self._index.add(rows)

    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        parameters = self._parameters(self._selector if filtered else None)
        return _kept(self._index.search(query[None], TOP, params=parameters)[1][0])

    def _parameters(self, selector: Any) -> Any:
        return faiss.SearchParameters(sel=selector)


class FaissHnsw(FaissFlat):
    name = "FAISS HNSW, M 32, efConstruction 40"
    knob = "efSearch"
    settings = _EFFORTS

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._index = faiss.IndexHNSWFlat(dimension, 32, faiss.METRIC_INNER_PRODUCT)

    def _parameters(self, selector: Any) -> Any:
        return faiss.SearchParametersHNSW(efSearch=self._setting, sel=selector)


class Hnswlib(Contender):
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
        self._index.add_items(rows, np.arange(start, start + len(rows)))

    def find(self, query: Rows, *, filtered: bool) -> list[int]:
        """Filter with a Python function, the only way that hnswlib offers."""
        self._index.set_ef(self._setting)
        passes = self._passing.__getitem__ if filtered else None
        try:
            return _kept(self._index.knn_query(query[None], TOP, num_threads=1, filter=passes)[0][0].astype(np.int64))
        except RuntimeError:  # fewer than ten results
            return []


class Usearch(Contender):
    name = "usearch, connectivity 16, expansion_add 128, f32"
    module = "usearch.index"
    knob = "expansion_search"
    settings = (64, *_EFFORTS[3:])
    filters = False

    def __init__(self, folder: Path, dimension: int, count: int) -> None:
        super().__init__(folder, dimension, count)
        self._index: Any = importlib.import_module(self.module).Index(ndim=dimension, metric="ip", dtype="f32")

    def add(self, start: int, rows: Rows) -> None:
        self._index.add(np.arange(start, start + len(rows)), rows)

    def find(self, query: Rows, *, filtered: bool) -> list[int]:  # noqa: ARG002
        self._index.expansion_search = self._setting
        return _kept(self._index.search(query, TOP).keys.astype(np.int64))


class Lance(Contender):
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
        asked = self._table.search(query, vector_column_name="vector").distance_type("cosine").limit(TOP)
        asked = asked.nprobes(_PROBES).refine_factor(self._setting).select(["number", "_distance"])
        if filtered:
            asked = asked.where(f"team = {TEAM}")
        found: list[int] = asked.to_arrow()["number"].to_pylist()
        return found


class MilvusLite(Contender):
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
        teams = self._population.teams(start, len(rows))
        batch = [{"number": start + place, "team": int(teams[place]), "vector": row} for place, row in enumerate(rows)]
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


CONTENDERS: tuple[type[Contender], ...] = (Not3d, FaissFlat, FaissHnsw, Hnswlib, Usearch, Lance, MilvusLite)


def _kept(numbers: NDArray[np.int64]) -> list[int]:
    found: list[int] = numbers[numbers >= 0].tolist()
    return found


class _Judge:
    """Compares answers with the true ones, which a process of its own holds."""

    def __init__(self, flat: Process, truth: Truth, mask: NDArray[np.bool_]) -> None:
        self._flat, self._truth, self._mask = flat, truth, mask

    def recall(self, answers: Answers, *, filtered: bool) -> float:
        return recall_of(self._truth, int(filtered), answers.numbers, self._flat.ask("scores", answers.numbers))

    def wrong(self, answers: Answers) -> int:
        """Count filtered answers with rows that do not pass or that are too few."""
        return spoilt(self._mask, answers.numbers, self._truth.wanted(1))


def measure_peers(
    report: Report, folder: Path, count: int, dimension: int, effort: Effort, names: Sequence[str] | None
) -> None:
    """Print one table for `count` records; `names` are the first words of the wanted libraries."""
    drawing = draw(count, dimension)
    queries = drawing.queries(effort.judged)
    mask = Population(count).teams(0, count) == TEAM
    report.head(
        f"{count:,} x {dimension:,}", "built in", "RSS, of it before", "disk", "setting", "recall@10", "median ms",
        "p99", f"filter of {100 * mask.mean():.1f} %: recall@10", "median ms", "p99", "wrong",
    )  # fmt: skip
    with Process(Flat, dimension, queries, [np.ones(count, np.bool_), mask]) as flat:
        for start, rows in ahead(drawing, count):
            flat.ask("add", start, rows)
        judge = _Judge(flat, flat.ask("truth"), mask)
        for contender in CONTENDERS:
            title = contender.name.strip("*").lower()
            if names and not any(title.startswith(name.lower()) for name in names):
                continue
            if importlib.util.find_spec(contender.module.partition(".")[0]) is None:
                report.row(contender.name, f"{contender.module} is not installed")
                continue
            place = folder / contender.__name__.lower()
            try:
                began = time.perf_counter()
                _measure(report, contender, judge, place, drawing, count, queries, effort)
                progress(f"{contender.name}: {time.perf_counter() - began:.1f} s in all")
            finally:
                shutil.rmtree(place, ignore_errors=True)
    report.end_table()
    report.say(
        "Each library runs alone in its own process and answers one query at a time: first with its default setting, "
        f"then with the smallest setting that finds {_WANTED:.0%}, which is also used under the filter. not3d, "
        "LanceDB and Milvus Lite store the records on disk, the others in memory only. Resident sets include the "
        "Python process and its libraries."
    )


def _measure(
    report: Report,
    contender: type[Contender],
    judge: _Judge,
    folder: Path,
    drawing: Any,
    count: int,
    queries: NDArray[np.float32],
    effort: Effort,
) -> None:
    with Process(contender, folder, drawing.dimension, count) as process:
        before = process.memory.now
        built = 0.0
        for start, rows in ahead(drawing, count):
            began = time.perf_counter()
            process.ask("add", start, rows)
            built += time.perf_counter() - began
        began = time.perf_counter()
        process.ask("finish")
        built += time.perf_counter() - began + until_quiet(process, effort.quiet)
        size = f"{disk_bytes(folder) / MB:,.0f} MB" if contender.durable else "none"
        first = True
        for setting in contender.settings:
            answers: Answers = process.ask("search", queries, setting, False, effort.seconds)
            recall = judge.recall(answers, filtered=False)
            enough = recall >= _WANTED or setting == contender.settings[-1]
            if not (first or enough):
                continue
            told = [contender.name if first else "", f"{built:.1f} s" if first else ""]
            memory = process.memory
            told.append(f"{memory.now / MB:,.0f} MB, {before / MB:,.0f}" if first else "")
            told += [size if first else "", f"{contender.knob} {setting}" if contender.knob else ""]
            told += [f"{recall:.4f}", f"{answers.median_ms:.2f}", f"{answers.p99_ms:.2f}"]
            report.row(*told, *(_filtered(process, contender, judge, setting, queries, effort) if enough else [""] * 4))
            first = False
            if enough:
                return


def _filtered(
    process: Process,
    contender: type[Contender],
    judge: _Judge,
    setting: int,
    queries: NDArray[np.float32],
    effort: Effort,
) -> list[str]:
    if not contender.filters:
        return ["cannot filter", "", "", ""]
    answers: Answers = process.ask("search", queries[: effort.filtered], setting, True, effort.seconds)
    recall = judge.recall(answers, filtered=True)
    return [f"{recall:.4f}", f"{answers.median_ms:.2f}", f"{answers.p99_ms:.2f}", str(judge.wrong(answers))]
