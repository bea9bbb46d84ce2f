"""The optimiser of the network and the course of its learning rate."""

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

TRUNK = "trunk"
"""Key of the parameter groups: whether they belong to the backbone and have its learning rate."""

ScheduleForm = Literal["paper", "code", "code_after", "cosine"]


class OptimiserSettings(BaseModel):
    """Adam as in the papers (weight decay is part of the gradient), or AdamW (decoupled weight decay)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(3.5e-4, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    clip_gradient: float | None = Field(None, gt=0, description="largest L2 norm of the gradient of all weights")
    trunk_rate: float | None = Field(None, gt=0, description="learning rate of the backbone; default: learning_rate")
    head_steps: int = Field(
        0,
        ge=0,
        description="first steps in which the backbone is not trained; its rate then rises over as many steps",
    )
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of a moving average of the weights, which is measured and becomes the model; 0: no average",
    )


class ScheduleSettings(BaseModel):
    """Number of epochs and the course of the learning rate; see `learning_rate`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epochs: int = Field(120, ge=1)
    steps: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="steps of an epoch; default: the sampler decides, by the number of people or tracklets",
    )
    form: ScheduleForm = "paper"
    warm_up: int = Field(10, ge=1, description="epochs until the full learning rate")
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (40, 70), description="epochs after which the rate is multiplied by `decay`"
    )
    decay: float = Field(0.1, gt=0, le=1, description="called gamma in fantastic's search")
    evaluate_every: int = Field(10, ge=1, description="epochs between two measurements of the validation people")


def build_optimiser(network: nn.Module, settings: OptimiserSettings) -> torch.optim.Optimizer:
    """Build Adam over all trainable tensors, or AdamW.

    Adam decays all tensors alike, biases and BatchNorm included, as in the published code of not3d and fantastic.
    AdamW does not decay biases and normalisation, because the next layer undoes their scale. If the backbone has a
    learning rate of its own, it has parameter groups of its own, marked by `TRUNK`.
    """
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    separate = settings.trunk_rate is not None or settings.head_steps > 0
    trunk = [p for name, p in named if separate and name.startswith("base.")]
    rest = [p for name, p in named if not (separate and name.startswith("base."))]
    groups: list[dict[str, Any]] = []
    for parameters, of_trunk in ((rest, False), (trunk, True)):
        if settings.name == "adam":
            parts = [(parameters, settings.weight_decay)]
        else:
            parts = [
                ([p for p in parameters if p.ndim > 1], settings.weight_decay),
                ([p for p in parameters if p.ndim <= 1], 0.0),
            ]
        groups += [{"params": part, "weight_decay": decay, TRUNK: of_trunk} for part, decay in parts if part]
    build = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return build(groups, settings.learning_rate, fused=True)


def set_learning_rates(groups: Iterable[dict[str, Any]], settings: OptimiserSettings, rate: float, step: int) -> None:
    """Set the learning rate of all parameter groups for a step.

    In the first `head_steps` steps the rate of the backbone is zero; then it rises over as many steps.

    Args:
        groups: of the optimiser
        settings: of the recipe
        rate: the rate of the schedule for `learning_rate`; the rate of the backbone is proportional to it
        step: number of steps that the run has finished
    """
    share = (settings.trunk_rate or settings.learning_rate) / settings.learning_rate
    if settings.head_steps:
        share *= min(1.0, max(0, step + 1 - settings.head_steps) / settings.head_steps)
    for group in groups:
        group["lr"] = rate * share if group.get(TRUNK) else rate


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
    """Return the learning rate of an epoch, counted from 1.

    `paper`: linear warm-up `base * epoch / warm_up`, then `base`, times `decay` after each milestone (from epochs 41
    and 71). This is the prose of the not3d paper; its equation 2 lacks a factor of 10.

    `code`: as in the later code of the author of not3d. The warm-up factor is
    `0.01 * (1 - e / warm_up) + e / warm_up`, and the rate decays from `e = milestone`. Here `e = epoch`, because that
    code steps the scheduler before each epoch, so each change comes one epoch before its milestone. `code_after`: the
    same with `e = epoch - 1`, as in the published code of fantastic, which steps after each epoch.

    `cosine` (ours): the warm-up of `paper`, then half a cosine from `base` to a hundredth of it at `epochs`; `epoch`
    may be a fraction.

    Raises:
        ValueError: `epoch` is not positive or `form` is unknown.
    """
    if epoch <= 0:
        raise ValueError(f"epochs count from 1 (got {epoch})")
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
