"""What an evaluation gives: figures, curves, and what a report needs to show them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.datasets.tracklet import Tracklet
from training.evaluation.metrics import RankMetrics
from training.evaluation.open_set import OpenSet
from training.evaluation.verification import Verification

FrameWeights = Callable[[Tracklet], list[float] | None]
"""Attention weights of a tracklet's first clip, one per frame, summing to 1; ``None`` where there are none."""


@dataclass(frozen=True)
class EvaluationResult:
    """One model on one dataset (one split of it) under one protocol."""

    figures: dict[str, str | int | float]
    """flat, in reading order; shares in percent"""
    rank: RankMetrics
    intervals: dict[str, tuple[float, float]]
    """95% confidence intervals in percent, by the name of a figure"""
    verification: Verification
    open_set: OpenSet | None
    distances: NDArray[np.float32]
    """``[Q, G]``, lower is nearer"""
    query: list[Tracklet]
    gallery: list[Tracklet]
    clip_length: int
    frame_weights: FrameWeights | None = None
    """checkpoints with attention only"""

    def as_json(self) -> dict[str, Any]:
        """Figures, intervals and curves as plain values; NaN becomes ``None``."""
        verification, opened = self.verification, self.open_set
        return {
            "figures": {name: _plain(value) for name, value in self.figures.items()},
            "confidence intervals (95%, bootstrap over people)": {k: list(v) for k, v in self.intervals.items()},
            "cmc": self.rank.cmc[:_CMC].tolist(),
            "roc": {
                "same pairs": verification.same_pairs,
                "different pairs": verification.different_pairs,
                "false accept rate": verification.false_accept.tolist(),
                "true accept rate": verification.true_accept.tolist(),
                "score threshold": {f"{rate:g}": _plain(at) for rate, at in verification.threshold_at.items()},
            },
            "open set": opened
            and {
                "mated probes": opened.mated,
                "non-mated probes": opened.non_mated,
                "false positive rate": opened.false_positive.tolist(),
                "detection and identification rate": opened.detection.tolist(),
            },
        }


_CMC = 100
"""Ranks of the CMC that are written."""


def _plain(value: str | float) -> str | float | None:
    return None if isinstance(value, float) and math.isnan(value) else value
