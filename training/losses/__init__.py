"""The losses of not3d, fantastic and aas_rfu, as functions of tensors.

Each equals its published formula. If a paper and its code differ, `form` selects one of them; the default is the code,
which gave the published figures. All compute in float32 or float64, also under autocast.
"""

from training.losses.distillation import distillation_loss, relation_loss
from training.losses.metric import batch_hard_triplet_loss, center_loss, osm_caa_loss, ranked_list_loss
from training.losses.per_clip import erasing_attention_loss, label_smoothing_loss

__all__ = [
    "batch_hard_triplet_loss",
    "center_loss",
    "distillation_loss",
    "erasing_attention_loss",
    "label_smoothing_loss",
    "osm_caa_loss",
    "ranked_list_loss",
    "relation_loss",
]
