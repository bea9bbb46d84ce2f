"""What an evaluation gives: figures, curves, and what a report needs to show them."""

from collections.abc import Callable
from dataclasses import dataclass

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
