"""The losses of systems A, B and C, each as a plain function of tensors.

Each is exact for its published formula; where a paper and its code differ, ``form`` says which, the code's by default
(published figures came from code). All work in float32 at least, whatever autocast gives them.
"""

from training.losses.attention import erasing_attention_loss
from training.losses.identity import label_smoothing_loss
from training.losses.metric import batch_hard_triplet_loss, center_loss, ranked_list_loss
from training.losses.online_soft_mining import osm_caa_loss

__all__ = [
    "batch_hard_triplet_loss",
    "center_loss",
    "erasing_attention_loss",
    "label_smoothing_loss",
    "osm_caa_loss",
    "ranked_list_loss",
]
