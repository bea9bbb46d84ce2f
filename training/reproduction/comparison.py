"""A paper's figures beside one's own, with the conditions of both."""

from collections.abc import Sequence
from dataclasses import dataclass

from training.reproduction.measurement import Measurement
from training.reproduction.papers import Paper, Row, Table


@dataclass(frozen=True)
class Figure:
    """One measure, in percent."""

    measure: str
    paper: float
    own: float | None = None
    interval: tuple[float, float] | None = None
    """95% of one's own"""
    deviation: float | None = None
    """over splits"""

    @property
    def difference(self) -> float | None:
        """Own less paper's."""
        return None if self.own is None else round(self.own - self.paper, 2)

    @property
    def covered(self) -> bool | None:
        """Whether the interval of one's own holds the paper's."""
        return None if self.interval is None else self.interval[0] <= self.paper <= self.interval[1]


@dataclass(frozen=True)
class Comparison:
    """One row under one protocol. ``skipped`` says why there is nothing of one's own."""

    paper: Paper
    table: Table
    row: Row
    figures: list[Figure]
    own: Measurement | None = None
    run: str = ""
    """folder of the training"""
    unlike: tuple[str, ...] = ()
    """conditions that differ from the paper's, or that nobody knows"""
    skipped: str = ""

    @property
    def name(self) -> str:
        """Of the row, unique among all papers."""
        return f"{self.paper.name}, {self.table.number or self.table.name}, {self.row.name}"


def skip(paper: Paper, table: Table, row: Row, why: str) -> Comparison:
    """A row that cannot be run."""
    return Comparison(paper, table, row, [Figure(name, value) for name, value in row.figures.items()], skipped=why)


def compare(
    paper: Paper, table: Table, row: Row, own: Measurement, run: str, validation_share: float, remarks: Sequence[str]
) -> Comparison:
    """A row and what was measured for it; ``remarks`` are what else is unlike the paper."""
    figures = [
        Figure(name, value, own.figures.get(name), own.intervals.get(name), own.deviations.get(name))
        for name, value in row.figures.items()
    ]
    unlike = (*remarks, *_unlike(paper, row, own, validation_share))
    return Comparison(paper, table, row, figures, own, run, unlike)


def _unlike(paper: Paper, row: Row, own: Measurement, validation_share: float) -> list[str]:
    conditions = paper.conditions[row.data]
    said = []
    if len(conditions.protocols) > 1:
        said.append(f"protocol: paper does not say, {' and '.join(conditions.protocols)} fit; own {own.protocol}")
    elif own.protocol not in conditions.protocols:
        said.append(f"protocol: paper {conditions.protocols[0]}, own {own.protocol}")
    if conditions.queries is not None and conditions.queries != own.queries:
        said.append(f"queries: paper {conditions.queries}, own {own.queries}")
    if conditions.split != own.split:
        said.append(f"split: paper {conditions.split}; own {own.split}")
    chosen = (
        f"own: on {validation_share:.0%} of the training people, set aside" if validation_share else "own: the last one"
    )
    said.append(f"epoch: paper {paper.selection}; {chosen}")
    if str(own.seed) != paper.seed:
        said.append(f"seed: paper {paper.seed}; own {own.seed}")
    said += paper.notes
    return [*said, row.note] if row.note else said
