"""Draw the report's curves as inline SVG.

Colours are variables of the page, so they fit its light, dark and print styles. Each chart has a title and a
description in words, and its series differ in dash or hatching as well as in colour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from scipy.special import ndtri

from training.evaluation.calibration import Quality
from training.evaluation.certainty import Certainty
from training.evaluation.metrics import RankMetrics
from training.evaluation.open_set import OpenSet
from training.evaluation.verification import Verification

WIDTH, HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 46
_POINTS = 400
"""Maximum number of points of a curve."""
_BINS = 50
"""Maximum number of bars of the histogram."""
_RANKS = 50
"""Drawn ranks of the CMC."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    scale: Literal["linear", "log", "probit"] = "linear"

    def share(self, values: Values) -> Values:
        """Return the positions of values on the axis, as fractions of its length."""
        low, high, along = (self._scaled(np.clip(v, self.low, self.high)) for v in (self.low, self.high, values))
        return np.asarray((along - low) / (high - low))

    def _scaled(self, values: Values | float) -> Values:
        if self.scale == "linear":
            return np.asarray(values, np.float64)
        return np.asarray(np.log10(values) if self.scale == "log" else ndtri(values), np.float64)


@dataclass(frozen=True)
class _Plane:
    x: _Axis
    y: _Axis

    def places(self, x: Values, y: Values) -> tuple[Values, Values]:
        """Return points in the units of the axes as coordinates of the drawing."""
        across = _LEFT + self.x.share(x) * (WIDTH - _LEFT - _RIGHT)
        down = HEIGHT - _BOTTOM - self.y.share(y) * (HEIGHT - _TOP - _BOTTOM)
        return across, down

    def points(self, x: Values, y: Values) -> str:
        """Return the path through points in the units of the axes."""
        return "M" + "L".join(f"{a:.1f} {d:.1f}" for a, d in zip(*self.places(x, y), strict=True))


def cmc_chart(rank: RankMetrics) -> Markup:
    """Draw the share of queries with a right answer among the first k."""
    shares = 100 * rank.cmc[:_RANKS]
    low = max(0.0, 10 * math.floor(shares[0] / 10) - 10.0)
    ranks = np.arange(1, len(shares) + 1, dtype=np.float64)
    marks = [k for k in (1, 5, 10, 20, 30, 40, 50) if k <= len(shares)]
    plane = _Plane(_Axis(1, max(len(shares), 2), [(k, str(k)) for k in marks]), _percent_axis(low))
    words = ", ".join(f"{shares[k - 1]:.1f}% within the first {k}" for k in marks)
    return _chart("cmc", "CMC curve", words, plane, ("rank", "queries answered"), [_line(plane, ranks, shares)])


def roc_chart(verification: Verification) -> Markup:
    """Draw the true accept rate over the false accept rate, which has a logarithmic axis."""
    far, tar = verification.false_accept, 100 * verification.true_accept
    axis = _rate_axis(verification.different_pairs)
    plane = _Plane(axis, _percent_axis(0))
    kept = far > 0
    words = ", ".join(
        f"at a false accept rate of {100 * rate:g}% "
        + (
            "there are too few pairs"
            if math.isnan(value)
            else f"{100 * value:.1f}% of the pairs of one person are accepted"
        )
        for rate, value in verification.tar_at.items()
    )
    drawn = [_line(plane, far[kept], tar[kept])] if kept.any() else []
    return _chart("roc", "ROC curve", words, plane, ("false accept rate", "true accept rate"), drawn)


def open_set_chart(opened: OpenSet) -> Markup:
    """Draw the detection and identification rate over the false positive identification rate."""
    rate, found = _thin(opened.false_positive), 100 * _thin(opened.detection)
    plane = _Plane(_rate_axis(opened.non_mated), _percent_axis(0))
    words = (
        f"{opened.mated} probes of enrolled people, {opened.non_mated} of others; "
        f"{found[0]:.1f}% found without a false alarm, {found[-1]:.1f}% if all answers are accepted"
    )
    kept = rate > 0
    labels = ("other people accepted (FPIR)", "enrolled people found (DIR)")
    return _chart("dir", "Open set", words, plane, labels, [_line(plane, rate[kept], found[kept])])


