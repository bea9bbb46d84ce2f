"""The figures of a paper next to our own, with the conditions of both, as JSON and as Markdown."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.recipe import PublishedTable
from training.reproduction.papers import Paper, Row, Table, load_differences

HEADINGS = ("row", "measure", "paper", "own", "difference", "own 95%", "covers paper")
CONDITIONS = ("row", "data", "recipe", "protocol", "queries", "gallery", "split", "seed")
MEANINGLESS = "SMOKE RUN: small sizes, and one small dataset is used for all rows. The figures are meaningless."
SPREAD = (
    "Two seeds of short runs of a small network differed by up to 3.3 points of mAP (docs/figures/ablation.md); at "
    "full size: not measured."
)
_NOT_SET = {"evaluation.max_clips": "all", "losses.num_centers": "one for each person"}
"""What a recipe means by leaving a number out."""


@dataclass(frozen=True)
class Measurement:
    """Figures of one model, or their means over splits, in per cent; memory in MB."""

    protocol: str
    split: str
    seed: int
    """of the training"""
    queries: int
    gallery: int
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """95%: by bootstrap over people, or of a mean over splits"""
    deviations: dict[str, float]
    """standard deviations over splits; empty for one split"""


@dataclass(frozen=True)
class Figure:
    """One measure, in per cent or MB: the value of the paper and our own."""

    measure: str
    paper: float
    own: float | None = None
    interval: tuple[float, float] | None = None
    """95% interval of our own"""
    deviation: float | None = None
    """over splits"""

    @property
    def difference(self) -> float | None:
        """Our own value minus that of the paper."""
        return None if self.own is None else round(self.own - self.paper, 2)

    @property
    def covered(self) -> bool | None:
        """Whether our interval contains the value of the paper."""
        return None if self.interval is None else self.interval[0] <= self.paper <= self.interval[1]


@dataclass(frozen=True)
class Comparison:
    """One row under one protocol. `skipped` says why it was not run."""

    paper: Paper
    table: Table
    row: Row
    figures: list[Figure]
    own: Measurement | None = None
    run: str = ""
    """folder of the training"""
    unlike: tuple[str, ...] = ()
    """conditions that differ from those of the paper, or are unknown"""
    skipped: str = ""

    @property
    def name(self) -> str:
        """Name of the row, unique among all papers."""
        return f"{self.paper.name}, {self.paper.printed(self.table)}, {self.row.name}"


def skip(paper: Paper, table: Table, row: Row, why: str) -> Comparison:
    """Return the comparison of a row that cannot be run."""
    return Comparison(paper, table, row, [Figure(name, value) for name, value in row.figures.items()], skipped=why)


def compare(
    paper: Paper, table: Table, row: Row, own: Measurement, run: str, validation_share: float, remarks: Sequence[str]
) -> Comparison:
    """Compare a row with its measurement; `remarks` are further differences from the paper."""
    figures = [
        Figure(name, value, own.figures.get(name), own.intervals.get(name), own.deviations.get(name))
        for name, value in row.figures.items()
    ]
    unlike = (*remarks, *_unlike(paper, table, row, own, validation_share))
    return Comparison(paper, table, row, figures, own, run, unlike)


def _unlike(paper: Paper, table: Table, row: Row, own: Measurement, validation_share: float) -> list[str]:
    conditions = paper.conditions_of(row)
    differences: list[str] = []
    if row.data is None:
        return [row.note] if row.note else differences
    if len(conditions.protocols) > 1:
        differences.append(
            f"protocol: paper does not say, {' and '.join(conditions.protocols)} fit; own {own.protocol}, and the "
            "other one in a row of its own"
        )
    elif own.protocol not in conditions.protocols:
        differences.append(
            f"protocol: paper {conditions.protocols[0]}, own {own.protocol}. Figures of different protocols cannot be "
            "compared."
        )
    if conditions.queries is not None and conditions.queries != own.queries:
        differences.append(
            f"queries: paper {conditions.queries}, own {own.queries}. Other data: the figures cannot be compared."
        )
    if conditions.split != own.split:
        one = "" if conditions.queries is None else f" One query is {100 / conditions.queries:.2f} points."
        differences.append(f"split: paper {conditions.split}; own {own.split}.{one}")
    if validation_share:
        differences.append(
            f"training people: {validation_share:.0%} of them do not train, but choose the epoch; paper: all train, "
            f"epoch: {paper.selection}. What fewer people cost: not measured."
        )
    elif "test set" in paper.selection:
        differences.append(
            f"epoch: paper {paper.selection}; own the last one. A choice on the test set can only raise the paper's "
            "figure; by how much: not measured."
        )
    else:
        differences.append(f"epoch: paper {paper.selection}; own the last one. Effect on the ranking: not measured.")
    if str(own.seed) != paper.seed:
        differences.append(f"seed: paper {paper.seed}; own {own.seed}. {SPREAD}")
    differences += [*paper.notes, *conditions.notes, *table.notes]
    return [*differences, row.note] if row.note else differences


def describe_differences(
    differences: Mapping[str, tuple[Any, Any]], table: PublishedTable = "as_published"
) -> list[str]:
    """Return a sentence for each value in which a recipe differs from its paper's program or text.

    Args:
        differences: by the name of the value: own, published
        table: what they differ from
    """
    known = load_differences(table)
    source = "program" if table == "as_published" else "paper"
    return [
        f"{name} = {_value(name, own)}, {source} {_value(name, published)}: {known[name].says} {known[name].matters}"
        for name, (own, published) in differences.items()
        if name in known  # what belongs to another value is explained there
    ]


def _value(name: str, value: object) -> str:
    """Return a value as a recipe writes it, or what it means if a recipe has none."""
    if value is None:
        return _NOT_SET.get(name, "not set")
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def write_report(comparisons: Sequence[Comparison], out: Path, *, smoke: bool) -> list[Path]:
    """Write `reproduction.json` and `reproduction.md` into a folder; return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    content = {"smoke": smoke, "rows": [as_json(comparison) for comparison in comparisons]}
    texts = {"reproduction.json": json.dumps(content, indent=2), "reproduction.md": as_markdown(comparisons, smoke)}
    for name, text in texts.items():
        (out / name).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    return [out / name for name in texts]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain values."""
    own, conditions = comparison.own, comparison.paper.conditions_of(comparison.row)
    return {
        "paper": comparison.paper.name,
        "table": comparison.table.number,
        "row": comparison.row.name,
        "recipe": comparison.row.recipe,
        "data": comparison.row.data,
        "source": comparison.row.source and comparison.row.source.model_dump(),
        "skipped": comparison.skipped or None,
        "run": comparison.run or None,
        "figures": [
            asdict(figure) | {"difference": figure.difference, "covered": figure.covered}
            for figure in comparison.figures
        ],
        "conditions": {
            "paper": conditions.model_dump(exclude={"default_split", "notes"}) | {"seed": comparison.paper.seed},
            "own": own
            and {
                "protocol": own.protocol,
                "queries": own.queries,
                "gallery": own.gallery,
                "split": own.split,
                "seed": own.seed,
            },
        },
        "unlike": list(comparison.unlike),
    }


def as_markdown(comparisons: Sequence[Comparison], smoke: bool) -> str:
    """Return two tables for each table of the papers, figures and conditions, and the differences in conditions."""
    parts = ["# Papers' figures and own\n"]
    if smoke:
        parts.append(f"**{MEANINGLESS}**\n")
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        number = comparison.paper.printed(comparison.table)
        title = f"{comparison.paper.title}\n\ntable {number}: {comparison.table.title}"
        groups.setdefault(title, []).append(comparison)
    for title, group in groups.items():
        parts.append(f"## {title}\n")
        parts.append(_table(HEADINGS, [line for each in group for line in figure_lines(each, smoke)]))
        parts.append("Paper's | own:\n")
        parts.append(_table(CONDITIONS, [condition_line(each) for each in group]))
        for each in group:
            remarks = [each.skipped] if each.skipped else [*each.unlike]
            parts.append("\n".join([f"{each.row.name}:", *(f"- {remark}" for remark in remarks)]) + "\n")
    return "\n".join(parts)


def figure_lines(comparison: Comparison, smoke: bool) -> list[tuple[str, ...]]:
    """Return cells for `HEADINGS`, one line for each measure."""
    return [_figure_line(comparison, figure, smoke) for figure in comparison.figures]


def _figure_line(comparison: Comparison, figure: Figure, smoke: bool) -> tuple[str, ...]:
    name = comparison.row.name
    if comparison.own is not None and len(comparison.paper.conditions_of(comparison.row).protocols) > 1:
        name += f" [{comparison.own.protocol}]"
    own = "skipped" if comparison.skipped else "" if figure.own is None else f"{figure.own:.2f}"
    if figure.deviation is not None:
        own += f" ± {figure.deviation:.2f}"
    return (
        name,
        figure.measure,
        f"{figure.paper:g}",
        own,
        "" if figure.difference is None else f"{figure.difference:+.2f}",
        "" if figure.interval is None else "{:.1f} to {:.1f}".format(*figure.interval),
        "means nothing" if smoke and comparison.row.data else {None: "", True: "yes", False: "no"}[figure.covered],
    )


def condition_line(comparison: Comparison) -> tuple[str, ...]:
    """Return cells for `CONDITIONS`: that of the paper, a bar, and our own."""
    theirs, own = comparison.paper.conditions_of(comparison.row), comparison.own
    queries = "not stated" if theirs.queries is None else str(theirs.queries)

    def both(paper: str, mine: object) -> str:
        return f"{paper} | {mine}" if own else paper

    return (
        comparison.row.name,
        comparison.row.data or "none",
        comparison.row.recipe,
        both(" or ".join(theirs.protocols), own and own.protocol),
        both(queries, own and own.queries),
        str(own.gallery) if own else "",
        both(theirs.split, own and own.split),
        both(comparison.paper.seed, own and own.seed),
    )


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *([cell.replace("|", "\\|") for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
