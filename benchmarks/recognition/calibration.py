"""How wrong a calibration is elsewhere, and how many people of a new site mend it.

    python -m benchmarks.recognition.calibration model/bundled \
      --site Market-1501=market1501-train.tar,mini-mars@set-aside --site CUHK03=cuhk03.tar@set-aside \
      --site MARS=mini-mars@test --write docs

The first site is the one on whose people a calibration is shipped. Without `--write` the tables go to standard output;
with it they also replace the marked parts of figures/calibration.md and thresholds.md in that folder, and the picture
figures/thresholds.svg is drawn. Features are kept in `--cache`, so a second run takes a minute.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from benchmarks.recognition.sites import Site, open_site
from benchmarks.recognition.threshold_picture import draw
from benchmarks.report import markdown_table, write_section
from model.bundle import Bundle
from model.calibration import Calibration, CalibrationError
from training.evaluation.calibration import FIT_PRIOR, MIN_PEOPLE, cllr, cross_fit, error_rates, fit, measure
from training.evaluation.identification import FALSE_POSITIVE_RATES, RANKS, SIZES, fpir_estimate, search_errors
from training.evaluation.pairs import Floats, Pairs

PEOPLE = (20, 50, 100)
RATES = (1e-2, 1e-3)
MIN_LEFT = 10
"""People that must be left for the measurement."""

PAGES = {
    "figures/calibration.md": ("model", "sites", "forms", "transfer", "people"),
    "thresholds.md": ("model", "growth", "searches", "moved", "few"),
}
"""Sections of the documents."""

Form = Callable[[Floats], Floats]
FORMS: dict[str, Form] = {
    "line (2 parameters)": lambda s: np.stack([s, np.ones_like(s)], 1),
    "beta calibration (3)": lambda s: np.stack([np.log1p(s + 1e-6), -np.log1p(1e-6 - s), np.ones_like(s)], 1),
    "quadratic (3)": lambda s: np.stack([s, s * s, np.ones_like(s)], 1),
    "line with a kink at 0.5 (3)": lambda s: np.stack([s, np.maximum(s - 0.5, 0), np.ones_like(s)], 1),
}


@dataclass(frozen=True)
class Score:
    """One calibration on one site's people."""

    cllr: float
    min_cllr: float
    ece: float
    rates: dict[float, tuple[float, float]]
    """FMR and FNMR here by the FMR that the threshold promises"""
    floor: float
    """lowest FMR that this number of pairs can tell (rule of three)"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--site", action="append", required=True, metavar="NAME=PATH@PART", help="may be repeated")
    parser.add_argument("--cache", type=Path, default=Path("runs/features"))
    parser.add_argument("--draws", type=int, default=30, help="draws of people for each number (default: 30)")
    parser.add_argument("--write", type=Path, metavar="DOCS", help="the folder of the documents")
    options = parser.parse_args()
    bundle = Bundle.load(options.bundle)
    sites = [open_site(bundle, text, options.cache) for text in options.site]
    transfer, people = _transfer(sites), _people(sites, options.draws)
    parts = {
        "sites": _sites(sites),
        "forms": _forms(sites),
        "transfer": markdown_table(["fitted on", "used on", *_COLUMNS], transfer),
        "moved": _shorten(["fitted on", "used on"], transfer),
        "people": markdown_table(["site", "people of this site", *_COLUMNS], people),
        "few": _shorten(["site", "people of this site"], people),
        "searches": _searches(sites),
        "growth": _growth(),
    }
    head = f"{bundle.spec.name} (`{bundle.embedding_space}`), {datetime.now(UTC):%d %B %Y}."
    for name, text in parts.items():
        print(f"<!-- {name} -->\n{text}\n", flush=True)
    if options.write:
        for page, names in PAGES.items():
            for name in names:
                write_section(options.write / page, name, head if name == "model" else parts[name])
        shown = [site for site in sites if len(set(site.people)) >= MIN_PEOPLE][:2]
        draw(options.write / "figures" / "thresholds.svg", shown, _fit(shown[0].pairs))


def _sites(sites: Sequence[Site]) -> str:
    rows = []
    for site in sites:
        pairs = site.pairs
        rows.append([
            site.described, str(len(set(site.people))), str(len(set(site.cameras))), str(len(site.people)),
            f"{pairs.mated:,}", f"{pairs.non_mated:,}",
        ])  # fmt: skip
    return markdown_table(["site", "people", "cameras", "tracklets", "pairs of one person", "pairs of two"], rows)


def _forms(sites: Sequence[Site]) -> str:
    """Compare forms of the LLR: each fitted on half of the people and measured on the other, both ways."""
    usable = [site for site in sites if len(set(site.people)) >= 2 * MIN_PEOPLE]
    rows = []
    for name, form in FORMS.items():
        rows.append([name, *(f"{_cross_cllr(site.pairs, form):.4f}" for site in usable)])
    return markdown_table(["form", *(f"Cllr, {site.name}" for site in usable)], rows)


def _cross_cllr(pairs: Pairs, form: Form) -> float:
    people = np.random.default_rng(1).permutation(np.unique(pairs.first[pairs.same]))
    halves = [pairs.of_people(half) for half in np.array_split(people, 2)]
    return float(np.mean([
        cllr(here, form(here.scores) @ _fit_form(other, form)) for here, other in (halves, halves[::-1])
    ]))  # fmt: skip


def _fit_form(pairs: Pairs, form: Form) -> Floats:
    shift, signs, terms = math.log(FIT_PRIOR / (1 - FIT_PRIOR)), np.where(pairs.same, 1.0, -1.0), form(pairs.scores)
    mass = np.where(pairs.same, FIT_PRIOR, 1 - FIT_PRIOR) * pairs.weights()

    def loss(line: Floats) -> float:
        return float(mass @ np.logaddexp(0.0, -signs * (terms @ line + shift))) + 1e-6 * float(line @ line)

    return np.asarray(minimize(loss, np.zeros(terms.shape[1]), method="BFGS").x, np.float64)


def _fit(pairs: Pairs) -> Calibration:
    """Fit without intervals, which the study does not use."""
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return fit(pairs, embedding_space="0" * 16, source="a study", fitted_at=moment, draws=2)


def _score(calibration: Calibration, pairs: Pairs) -> Score:
    quality = measure(pairs, calibration.llr(pairs.scores), draws=1)
    rates = {row.fmr: error_rates(pairs, row.score) for row in calibration.thresholds if row.fmr in RATES}
    return Score(quality.cllr, quality.min_cllr, quality.ece, rates, 3 / pairs.non_mated)


def _transfer(sites: Sequence[Site]) -> list[list[str]]:
    rows = []
    for source in sites:
        if len(set(source.people)) < MIN_PEOPLE:
            continue
        calibration = _fit(source.pairs)
        for target in sites:
            pairs = target.pairs
            if target is not source:
                score = _score(calibration, pairs)
                rows.append([source.name, target.name, *_cells(score)])
                continue
            try:
                quality = measure(*cross_fit(pairs), draws=1)
            except CalibrationError:
                continue
            own = Score(quality.cllr, quality.min_cllr, quality.ece, _halves(pairs), 6 / pairs.non_mated)
            rows.append([source.name, f"{target.name}, other half of the people", *_cells(own)])
    return rows


_COLUMNS = [
    "Cllr (minimum)", "ECE",
    "FMR at the threshold for 1 %", "FNMR there", "FMR at the threshold for 0.1 %", "FNMR there",
]  # fmt: skip


def _shorten(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the columns that an operator needs, without rows of too few people."""
    said = ["strangers that match, said to be 1 %", "said to be 0.1 %", "probabilities are off by (ECE)"]
    kept = [[*row[:2], row[4], row[6], row[3]] for row in rows if row[3]]
    return markdown_table([*heads, *said], kept)