def det_chart(certainty: Certainty) -> Markup:
    """Draw FNMR over FMR on normal-deviate axes, on which normal scores make a straight line, and the thresholds."""
    plane = _Plane(_probit_axis(1 / max(certainty.non_mated, 10)), _probit_axis(1 / max(certainty.mated, 10)))
    shapes = [f'<path class="line" d="{plane.points(certainty.fmr, certainty.fnmr)}"/>']
    for row in certainty.kept:
        (across,), (down,) = plane.places(np.array([row.fmr]), np.array([row.fnmr]))
        shapes.append(f'<circle class="dot" cx="{across:.1f}" cy="{down:.1f}" r="4.5"/>')
        shapes.append(f'<text x="{across + 8:.1f}" y="{down - 6:.1f}">{row.score:.3f}</text>')
    place = int(np.argmin(np.abs(certainty.fmr - certainty.fnmr)))
    words = (
        f"{certainty.mated:,} pairs of one person, {certainty.non_mated:,} of two; "
        f"both errors are about {50 * (certainty.fmr[place] + certainty.fnmr[place]):.1f}% at one threshold"
    )
    labels = ("strangers that match (FMR)", "same person missed (FNMR)")
    return _chart("det", "DET curve", words, plane, labels, shapes)


def reliability_chart(quality: Quality) -> Markup:
    """Draw the share of pairs of one person over the probability that was said, at prior 0.5, with intervals."""
    axis = _Axis(0, 1, [(v / 100, f"{v}%") for v in range(0, 101, 20)])
    plane = _Plane(axis, axis)
    diagonal = np.array([0.0, 1.0])
    shapes = [f'<path class="threshold" d="{plane.points(diagonal, diagonal)}"/>']
    x, y = (np.array([getattr(bar, name) for bar in quality.bins]) for name in ("predicted", "observed"))
    shapes.append(f'<path class="line" d="{plane.points(x, y)}"/>')
    for bar, across, down in zip(quality.bins, *plane.places(x, y), strict=True):
        ends = plane.points(np.array([bar.predicted, bar.predicted]), np.array([bar.low, bar.high]))
        shapes.append(f'<path class="whisker" d="{ends}"/>')
        shapes.append(f'<circle class="dot" cx="{across:.1f}" cy="{down:.1f}" r="{2.5 + 6 * bar.share**0.5:.1f}"/>')
    words = "; ".join(f"said {100 * bar.predicted:.0f}%, true {100 * bar.observed:.0f}%" for bar in quality.bins)
    labels = ("probability that was said", "pairs that show one person")
    return _chart("reliability", "Reliability diagram", words, plane, labels, shapes)


def overlap(verification: Verification) -> float:
    """Return the common area of the two histograms: 0 if a threshold separates all pairs, 1 if no threshold helps."""
    same, different = _shares(verification)
    return float(np.minimum(same, different).sum())


