"""What a recipe optimises: a weighted sum of losses on the output of the network."""

from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from model.network import NetworkOutput, NetworkSpec
from training import losses


class LossWeights(BaseModel):
    """The losses of a recipe and their options; a weight of 0 switches a loss off.

    The not3d paper weighs all its losses 1 and the centers 5e-5; the later code of its author and Luo et al. have 5e-4
    for the centers. The mix by beta of fantastic is `triplet = 1 - beta` and `osm_caa = beta`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    identity: float = Field(1.0, ge=0, description="cross-entropy with label smoothing, on the logits of the clip")
    frame_identity: float = Field(
        0.0, ge=0, description="the same on each frame alone; ours, for training from scratch"
    )
    epsilon: float = Field(0.1, ge=0, lt=1, description="label smoothing of both")
    ranked_list: float = Field(0.0, ge=0)
    ranked_list_margin: float = Field(1.3, ge=0)
    ranked_list_alpha: float = Field(2.0, gt=0, le=2, description="unit vectors are at most 2 apart")
    ranked_list_temperature: float = Field(1.0, ge=0)
    ranked_list_balance: float = Field(1.0, ge=0, description="lambda, weight of the term of the negatives")
    ranked_list_form: Literal["code", "paper"] = Field("code", description="which positives the mean divides by")
    triplet: float = Field(0.0, ge=0)
    triplet_margin: float = Field(0.3, ge=0)
    triplet_metric: Literal["cosine", "euclidean"] = "cosine"
    triplet_feature: Literal["batch_normed", "raw"] = Field(
        "batch_normed", description="the feature after the neck, or before it (raw: RFU training of aas_rfu)"
    )
    center: float = Field(0.0, ge=0)
    center_form: Literal["code", "paper"] = Field("code", description="code: mean of the squares; paper: half the sum")
    center_learning_rate: float = Field(0.5, gt=0)
    num_centers: int | None = Field(
        None, ge=1, le=1_000_000, description="rows of centers; default: one for each person; fantastic's code has 751"
    )
    osm_caa: float = Field(0.0, ge=0)
    osm_caa_sigma: float = Field(0.8, gt=0)
    osm_caa_alpha: float = Field(1.2, gt=0)
    osm_caa_balance: float = Field(0.5, ge=0, le=1, description="l, share of the term of the negatives")
    osm_caa_vectors: Literal["classifier", "centers"] = Field(
        "classifier", description="class vectors: weights of the classifier, or centers of center loss (fantastic's CL)"
    )
    detach_centers: bool = Field(
        True, description="OSM-CAA does not move the centers; false as in fantastic's code, which moves them 2000-fold"
    )
    erasing_attention: float = Field(0.0, ge=0)
    erasing_attention_form: Literal["logits", "scores"] = Field("logits", description="logits: code; scores: paper")
    distillation: float = Field(0.0, ge=0, description="cosine distance of a clip to the target of the teacher")
    relation: float = Field(0.0, ge=0, description="cosines between clips, compared with those between the targets")

    @property
    def need_teacher(self) -> bool:
        """Whether a loss needs the targets of a teacher."""
        return bool(self.distillation or self.relation)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(getattr(self, part) for part in Objective.PARTS):
            raise ValueError("every loss has weight 0: set a weight for at least one")
        if self.osm_caa and self.osm_caa_vectors == "centers" and not self.center:
            raise ValueError(
                'osm_caa_vectors = "centers" needs center loss, which trains the centers: set losses.center'
            )
        return self

    def check_network(self, spec: NetworkSpec) -> None:
        """Raise `ValueError` if a loss needs an output that the network does not have."""
        if self.erasing_attention and spec.attention not in ("full_map", "pooled"):
            raise ValueError(
                f'erasing_attention needs attention logits, but attention = "{spec.attention}" has none: '
                "set losses.erasing_attention to 0"
            )


class Objective(nn.Module):
    """The weighted sum of the losses of a recipe, with the class centers if it uses any.

    Raises:
        ValueError: fewer centers than classes.
    """

    PARTS = (
        "identity",
        "frame_identity",
        "ranked_list",
        "triplet",
        "center",
        "osm_caa",
        "erasing_attention",
        "distillation",
        "relation",
    )
    """Names of the losses, in the order of the log."""

    def __init__(self, weights: LossWeights, classes: int, dimension: int) -> None:
        super().__init__()
        self.weights = weights
        rows = weights.num_centers or classes
        if weights.center and rows < classes:
            raise ValueError(f"num_centers must be at least {classes}, the number of people (got {rows}): raise it")
        self.centers = nn.Parameter(torch.randn(rows, dimension)) if weights.center else None

    def forward(
        self,
        output: NetworkOutput,
        labels: Tensor,
        erased: Tensor,
        *,
        classifier: Tensor | None = None,
        teacher: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the weighted losses by name, and their sum as `total`.

        Args:
            output: of N clips
            labels: int64 `[N]`; only the losses of a teacher use clips with a negative one
            erased: bool `[N, T]`
            classifier: weights `[K, D]` of the classifier, which OSM-CAA may use as class vectors
            teacher: targets `[N, E]` of the clips, for distillation and relation

        Raises:
            ValueError: a loss needs the classifier, the targets of a teacher, or an output that is missing.
        """
        w = self.weights
        parts: dict[str, Tensor] = {}
        all_features = output.feature
        if (labels < 0).any():
            output, labels, erased = _labelled(output, labels, erased)
        if w.identity:
            parts["identity"] = w.identity * losses.label_smoothing_loss(output.logits, labels, w.epsilon)
        if w.frame_identity:
            if output.frame_logits is None:
                raise ValueError("frame_identity needs frame logits: call train_forward with frames=True")
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
                balance=w.ranked_list_balance,
                form=w.ranked_list_form,
            )
        if w.triplet:
            feature = output.raw if w.triplet_feature == "raw" else output.feature
            parts["triplet"] = w.triplet * losses.batch_hard_triplet_loss(
                feature, labels, w.triplet_margin, w.triplet_metric
            )
        if self.centers is not None:
            parts["center"] = w.center * losses.center_loss(output.feature, labels, self.centers, form=w.center_form)
        if w.osm_caa:
            parts["osm_caa"] = w.osm_caa * losses.osm_caa_loss(
                output.feature,
                labels,
                self._class_vectors(classifier),
                sigma=w.osm_caa_sigma,
                alpha=w.osm_caa_alpha,
                balance=w.osm_caa_balance,
            )
        if w.erasing_attention:
            if output.attention is None:
                raise ValueError(
                    "erasing_attention needs a network with attention logits: set losses.erasing_attention to 0"
                )
            parts["erasing_attention"] = w.erasing_attention * losses.erasing_attention_loss(
                output.attention, erased, w.erasing_attention_form
            )
        if w.need_teacher and teacher is None:
            raise ValueError("distillation and relation need the targets of a teacher: pass teacher")
        if w.distillation and teacher is not None:
            parts["distillation"] = w.distillation * losses.distillation_loss(all_features, teacher)
        if w.relation and teacher is not None:
            parts["relation"] = w.relation * losses.relation_loss(all_features, teacher)
        parts["total"] = torch.stack(list(parts.values())).sum()
        return parts

    def center_optimiser(self) -> torch.optim.Optimizer | None:
        """Build SGD without momentum for the centers, as published; `None` without centers."""
        return None if self.centers is None else torch.optim.SGD([self.centers], lr=self.weights.center_learning_rate)

    def unscale_centers(self) -> None:
        """Divide the gradient of the centers by the weight of center loss, as published.

        Their learning rate then does not depend on the weight. If OSM-CAA moves the centers too
        (`detach_centers = false`), its gradient grows by the same factor: 2000 for a weight of 5e-4, as in the code of
        fantastic.
        """
        if self.centers is not None and self.centers.grad is not None:
            self.centers.grad.div_(self.weights.center)

    def _class_vectors(self, classifier: Tensor | None) -> Tensor:
        if self.weights.osm_caa_vectors == "centers" and self.centers is not None:
            return self.centers.detach() if self.weights.detach_centers else self.centers
        if classifier is None:
            raise ValueError("osm_caa needs the weights of the classifier: pass classifier")
        return classifier


def _labelled(output: NetworkOutput, labels: Tensor, erased: Tensor) -> tuple[NetworkOutput, Tensor, Tensor]:
    """Return the output, labels and erased frames of the clips with a label."""
    kept = labels >= 0

    def rows(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[kept.repeat_interleave(len(value) // len(kept))]

    chosen = output._replace(
        logits=output.logits[kept],
        feature=output.feature[kept],
        raw=output.raw[kept],
        attention=rows(output.attention),
        frame_logits=rows(output.frame_logits),
    )
    return chosen, labels[kept], erased[kept]
