"""Write the report of an evaluation: figures as JSON, and one self-contained HTML page."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from training.evaluation import report_charts as charts
from training.evaluation.identification import RANKS, SIZES
from training.evaluation.report_queries import draw_rows
from training.evaluation.scoring import EvaluationResult

MAX_BYTES = 8_000_000
"""Maximum size of the page: queries whose images would not fit are left out, and the page says so."""
_PAGE_BYTES = 200_000
"""Reserved for all parts except the queries with their answers."""
_MEASURED = ("rank-", "mAP", "mINP", "TAR", "DIR")
_CERTAINTY = ("Cllr", "minimum Cllr", "ECE", "probabilities")
"""Figures of a section of their own."""
_EXPLAINED = {
    "rank-1": "queries whose first answer is right",
    "rank-5": "a right answer among the first 5",
    "rank-10": "a right answer among the first 10",
    "rank-20": "a right answer among the first 20",
    "mAP": "how early in the ranking all right answers are",
    "mINP": "how early in the ranking the last right answer is",
    "TAR": "pairs of one person accepted, if this share of the wrong pairs is",
    "DIR": "enrolled people found, if this share of the other people is accepted",
}


@dataclass(frozen=True)
class Figure:
    """A row of the table, in percent."""

    name: str
    value: float | None
    """None if there is too little data"""
    interval: tuple[float, float] | None
    meaning: str


def write_report(
    result: EvaluationResult,
    folder: Path,
    *,
    title: str | None = None,
    queries: int = 10,
    answers: int = 10,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Write `evaluation.json` and `report.html`, and return the path of the page.

    Args:
        result: of the evaluation
        folder: is created if it does not exist
        title: of the page; by default the names of data and model
        queries: number of worst and of best queries that are shown
        answers: number of answers for each query
        max_bytes: size limit of the page; queries whose images do not fit are left out

    Raises:
        ValueError: a number is out of range.
        OSError, FrameError: a frame cannot be read.
        OSError: the files cannot be written.
    """
    if queries < 0 or answers < 1:
        raise ValueError(f"a report needs at least 0 queries and at least 1 answer (got {queries} and {answers})")
    if max_bytes <= _PAGE_BYTES:
        raise ValueError(f"max_bytes must be more than {_PAGE_BYTES:,} (got {max_bytes:,})")
    worst, best, left_out = draw_rows(result, count=queries, answers=answers, max_bytes=max_bytes - _PAGE_BYTES)
    page = _environment().get_template("report.html").render(
        title=title or f"{result.figures['data']}: {result.figures['model']}",
        head={
            name: value
            for name, value in result.figures.items()
            if not name.startswith(_MEASURED) and name not in _CERTAINTY
        },
        figures=_figures(result),
        charts=_charts(result),
        certainty=result.certainty,
        ranks=RANKS,
        sizes=SIZES,
        overlap=100 * charts.overlap(result.verification),
        sections=[("worst", "Worst queries", worst), ("best", "Best queries", best)],
        attention=any(strip.weights is not None for row in worst + best for strip in row.query.strips),
        left_out=left_out,
        answers=answers,
        verification=result.verification,
        threshold=not math.isnan(result.verification.threshold_at.get(1e-2, math.nan)),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result.as_json(), indent=2, allow_nan=False)
    (folder / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _environment() -> Environment:
    loader = PackageLoader("training.evaluation")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = loader.get_source(environment, "report.css")[0]
    environment.globals["style"] = Markup(style)  # noqa: S704 - a file of this package
    return environment


def _figures(result: EvaluationResult) -> list[Figure]:
    lines = []
    for name, value in result.figures.items():
        if not name.startswith(_MEASURED):
            continue
        number = float(value)
        meaning = _EXPLAINED.get(name) or _EXPLAINED.get(name.split(" ", maxsplit=1)[0], "")
        lines.append(Figure(name, None if math.isnan(number) else number, result.intervals.get(name), meaning))
    return lines


def _charts(result: EvaluationResult) -> dict[str, Markup]:
    drawn = {
        "cmc": charts.cmc_chart(result.rank),
        "roc": charts.roc_chart(result.verification),
        "scores": charts.histogram_chart(result.verification),
    }
    if result.open_set is not None:
        drawn["dir"] = charts.open_set_chart(result.open_set)
    if result.certainty is not None:
        drawn["det"] = charts.det_chart(result.certainty)
        if result.certainty.quality is not None:
            drawn["reliability"] = charts.reliability_chart(result.certainty.quality)
    return drawn