def histogram_chart(verification: Verification) -> Markup:
    """Draw the distances of pairs of one and of two people, as shares of their kind; the overlap is hatched."""
    same, different = _shares(verification)
    edges = -verification.bins[::-1]
    fold = -(-(len(edges) - 1) // _BINS)
    edges = np.append(edges[:-1][::fold], edges[-1])
    same, different = (100 * np.add.reduceat(one[::-1], np.arange(0, len(one), fold)) for one in (same, different))
    top = max(same.max(), different.max()) * 1.08
    low, high = float(edges[0]), float(edges[-1])
    plane = _Plane(
        _Axis(low, high, [(v, f"{v:g}") for v in _ticks(low, high, 7)]),
        _Axis(0, top, [(v, f"{v:g}%") for v in _ticks(0, top, 5)]),
    )
    shapes = [
        _area(plane, edges, different, "different"),
        _area(plane, edges, same, "same"),
        _area(plane, edges, np.minimum(same, different), "both"),
    ]
    threshold = -verification.threshold_at.get(1e-2, math.nan)
    if not math.isnan(threshold):
        at = np.array([threshold, threshold])
        shapes.append(f'<path class="threshold" d="{plane.points(at, np.array([0.0, top]))}"/>')
    words = (
        f"{verification.same_pairs:,} pairs of one person, {verification.different_pairs:,} of two; "
        f"the histograms overlap by {100 * overlap(verification):.1f}%"
    )
    return _chart("scores", "Distances of pairs", words, plane, ("distance", "share of the pairs"), shapes)


def _shares(verification: Verification) -> tuple[Values, Values]:
    same, different = verification.same_histogram, verification.different_histogram
    return same / same.sum(), different / different.sum()


def _thin(values: Values) -> Values:
    places = np.unique(np.linspace(0, len(values) - 1, min(len(values), _POINTS)).round().astype(int))
    return np.asarray(values[places])


def _percent_axis(low: float) -> _Axis:
    step = 20 if low < 50 else 10
    return _Axis(low, 100, [(float(v), f"{v}%") for v in range(step * math.ceil(low / step), 101, step)])


def _rate_axis(count: int) -> _Axis:
    """Return a logarithmic axis from the decade of `1 / count` to 1."""
    decades = max(1, min(7, math.ceil(math.log10(count))))
    return _Axis(10.0**-decades, 1, [(10.0**-k, f"{100 * 10.0**-k:g}%") for k in range(decades, -1, -1)], "log")


def _probit_axis(low: float) -> _Axis:
    """Return an axis of normal deviates from the decade of `low`, at most 1%, to 99%."""
    begin = 10.0 ** math.floor(math.log10(min(low, 1e-2)))
    ticks = [v for v in (1e-6, 1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5, 0.9) if v >= begin]
    return _Axis(begin, 0.99, [(v, f"{100 * v:g}%") for v in ticks], "probit")


def _ticks(low: float, high: float, limit: int) -> list[float]:
    """Return at most about `limit` round numbers within a range."""
    least = (high - low) / limit
    power = 10.0 ** math.floor(math.log10(least))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= least)
    return [round(k * step, 10) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _line(plane: _Plane, x: Values, y: Values) -> str:
    # A rate is valid until the next threshold: draw steps, not slopes.
    return f'<path class="line" d="{plane.points(np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1])}"/>'


def _area(plane: _Plane, edges: Values, heights: Values, name: str) -> str:
    outline = np.concatenate([[0.0], np.repeat(heights, 2), [0.0]])
    fill = ' fill="url(#hatch)"' if name == "both" else ""
    return f'<path class="area {name}"{fill} d="{plane.points(np.repeat(edges, 2), outline)}Z"/>'


def _chart(name: str, title: str, words: str, plane: _Plane, labels: tuple[str, str], shapes: Sequence[str]) -> Markup:
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-title {name}-words">'
        f'<title id="{name}-title">{title}</title><desc id="{name}-words">{words}</desc>'
    ]
    if name == "scores":
        parts.append(
            '<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" '
            'patternTransform="rotate(45)"><path class="hatch" d="M0 0V6"/></pattern></defs>'
        )
    for value, label in plane.y.ticks:
        down = bottom - float(plane.y.share(np.array(value))) * (bottom - _TOP)
        parts.append(f'<path class="rule" d="M{_LEFT} {down:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 7}" y="{down + 4:.1f}" text-anchor="end">{label}</text>')
    for value, label in plane.x.ticks:
        across = _LEFT + float(plane.x.share(np.array(value))) * (right - _LEFT)
        anchor = "end" if across > right - 12 else "middle"
        parts.append(f'<path class="rule" d="M{across:.1f} {bottom}v5"/>')
        parts.append(f'<text x="{across:.1f}" y="{bottom + 18}" text-anchor="{anchor}">{label}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
    parts.append(f'<text x="{(_LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{labels[0]}</text>')
    parts.append(f'<text x="12" y="{(_TOP + bottom) / 2}" text-anchor="middle" '
                 f'transform="rotate(-90 12 {(_TOP + bottom) / 2})">{labels[1]}</text>')  # fmt: skip
    return Markup("".join([*parts, *shapes, "</svg>"]))  # noqa: S704 - only numbers and words of this module