def _cells(score: Score) -> list[str]:
    cells = [f"{score.cllr:.3f} ({score.min_cllr:.3f})", f"{100 * score.ece:.1f} %"]
    for rate in RATES:
        found = score.rates.get(rate)
        if found is None:
            cells += ["too few pairs", ""]
            continue
        fmr, fnmr = found
        said = f"under {100 * score.floor:.2g} %" if fmr < score.floor else f"{100 * fmr:.2g} %"
        cells += [said, f"{100 * fnmr:.1f} %"]
    return cells


def _halves(pairs: Pairs) -> dict[float, tuple[float, float]]:
    """Return the mean FMR and FNMR of thresholds that were found on one half of the people, on the other."""
    people = np.random.default_rng(1).permutation(np.unique(pairs.first))
    halves = [pairs.of_people(half) for half in np.array_split(people, 2)]
    found: dict[float, list[tuple[float, float]]] = {}
    for here, other in (halves, halves[::-1]):
        for row in _fit(other).thresholds:
            if row.fmr in RATES:
                found.setdefault(row.fmr, []).append(error_rates(here, row.score))
    return {rate: (_mean(rates, 0), _mean(rates, 1)) for rate, rates in found.items()}


def _mean(rates: Sequence[tuple[float, float]], index: int) -> float:
    return float(np.mean([rate[index] for rate in rates]))


