"""Rank-1 and mAP of several models on the same crops, for people set aside, another site and MARS.

The first model decides who the people set aside are: those of its own training. They are ranked together, and those of
each training site alone. An .onnx file is imported with clips of one frame, so its feature is the mean over frames.

A bundle of an earlier commit: `git archive COMMIT model/bundled | tar -x -C DIR`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recognition.common import (
    MEASURES,
    EvalData,
    add_eval_data,
    add_output,
    compose,
    conclude,
    console,
    digest,
    eval_data,
    existing,
    figures,
    kept,
    named,
    open_model,
)
from benchmarks.report import markdown_table
from model.bundle import CARD_FILE, SPEC_FILE, Bundle
from training.datasets.catalog import kind_of, site_of
from training.evaluation.metrics import people_bootstrap, rank_metrics
from training.evaluation.scoring import EvaluationResult

_TITLES = {"market1501": "Market-1501", "mars": "MARS", "cuhk03": "CUHK03"}
_PROTOCOLS = {
    "validation": "each tracklet is a query for the other cameras",
    "other-site": "each tracklet is a query for the other camera, whose people are the gallery",
    "mars": "MARS's own lists",
}
_ACCURACY = "## Measured accuracy\n"

Row = dict[str, Any]
"""A row of comparison.json: name, protocol, people, queries, gallery, and the figures of each model."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument(
        "models", nargs="+", type=named, metavar="NAME=PATH", help="checkpoint, bundle or .onnx; ours comes first"
    )
    add_eval_data(parser)
    add_output(parser, "comparison", "docs/figures/accuracy.md")
    parser.add_argument(
        "--card", type=existing, metavar="BUNDLE", help="write the table into the model card of this bundle, too"
    )


def run(arguments: argparse.Namespace) -> None:
    """Measure all models on all kinds of people, and write the table."""
    models = {name: open_model(path, arguments.out) for name, path in arguments.models}
    digests = {name: digest(path) for name, path in models.items()}
    rows: list[Row] = []
    for tested in eval_data(arguments):
        key = [digests, tested.protocol, [[path.name, path.stat().st_size] for path in tested.data]]
        file = arguments.out / f"{tested.protocol}.json"
        rows += kept(file, key, _measure, tested, models)
    conclude(arguments, _section(rows, list(models)))
    ours = next(iter(models))
    console.print("\nFor the README:", highlight=False)
    for row in rows:
        print(_readme_row(row, ours), flush=True)
    if arguments.card:
        write_card(arguments.card, rows, ours)
        console.print(f"written to {arguments.card / CARD_FILE} and {SPEC_FILE}", highlight=False)


def write_card(bundle: Path, rows: Sequence[Row], ours: str) -> None:
    """Put our figures into a bundle's `model.json`, and the table with all models into its card."""
    path = bundle / SPEC_FILE
    spec = json.loads(path.read_text(encoding="utf-8"))
    spec["accuracy"] = [
        {
            "dataset": row["name"],
            "protocol": _PROTOCOLS[row["protocol"]],
            **{name: row[name] for name in ("people", "queries", "gallery")},
            "rank1": row["models"][ours]["rank-1"][0],
            "map": row["models"][ours]["mAP"][0],
        }
        for row in rows
    ]
    path.write_text(json.dumps(spec, indent=2) + "\n", encoding="utf-8")
    Bundle.load(bundle)  # checks the new values
    card = bundle / CARD_FILE
    before, heading, rest = card.read_text(encoding="utf-8").partition(_ACCURACY)
    _, next_heading, after = rest.partition("\n## ")
    if not heading or not next_heading:
        raise SystemExit(f'{card} has no section "{_ACCURACY.strip()}" followed by another one')
    names = list(rows[0]["models"])
    card.write_text(f"{before}{heading}\n{_table(rows, names)}\n{next_heading}{after}", encoding="utf-8")


