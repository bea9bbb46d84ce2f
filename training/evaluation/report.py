"""The report of an evaluation: figures as JSON, and one HTML page to look at that needs nothing besides itself."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from training.evaluation import report_charts as charts
from training.evaluation.report_gallery import draw_rows
from training.evaluation.result import EvaluationResult

MAX_BYTES = 8_000_000
"""The page stays below this: queries are left out where their pictures would not fit, and the page says so."""
_PAGE_BYTES = 200_000
"""Kept for everything but the ranked galleries."""
_MEASURED = ("rank-", "mAP", "mINP", "TAR", "DIR")
_EXPLAINED = {
    "rank-1": "queries whose first answer is right",
    "rank-5": "a right answer among the first 5",
    "rank-10": "a right answer among the first 10",
    "rank-20": "a right answer among the first 20",
    "mAP": "how early all right answers come",
    "mINP": "how early the last right answer comes",
    "TAR": "true pairs accepted, at this share of wrong ones",
    "DIR": "enrolled people found, at this share of strangers",
}


@dataclass(frozen=True)
class Figure:
    """A line of the table, in percent."""

    name: str
    value: float | None
    """``None`` where there is too little data to tell"""
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
    """Writes ``evaluation.json`` and ``report.html``, and gives the page's path.

    Args:
        result: what was measured
        folder: where to write; made if absent
        title: the page's; by default the data's and the model's names
        queries: how many of the worst and of the best queries are shown
        answers: how many answers of each
        max_bytes: of the page; fewer queries are shown where their pictures would not fit

    Raises:
        ValueError: a number is out of range.
        OSError: a frame cannot be read, or the files cannot be written.
    """
    if queries < 0 or answers < 1:
        raise ValueError(f"a report shows 0 or more queries and at least 1 answer, not {queries} and {answers}")
    if max_bytes <= _PAGE_BYTES:
        raise ValueError(f"a report takes more than {_PAGE_BYTES:,} bytes; max_bytes is {max_bytes:,}")
    worst, best, left_out = draw_rows(result, count=queries, answers=answers, max_bytes=max_bytes - _PAGE_BYTES)
    page = _environment().get_template("report.html").render(
        title=title or f"{result.figures['data']}: {result.figures['model']}",
        head={name: value for name, value in result.figures.items() if not name.startswith(_MEASURED)},
        figures=_figures(result),
        charts=_charts(result),
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
    environment.globals["style"] = Markup(style)  # noqa: S704 - the package's own file
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
    return drawn
