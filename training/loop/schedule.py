"""Learning rates by epoch."""

import math
from typing import Literal

ScheduleForm = Literal["paper", "code", "code_after", "cosine"]


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

    ``paper``: linear warm-up ``base * epoch / warm_up`` (paper A's prose, D-A5: its equation 2 lacks a factor of 10),
    then ``base``, times ``decay`` after each milestone (D-A6: from epochs 41 and 71).

    ``code``: as published by system A's kin: warm-up factor ``0.01 * (1 - e / warm_up) + e / warm_up``, a decay from
    ``e = milestone``, and ``e = epoch``, since the scheduler is stepped before each epoch: everything comes one epoch
    earlier than its milestones say. ``code_after``: the same as published for system B, which steps after each epoch:
    ``e = epoch - 1``.

    ``cosine`` is ours: the paper's warm-up, then half a cosine from ``base`` to a hundredth of it at ``epochs``; it
    takes fractions of an epoch.

    Raises:
        ValueError: the epoch is not positive or the form is unknown.
    """
    if epoch <= 0:
        raise ValueError(f"epochs count from 1, not {epoch}")
    if form in ("code", "code_after"):
        e = epoch if form == "code" else epoch - 1
        factor = 0.01 * (1 - e / warm_up) + e / warm_up if e < warm_up else 1.0
        return base * factor * decay ** sum(e >= milestone for milestone in milestones)
    if form not in ("paper", "cosine"):
        raise ValueError(f"unknown schedule {form!r}")
    if epoch <= warm_up:
        return base * epoch / warm_up
    if form == "paper":
        return base * decay ** sum(epoch > milestone for milestone in milestones)
    progress = min(1.0, (epoch - warm_up) / max(epochs - warm_up, 1e-9))
    return base * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
