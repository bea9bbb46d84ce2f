"""The tables of the papers as data: figures, conditions and the recipe of each row; see `tables/*.toml`."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from model.errors import Not3dError
from training.datasets.catalog import DatasetKind
from training.recipe import PublishedTable

TABLES = Path(__file__).parent / "tables"
"""One file for each paper."""

DIFFERENCES = Path(__file__).parent / "differences.toml"
"""What the values of `[as_published]` and `[as_printed]` in recipes mean, by the name of the value."""

_ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")


class ReproductionError(Not3dError):
    """The requested row is not in the tables, or cannot be run."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Part):
    """A training before another one, which starts from its backbone and attention; it may have a source of its own."""

    recipe: str
    data: DatasetKind
    source: "Source | None" = None


class Row(_Part):
    """One system on one dataset, and the figures that the paper prints for it: in per cent, memory in MB."""

    name: str
    recipe: str = Field(description="name of a recipe that comes with the project")
    data: DatasetKind | None = Field(None, description="none: the figures are counted from the network alone")
    figures: dict[str, float] = Field(description="by the name of the measure in an evaluation")
    source: Source | None = None
    note: str = ""

    @property
    def kinds(self) -> list[DatasetKind]:
        """The datasets that the row needs: first the one that it is measured on, then those of earlier trainings."""
        own = () if self.data is None else (self.data,)
        return list(dict.fromkeys((*own, *self.kinds_before)))

    @property
    def kinds_before(self) -> list[DatasetKind]:
        """The datasets of the earlier trainings, the latest first."""
        found: list[DatasetKind] = []
        source = self.source
        while source is not None:
            found.append(source.data)
            source = source.source
        return found


class Table(_Part):
    """A table of a paper, or a group of its columns; several may have one number."""

    name: str
    number: int = Field(ge=1)
    title: str
    notes: tuple[str, ...] = ()
    rows: tuple[Row, ...]


class Conditions(_Part):
    """How a paper measured on a dataset, if known."""

    protocols: tuple[str, ...] = Field(description="names of evaluation protocols; several if it may be any of them")
    queries: int | None = None
    split: str
    default_split: int | None = Field(None, description="the split to run by default")
    notes: tuple[str, ...] = ()


COUNTED = Conditions(protocols=("counted",), split="none")
"""Of rows without data."""


class Difference(_Part):
    """A value in which a recipe differs from the program or the text of its paper, in plain words."""

    says: str = Field(description="what the program does, or what the paper says")
    matters: str = Field(description="what the difference is known to change, or that it was not measured")


class Paper(_Part):
    """One paper."""

    name: str
    title: str
    numerals: Literal["arabic", "roman"] = Field("arabic", description="how the paper prints its tables' numbers")
    seed: str
    selection: str = Field(description="how the paper chose its epoch")
    notes: tuple[str, ...] = ()
    conditions: dict[DatasetKind, Conditions]
    tables: tuple[Table, ...]

    def conditions_of(self, row: Row) -> Conditions:
        """Return the conditions of a row."""
        return COUNTED if row.data is None else self.conditions[row.data]

    def printed(self, table: Table) -> str:
        """Return the number of a table as the paper prints it."""
        return _ROMAN[table.number - 1] if self.numerals == "roman" else str(table.number)

    def select(self, number_or_name: str) -> list[Table]:
        """Return the tables with a number (4 or IV) or a name.

        Raises:
            ReproductionError: there is no such table; the message lists the tables.
        """
        wanted = number_or_name.strip().lower()
        numbers = {str(number): number for number in range(1, len(_ROMAN) + 1)}
        numbers |= {numeral.lower(): number for number, numeral in enumerate(_ROMAN, 1)}
        number = numbers.get(wanted)
        found = [table for table in self.tables if table.name == wanted or table.number == number]
        if found:
            return found
        known = ", ".join(f"{self.printed(table)} ({table.name})" for table in self.tables)
        raise ReproductionError(f"--table {number_or_name}: the tables of {self.name} are {known}")


def load_papers() -> dict[str, Paper]:
    """Return all papers by name."""
    papers = [Paper.model_validate(tomllib.loads(p.read_text(encoding="utf-8"))) for p in TABLES.glob("*.toml")]
    order = ("not3d", "fantastic", "aas-rfu")
    return {paper.name: paper for paper in sorted(papers, key=lambda paper: order.index(paper.name))}


def load_differences(table: PublishedTable = "as_published") -> dict[str, Difference]:
    """Return the meaning of the values of a table of the recipes, by their dotted names."""
    content = tomllib.loads(DIFFERENCES.read_text(encoding="utf-8"))[table]
    return {name: Difference.model_validate(value) for name, value in content.items()}


def select_rows(
    paper: str | None = None, table: str | None = None, row: str | None = None
) -> list[tuple[Paper, Table, Row]]:
    """Return the rows of a paper and a table, or all rows.

    Args:
        paper: name; all papers by default
        table: number (4 or IV) or name; all tables by default
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
        for part in (each.select(table) if table is not None else each.tables)
        for line in part.rows
    ]
    rows = [item for item in found if row is None or fnmatch(item[2].name, row)]
    if not rows:
        raise ReproductionError(f"--row {row}: the rows are {', '.join(item[2].name for item in found)}")
    return rows
