"""Draw the scores of pairs at two sites with the thresholds of one calibration, as an SVG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.recognition.sites import Site
from model.calibration import Calibration
from training.evaluation.calibration import error_rates
from training.evaluation.pairs import Pairs

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 760, 250, 20, 20, 34, 52
LABELS = 108
"""Height above the bars for words."""
LOW, HIGH, BINS = -0.4, 1.0, 47
SAME, DIFFERENT, INK, QUIET = "#16783a", "#a8591a", "#1c2024", "#5c6670"
_SHOWN = 2


def draw(path: Path, sites: Sequence[Site], calibration: Calibration) -> None:
    """Draw one panel for each site; the thresholds are those of `calibration`, fitted on the first."""
    thresholds = calibration.thresholds[:_SHOWN]
    height = TOP + len(sites) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        "<title>Scores of pairs at two sites, with the thresholds of the first</title>",
        f"<desc>{_words(sites, calibration)}</desc>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _legend(),
    ]
    for index, site in enumerate(sites):
        base = TOP + index * (PANEL + GAP) + PANEL
        pairs = site.pairs
        where = "where the thresholds come from" if index == 0 else "the same thresholds on other cameras"
        parts.append(_text(LEFT, base - PANEL + 18, f"{site.described}: {where}", INK, weight=600))
        for kind, colour, dash in ((~pairs.same, DIFFERENT, "5 2"), (pairs.same, SAME, "none")):
            outline = _outline(_shares(pairs, kind), base)
            parts.append(
                f'<path d="{outline}" fill="{colour}" fill-opacity=".2" stroke="{colour}" stroke-width="1.8" '
                f'stroke-dasharray="{dash}"/>'
            )
        parts.append(f'<path d="M{LEFT} {base}H{WIDTH - RIGHT}" stroke="{QUIET}"/>')
        for place, threshold in enumerate(thresholds):
            across, top = _across(threshold.score), base - PANEL + 40 + 44 * place
            fmr, fnmr = error_rates(pairs, threshold.score)
            parts.append(f'<path d="M{across:.1f} {top - 10}V{base}" stroke="{INK}" stroke-dasharray="4 3"/>')
            side, anchor = (6, "start") if across < 0.7 * WIDTH else (-6, "end")
            said = f"{threshold.score:.2f}: {_one_in(fmr)} strangers match,", f"{100 * fnmr:.0f} % of one person missed"
            parts += [_text(across + side, top + 16 * line, said[line], INK, anchor=anchor) for line in (0, 1)]
        parts += [
            _text(_across(value), base + 17, f"{value:.1f}".replace("-0.0", "0.0"), QUIET, anchor="middle")
            for value in np.arange(LOW, HIGH + 0.01, 0.2)
        ]
    parts.append(_text(WIDTH / 2, height - 6, "score of a pair from two cameras (cosine)", QUIET, anchor="middle"))
    path.write_text("\n".join([*parts, "</svg>", ""]), encoding="utf-8")


def _words(sites: Sequence[Site], calibration: Calibration) -> str:
    said = []
    for site in sites:
        for threshold in calibration.thresholds[:_SHOWN]:
            fmr, fnmr = error_rates(site.pairs, threshold.score)
            said.append(
                f"{site.described}, score {threshold.score:.3f}: {_one_in(fmr)} pairs of strangers match, "
                f"{100 * fnmr:.0f} % of the pairs of one person are missed"
            )
    return "; ".join(said)


def _one_in(rate: float) -> str:
    return "no" if rate == 0 else f"1 in {int(float(f'{1 / rate:.2g}')):,}"


def _shares(pairs: Pairs, kind: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the weighted share of the pairs of a kind by bin, relative to the fullest bin."""
    scores = np.clip(pairs.scores[kind], LOW, HIGH - 1e-9)
    shares = np.histogram(scores, BINS, (LOW, HIGH), weights=pairs.weights()[kind])[0]
    return np.asarray(shares / shares.max(), np.float64)


def _outline(shares: NDArray[np.float64], base: float) -> str:
    edges = np.linspace(LOW, HIGH, BINS + 1)
    across = [_across(edge) for edge in np.repeat(edges, 2)[1:-1]]
    down = base - np.repeat(shares, 2) * (PANEL - LABELS)
    points = "L".join(f"{a:.1f} {d:.1f}" for a, d in zip(across, down, strict=True))
    return f"M{across[0]:.1f} {base}L{points}L{across[-1]:.1f} {base}Z"


def _across(score: float) -> float:
    return LEFT + (float(score) - LOW) / (HIGH - LOW) * (WIDTH - LEFT - RIGHT)


def _legend() -> str:
    parts = []
    for x, colour, dash, words in ((LEFT, SAME, "none", "pairs of one person"), (200, DIFFERENT, "5 2", "two people")):
        parts.append(
            f'<rect x="{x}" y="8" width="22" height="13" fill="{colour}" fill-opacity=".2" stroke="{colour}" '
            f'stroke-width="1.8" stroke-dasharray="{dash}"/>'
        )
        parts.append(_text(x + 30, 19, words, INK))
    return "".join(parts)


def _text(x: float, y: float, words: str, colour: str, *, anchor: str = "start", weight: int = 400) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}" '
        f'paint-order="stroke" stroke="#ffffff" stroke-width="3">{words}</text>'
    )
