"""The losses of systems A and B, each as a plain function of tensors."""

from training.losses.attention import erasing_attention_loss
from training.losses.identity import label_smoothing_loss
from training.losses.metric import batch_hard_triplet_loss, center_loss, ranked_list_loss

__all__ = [
    "batch_hard_triplet_loss",
    "center_loss",
    "erasing_attention_loss",
    "label_smoothing_loss",
    "ranked_list_loss",
]
