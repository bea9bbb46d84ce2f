"""How far the drawn vectors are like the real ones: quantiles of cosines side by side."""

import json
from collections.abc import Sequence

from benchmarks.gallery.embeddings import SPREAD, Drawing
from benchmarks.gallery.spread import cosines
from benchmarks.serving.report import Report

_PEOPLE, _TRACKLETS = 655, 2828


def show_likeness(report: Report, dimensions: Sequence[int]) -> None:
    """One table: the model's vectors of real people, and drawn ones of several dimensions."""
    kept = json.loads(SPREAD.read_text(encoding="utf-8"))
    names = [f"{100 * quantile:g} %" for quantile in kept["quantiles"]]
    aside = f"{kept['people_set_aside']} real people set aside, {kept['tracklets_set_aside']} tracklets"
    shown = {
        f"{aside}, other cameras": kept["cosines_set_aside"],
        f"all {kept['people']} people, {kept['tracklets']} tracklets, most trained on": kept["cosines"],
    }
    for dimension in (len(kept["between"]), *dimensions):
        drawing = Drawing(dimension, _PEOPLE)
        shown[f"drawn, {dimension} dimensions"] = cosines(
            drawing.chunk(0)[:_TRACKLETS], drawing.people_of(0)[:_TRACKLETS]
        )
    for which, text in (("same", "one person"), ("other", "two people")):
        report.head(f"cosines of {text}: quantiles", *names)
        for name, values in shown.items():
            report.row(name, *(f"{value:.2f}" for value in values[which]))
        report.end_table()