def _people(sites: Sequence[Site], draws: int) -> list[list[str]]:
    """Fit on some people of a site, measure on its others, beside the calibration of the first other site."""
    rows = []
    for target in sites:
        pairs = target.pairs
        people = np.unique(pairs.first[pairs.same])
        source = next((site for site in sites if site is not target and len(set(site.people)) >= MIN_PEOPLE), None)
        if source is None or len(people) < MIN_PEOPLE + MIN_LEFT:
            continue
        rows.append([target.name, f"none: fitted on {source.name}", *_cells(_score(_fit(source.pairs), pairs))])
        for count in PEOPLE:
            if len(people) - count < MIN_LEFT:
                rows.append([target.name, str(count), f"only {len(people)} people", *[""] * 5])
                continue
            scores = []
            for draw_number in range(draws):
                shuffled = np.random.default_rng(draw_number).permutation(people)
                calibration = _fit(pairs.of_people(shuffled[:count]))
                scores.append(_score(calibration, pairs.of_people(shuffled[count:])))
            rows.append([target.name, str(count), *_spread(scores)])
    return rows


def _spread(scores: Sequence[Score]) -> list[str]:
    def said(values: Sequence[float], form: str = ".1f", unit: str = " %") -> str:
        return f"{np.mean(values):{form}} ± {np.std(values, ddof=1):{form}}{unit}" if len(values) > 1 else ""

    cells = [said([s.cllr for s in scores], ".3f", ""), said([100 * s.ece for s in scores])]
    for rate in RATES:
        found = [s.rates[rate] for s in scores if rate in s.rates]
        if len(found) < len(scores):
            cells += ["too few pairs", ""]
        else:
            cells += [said([100 * f for f, _ in found], ".2g"), said([100 * m for _, m in found])]
    return cells


def _searches(sites: Sequence[Site]) -> str:
    """Return the tables of identification and investigation, one line a site and gallery."""
    identification, investigation = [], []
    for site in sites:
        if len(set(site.people)) < MIN_PEOPLE:
            continue
        rows = site.features / np.linalg.norm(site.features, axis=1, keepdims=True)
        found = search_errors(rows @ rows.T, site.people, site.people, site.cameras, site.cameras, site.pairs)
        for size in SIZES:
            cells = [site.name, f"{size:,}"]
            for row in (row for row in found.identification if row.gallery == size):
                said = f"{row.needed:,} pairs needed"
                if row.score is not None and row.fnir is not None:
                    said = f"{row.score:.3f}: {100 * row.fnir:.0f} % ({row.how})"
                cells.append(said)
            identification.append(cells)
        for line in found.investigation:
            shares = [f"{100 * line.fnir[rank]:.1f} %" if line.fnir else "" for rank in RANKS]
            investigation.append([site.name, f"{line.gallery:,}", *shares, line.how])
    alarms = [f"1 false alarm in {round(1 / rate)} searches: score, missed" for rate in FALSE_POSITIVE_RATES]
    first = markdown_table(["site", "gallery", *alarms], identification)
    ranks = [f"not among the first {rank}" for rank in RANKS]
    return f"{first}\n\n{markdown_table(['site', 'gallery', *ranks, ''], investigation)}"


def _growth() -> str:
    rows = [
        [f"1 in {round(1 / fmr):,}", *(f"{100 * fpir_estimate(fmr, size):.1f} %" for size in SIZES)]
        for fmr in (1e-2, 1e-3, 1e-4)
    ]
    return markdown_table(["strangers that match", *(f"gallery of {size:,}" for size in SIZES)], rows)


if __name__ == "__main__":
    main()
