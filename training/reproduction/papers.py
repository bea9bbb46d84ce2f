"""The papers' tables as data: figures, conditions and the recipe of each row; see ``tables/*.toml``."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from model.errors import Not3dError
from training.datasets.catalog import DatasetKind

TABLES = Path(__file__).parent / "tables"
"""A file per paper."""


class ReproductionError(Not3dError):
    """What was asked for is in no paper's tables, or cannot be run as asked."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Part):
    """A training that comes before a row's own, whose trunk and attention the row starts from."""

    recipe: str
    data: tuple[DatasetKind, ...]


class Row(_Part):
    """One system on one dataset, and the figures that the paper prints for it, in percent."""

    name: str
    recipe: str = Field(description="name of a recipe that comes with the project")
    data: DatasetKind
    figures: dict[str, float] = Field(description="by the name that an evaluation gives the measure")
    source: Source | None = None
    note: str = ""

    @property
    def kinds(self) -> list[DatasetKind]:
        """The datasets that the row needs, its own first."""
        return list(dict.fromkeys((self.data, *(self.source.data if self.source else ()))))


class Table(_Part):
    """A table of a paper, or what it says of one subject; ``number`` only where it is known."""

    name: str
    number: int | None = None
    title: str
    rows: tuple[Row, ...]


class Conditions(_Part):
    """How a paper measured on a dataset, as far as it is known."""

    protocols: tuple[str, ...] = Field(description="names of evaluation protocols; several where it may be any")
    queries: int | None = None
    split: str
    default_split: int | None = Field(None, description="the split that is run unless another one is asked for")


class Paper(_Part):
    """One paper."""

    name: str
    title: str
    seed: str
    selection: str = Field(description="how its epoch was chosen")
    notes: tuple[str, ...] = ()
    conditions: dict[DatasetKind, Conditions]
    tables: tuple[Table, ...]

    def table(self, number_or_name: str) -> Table:
        """A table by its number or its name.

        Raises:
            ReproductionError: there is none; the message lists those there are.
        """
        for table in self.tables:
            if number_or_name in (table.name, str(table.number)):
                return table
        known = ", ".join(t.name if t.number is None else f"{t.number} ({t.name})" for t in self.tables)
        raise ReproductionError(f"--table {number_or_name}: of {self.name} there are {known}")


def load_papers() -> dict[str, Paper]:
    """All papers by name, in the order of systems A, B, C."""
    papers = [Paper.model_validate(tomllib.loads(p.read_text(encoding="utf-8"))) for p in TABLES.glob("*.toml")]
    order = ("not3d", "fantastic", "aas-rfu")
    return {paper.name: paper for paper in sorted(papers, key=lambda paper: order.index(paper.name))}


def select_rows(
    paper: str | None = None, table: str | None = None, row: str | None = None
) -> list[tuple[Paper, Table, Row]]:
    """The rows of a paper and table, or of all; ``row`` is a name, or a pattern such as ``*-mars``.

    Raises:
        ReproductionError: no such paper, table or row; the message lists those there are.
    """
    papers = load_papers()
    if paper is not None and paper not in papers:
        raise ReproductionError(f"--paper {paper}: known are {', '.join(papers)}")
    if table is not None and paper is None:
        raise ReproductionError("--table needs --paper: tables of different papers share names")
    chosen = [papers[paper]] if paper is not None else list(papers.values())
    found = [
        (each, part, line)
        for each in chosen
        for part in ([each.table(table)] if table is not None else each.tables)
        for line in part.rows
    ]
    rows = [item for item in found if row is None or fnmatch(item[2].name, row)]
    if not rows:
        raise ReproductionError(f"--row {row}: there are {', '.join(item[2].name for item in found)}")
    return rows
