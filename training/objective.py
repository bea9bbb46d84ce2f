"""What a recipe optimises: a weighted sum of losses on what the network gives."""

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from model.network import NetworkOutput
from training import losses


class Weights(BaseModel):
    """The losses of a recipe; a weight of 0 leaves a loss out. Weights of system A are 1, and 5e-4 for the centers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: float = Field(1.0, ge=0, description="label smoothing on the clip's logits")
    frame_identity: float = Field(
        0.0, ge=0, description="the same on every frame alone; ours, for training from scratch"
    )
    epsilon: float = Field(0.1, ge=0, lt=1, description="of label smoothing")
    ranked_list: float = Field(0.0, ge=0)
    ranked_list_margin: float = 1.3
    ranked_list_alpha: float = 2.0
    ranked_list_temperature: float = 1.0
    triplet: float = Field(0.0, ge=0)
    triplet_margin: float = 0.3
    triplet_metric: Literal["cosine", "euclidean"] = "cosine"
    center: float = Field(0.0, ge=0)
    center_learning_rate: float = 0.5
    erasing_attention: float = Field(0.0, ge=0)
    erasing_attention_form: Literal["logits", "scores"] = "logits"


class Objective(nn.Module):
    """The sum of a recipe's losses, with the class centers where it has any."""

    PARTS = ("identity", "frame_identity", "ranked_list", "triplet", "center", "erasing_attention")
    """Names of the parts, in the order of the log."""

    def __init__(self, weights: Weights, classes: int, dimension: int) -> None:
        super().__init__()
        self.weights = weights
        self.centers = nn.Parameter(torch.randn(classes, dimension)) if weights.center else None

    def forward(self, output: NetworkOutput, labels: Tensor, erased: Tensor) -> dict[str, Tensor]:
        """Weighted losses by name, and their sum as ``total``.

        Args:
            output: of N clips
            labels: int64 ``[N]``
            erased: bool ``[N, T]``
        """
        w = self.weights
        parts = {"identity": w.identity * losses.label_smoothing_loss(output.logits, labels, w.epsilon)}
        if w.frame_identity and output.frame_logits is not None:
            each = labels.repeat_interleave(erased.shape[1])
            parts["frame_identity"] = w.frame_identity * losses.label_smoothing_loss(
                output.frame_logits, each, w.epsilon
            )
        if w.ranked_list:
            parts["ranked_list"] = w.ranked_list * losses.ranked_list_loss(
                output.feature,
                labels,
                margin=w.ranked_list_margin,
                alpha=w.ranked_list_alpha,
                temperature=w.ranked_list_temperature,
            )
        if w.triplet:
            parts["triplet"] = w.triplet * losses.batch_hard_triplet_loss(
                output.feature, labels, w.triplet_margin, w.triplet_metric
            )
        if self.centers is not None:
            parts["center"] = w.center * losses.center_loss(output.feature, labels, self.centers)
        if w.erasing_attention and output.attention is not None:
            parts["erasing_attention"] = w.erasing_attention * losses.erasing_attention_loss(
                output.attention, erased, w.erasing_attention_form
            )
        parts["total"] = torch.stack(list(parts.values())).sum()
        return parts

    def center_optimiser(self) -> torch.optim.Optimizer | None:
        """The centers' own SGD without momentum, as published."""
        return None if self.centers is None else torch.optim.SGD([self.centers], lr=self.weights.center_learning_rate)

    def unscale_centers(self) -> None:
        """Takes the loss's weight out of the centers' gradient, so that their pace does not depend on it (as
        published)."""
        if self.centers is not None and self.centers.grad is not None:
            self.centers.grad.div_(self.weights.center)
