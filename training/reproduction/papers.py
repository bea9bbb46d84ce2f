"""The tables of the papers as data: figures, conditions and the recipe of each row; see `tables/*.toml`."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from model.errors import Not3dError
from training.datasets.catalog import DatasetKind

TABLES = Path(__file__).parent / "tables"
"""One file for each paper."""


class ReproductionError(Not3dError):
    """The requested row is not in the tables, or cannot be run."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Part):
    """A training before that of the row; the row starts from its backbone and attention."""

    recipe: str
    data: tuple[DatasetKind, ...]


class Row(_Part):
    """One system on one dataset, and the figures that the paper prints for it, in per cent."""

    name: str
    recipe: str = Field(description="name of a recipe that comes with the project")
    data: DatasetKind
    figures: dict[str, float] = Field(description="by the name of the measure in an evaluation")
    source: Source | None = None
    note: str = ""

    @property
    def kinds(self) -> list[DatasetKind]:
        """The datasets that the row needs; the one that it is measured on comes first."""
        return list(dict.fromkeys((self.data, *(self.source.data if self.source else ()))))


class Table(_Part):
    """A table of a paper, or what the paper says on one subject; `number` if it is known."""

    name: str
    number: int | None = None
    title: str
    rows: tuple[Row, ...]


class Conditions(_Part):
    """How a paper measured on a dataset, if known."""

    protocols: tuple[str, ...] = Field(description="names of evaluation protocols; several if it may be any of them")
    queries: int | None = None
    split: str
    default_split: int | None = Field(None, description="the split to run by default")


class Paper(_Part):
    """One paper."""

    name: str
    title: str
    seed: str
    selection: str = Field(description="how the paper chose its epoch")
    notes: tuple[str, ...] = ()
    conditions: dict[DatasetKind, Conditions]
    tables: tuple[Table, ...]

    def table(self, number_or_name: str) -> Table:
        """Return a table by its number or name.

        Raises:
            ReproductionError: there is no such table; the message lists the tables.
        """
        for table in self.tables:
            if number_or_name in (table.name, str(table.number)):
                return table
        known = ", ".join(t.name if t.number is None else f"{t.number} ({t.name})" for t in self.tables)
        raise ReproductionError(f"--table {number_or_name}: the tables of {self.name} are {known}")


def load_papers() -> dict[str, Paper]:
    """Return all papers by name."""
    papers = [Paper.model_validate(tomllib.loads(p.read_text(encoding="utf-8"))) for p in TABLES.glob("*.toml")]
    order = ("not3d", "fantastic", "aas-rfu")
    return {paper.name: paper for paper in sorted(papers, key=lambda paper: order.index(paper.name))}


def select_rows(
    paper: str | None = None, table: str | None = None, row: str | None = None
) -> list[tuple[Paper, Table, Row]]:
    """Return the rows of a paper and a table, or all rows.

    Args:
        paper: name; all papers by default
        table: number or name; all tables by default
        row: name or pattern, such as `*-mars`; all rows by default

    Raises:
        ReproductionError: there is no such paper, table or row; the message lists those that exist.
    """
    papers = load_papers()
    if paper is not None and paper not in papers:
        raise ReproductionError(f"--paper {paper}: the papers are {', '.join(papers)}")
    if table is not None and paper is None:
        raise ReproductionError("--table needs --paper, because papers share names of tables")
    chosen = [papers[paper]] if paper is not None else list(papers.values())
    found = [
        (each, part, line)
        for each in chosen
        for part in ([each.table(table)] if table is not None else each.tables)
        for line in part.rows
    ]
    rows = [item for item in found if row is None or fnmatch(item[2].name, row)]
    if not rows:
        raise ReproductionError(f"--row {row}: the rows are {', '.join(item[2].name for item in found)}")
    return rows
