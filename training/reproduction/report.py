"""Comparisons as JSON and as Markdown."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.reproduction.comparison import Comparison, Figure

HEADINGS = ("row", "measure", "paper", "own", "differ", "own 95%", "holds paper's")
CONDITIONS = ("row", "data", "recipe", "protocol", "queries", "gallery", "split", "seed")
MEANINGLESS = "SMOKE RUN: sizes are cut and mini data stand for every dataset. The figures mean nothing."


def write_report(comparisons: Sequence[Comparison], out: Path, *, smoke: bool) -> list[Path]:
    """Writes ``reproduction.json`` and ``reproduction.md`` into a folder; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    content = {"smoke": smoke, "rows": [as_json(comparison) for comparison in comparisons]}
    texts = {"reproduction.json": json.dumps(content, indent=2), "reproduction.md": as_markdown(comparisons, smoke)}
    for name, text in texts.items():
        (out / name).write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    return [out / name for name in texts]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything of a comparison as plain values."""
    own, conditions = comparison.own, comparison.paper.conditions[comparison.row.data]
    return {
        "paper": comparison.paper.name,
        "table": comparison.table.number or comparison.table.name,
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
            "paper": conditions.model_dump(exclude={"default_split"}) | {"seed": comparison.paper.seed},
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
    """Two tables for each of the papers' tables, figures and conditions, and what is unlike."""
    parts = ["# Papers' figures and own\n"]
    if smoke:
        parts.append(f"**{MEANINGLESS}**\n")
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        number = "" if comparison.table.number is None else f"table {comparison.table.number}: "
        groups.setdefault(f"{comparison.paper.title}\n\n{number}{comparison.table.title}", []).append(comparison)
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
    """Cells under :data:`HEADINGS`, a line for each measure."""
    return [_figure_line(comparison, figure, smoke) for figure in comparison.figures]


def _figure_line(comparison: Comparison, figure: Figure, smoke: bool) -> tuple[str, ...]:
    name = comparison.row.name
    if comparison.own is not None and len(comparison.paper.conditions[comparison.row.data].protocols) > 1:
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
        "means nothing" if smoke else "" if figure.covered is None else "yes" if figure.covered else "no",
    )


def condition_line(comparison: Comparison) -> tuple[str, ...]:
    """Cells under :data:`CONDITIONS`: the paper's, a bar, one's own."""
    said, own = comparison.paper.conditions[comparison.row.data], comparison.own
    queries = "not stated" if said.queries is None else str(said.queries)

    def both(paper: str, mine: object) -> str:
        return f"{paper} | {mine}" if own else paper

    return (
        comparison.row.name,
        comparison.row.data,
        comparison.row.recipe,
        both(" or ".join(said.protocols), own and own.protocol),
        both(queries, own and own.queries),
        str(own.gallery) if own else "",
        both(said.split, own and own.split),
        both(comparison.paper.seed, own and own.seed),
    )


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [headings, ["---"] * len(headings), *([cell.replace("|", "\\|") for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
