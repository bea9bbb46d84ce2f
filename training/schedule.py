"""Learning rates by epoch."""

import math
from typing import Literal

ScheduleForm = Literal["paper", "code", "cosine"]


def learning_rate(
    epoch: float,
    form: ScheduleForm = "paper",
    *,
    base: float = 3.5e-4,
    warm_up: int = 10,
    milestones: tuple[int, ...] = (40, 70),
    decay: float = 0.1,
    epochs: int = 120,
) -> float:
    """The learning rate of an epoch, counted from 1.

    ``paper``: linear warm-up ``base * epoch / warm_up`` (paper A's prose; its equation 2 lacks a factor of 10), then
    ``base``, times ``decay`` after each milestone. ``code``: as published for systems A and B, warm-up factor
    ``0.01 * (1 - e / warm_up) + e / warm_up`` with ``e = epoch - 1``, and each decay one epoch earlier. ``cosine`` is
    ours: the paper's warm-up, then half a cosine from ``base`` to a hundredth of it at ``epochs``; it takes fractions
    of an epoch.

    Raises:
        ValueError: the epoch is not positive or the form is unknown.
    """
    if epoch <= 0:
        raise ValueError(f"epochs count from 1, not {epoch}")
    if form == "code":
        e = epoch - 1
        factor = 0.01 * (1 - e / warm_up) + e / warm_up if e < warm_up else 1.0
        return base * factor * decay ** sum(e >= milestone - 1 for milestone in milestones)
    if form not in ("paper", "cosine"):
        raise ValueError(f"unknown schedule {form!r}")
    if epoch <= warm_up:
        return base * epoch / warm_up
    if form == "paper":
        return base * decay ** sum(epoch > milestone for milestone in milestones)
    progress = min(1.0, (epoch - warm_up) / max(epochs - warm_up, 1e-9))
    return base * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