def _measure(tested: EvalData, models: dict[str, Path]) -> list[Row]:
    results = dict(zip(models, tested.measure(list(models.values())), strict=True))
    name = tested.name if tested.protocol != "validation" else f"{tested.name}, all training sites"
    rows = [_row(name, tested, {model: figures(result) for model, result in results.items()})]
    if tested.protocol == "validation":
        sites = sorted({site_of(tracklet.person) for tracklet in next(iter(results.values())).query})
        for site in sites if len(sites) > 1 else []:
            alone = {model: _of_site(result, site) for model, result in results.items()}
            rows.append(_row(f"of these, {_site_name(site, tested.data)} alone", tested, alone))
    return rows


def _row(name: str, tested: EvalData, models: dict[str, dict[str, Any]]) -> Row:
    counts = {count: next(iter(models.values()))[count] for count in ("people", "queries", "gallery")}
    return {"name": name, "protocol": tested.protocol, **counts, "models": models}


def _of_site(result: EvaluationResult, site: str) -> dict[str, Any]:
    """Return the figures of the people of one site, ranked among themselves."""
    rows = [i for i, tracklet in enumerate(result.query) if site_of(tracklet.person) == site]
    columns = [i for i, tracklet in enumerate(result.gallery) if site_of(tracklet.person) == site]
    query, gallery = [result.query[i] for i in rows], [result.gallery[i] for i in columns]
    people = [t.person for t in query]
    metrics = rank_metrics(
        result.distances[np.ix_(rows, columns)],
        people,
        [t.person for t in gallery],
        [t.camera for t in query],
        [t.camera for t in gallery],
    )
    each = [(metrics.first_hit == 1).astype(np.float64), metrics.average_precision]
    bounds = people_bootstrap(each, np.asarray(people)[metrics.valid], seed=int(result.figures["seed"]))
    means = metrics.rank1, metrics.mean_ap
    measured = {
        name: [round(100 * float(value), 2) for value in (mean, *interval)]
        for name, mean, interval in zip(MEASURES, means, bounds, strict=True)
    }
    return {"people": len(set(people)), "queries": metrics.valid_queries, "gallery": len(gallery), **measured}


def _site_name(site: str, data: Sequence[Path]) -> str:
    """Return the titles of the datasets whose people belong to a site; see `training.datasets.catalog.site_of`."""
    if site:
        return _TITLES.get(site, site)
    kinds = [kind_of(path) for path in data]
    shared = [
        _TITLES.get(kind, path.name)
        for kind, path in zip(kinds, data, strict=True)
        if kind in ("market1501", "mars", "folder")
    ]
    return " and ".join(shared)


def _section(rows: Sequence[Row], names: Sequence[str]) -> str:
    ours, *others = names
    compared = f", compared with {', '.join(others)} on the same crops" if others else ""
    text = (
        "Percent, with 95 % intervals (bootstrap over people). Tracklets are compared by cosine; the feature of a "
        "tracklet is the mean over all its clips. People set aside are people of the training sites who were not "
        "trained on. The best model of a line is in bold."
    )
    return compose(f"{ours}{compared}", text, _table(rows, names))


def _table(rows: Sequence[Row], names: Sequence[str]) -> str:
    columns = ["people", "protocol", "people, queries, gallery", "measure", *names]
    lines = []
    for row in rows:
        counts = ", ".join(str(row[name]) for name in ("people", "queries", "gallery"))
        for number, measure in enumerate(MEASURES):
            best = max(row["models"][name][measure][0] for name in names)
            cells = []
            for name in names:
                value, low, high = row["models"][name][measure]
                shown = f"{value:.1f}"
                cells.append(f"{f'**{shown}**' if value == best else shown} ({low:.1f} to {high:.1f})")
            head = [row["name"], _PROTOCOLS[row["protocol"]], counts] if number == 0 else ["", "", ""]
            lines.append([*head, measure, *cells])
    return markdown_table(columns, lines)


def _readme_row(row: Row, ours: str) -> str:
    def pair(model: str) -> str:
        return " / ".join(f"{row['models'][model][name][0]:.1f}" for name in MEASURES)

    others = ", ".join(f"{name}: {pair(name)}" for name in row["models"] if name != ours)
    cell = f"{pair(ours)}{f' ({others})' if others else ''}"
    return f"| rank-1 / mAP, {row['people']} people: {row['name']} | {cell} | [accuracy](docs/figures/accuracy.md) |"
