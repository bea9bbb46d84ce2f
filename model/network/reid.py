"""The video Re-ID network: a 2D trunk over frames, attention over a clip, and a BNNeck.

System A, "Not 3D Re-ID" (Alsehaim & Breckon, ICPR 2020), and its light relatives. Module names are those of the
published state dicts: ``base``, ``attention_conv``, ``attention_tconv``, ``bottleneck``, ``classifier``.
"""

from typing import NamedTuple

from torch import Tensor, nn

from model.network.attention import AttentionConv, TemporalAttention, map_size, weigh_frames
from model.network.backbone import BACKBONES
from model.network.spec import NetworkSpec


class NetworkOutput(NamedTuple):
    """What the losses see. C is the trunk's channels, K the number of classes."""

    logits: Tensor
    """``[N, K]``"""
    feature: Tensor
    """``[N, C]``: the clip feature after the BNNeck, on which all losses work (paper A; its code agrees)"""
    raw: Tensor
    """``[N, C]``: the clip feature before the BNNeck"""
    attention: Tensor | None
    """``[N, T]``: the ReLU logits of the frames before the softmax; ``None`` where frames are averaged"""
    frame_logits: Tensor | None
    """``[N * T, K]``: the same neck and classifier on each frame alone, where they were asked for"""


class VideoReID(nn.Module):
    """Clips to clip embeddings; see :class:`NetworkSpec` for the parts."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        if spec.backbone not in BACKBONES:
            raise ValueError(f"unknown backbone {spec.backbone!r}; known are {', '.join(BACKBONES)}")
        self.spec = spec
        self.base = BACKBONES[spec.backbone]()
        channels = self.base.channels
        if spec.attention != "mean":
            kernel = map_size(spec) if spec.attention == "full_map" else None
            self.attention_conv = AttentionConv(channels, spec.attention_channels, kernel)
            self.attention_tconv = TemporalAttention(spec.attention_channels, spec.attention_bias)
        self.bottleneck = nn.BatchNorm1d(channels)
        self.bottleneck.bias.requires_grad_(False)  # the "neck": features stay centred (Luo et al., 2019)
        self.classifier = nn.Linear(channels, spec.classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return self.base.channels

    def forward(self, clips: Tensor) -> Tensor:
        """Normalised clips ``[N, T, 3, H, W]`` to clip embeddings ``[N, C]``, not of unit length."""
        features, attention = self._frames(clips)
        clip = weigh_frames(features, attention)
        if self.spec.feature == "raw":
            return clip
        embedding: Tensor = self.bottleneck(clip)
        return embedding

    def train_forward(self, clips: Tensor, *, frames: bool = False) -> NetworkOutput:
        """Everything that a loss may need, for normalised clips ``[N, T, 3, H, W]``; ``frames`` adds frame logits."""
        features, attention = self._frames(clips)
        raw = weigh_frames(features, attention)
        feature = self.bottleneck(raw)
        frame_logits = self.classifier(self.bottleneck(features.flatten(0, 1))) if frames else None
        return NetworkOutput(self.classifier(feature), feature, raw, attention, frame_logits)

    def _frames(self, clips: Tensor) -> tuple[Tensor, Tensor | None]:
        """Frame features ``[N, T, C]`` and attention logits ``[N, T]``."""
        length = clips.shape[1]
        maps = self.base(clips.flatten(0, 1))
        features = maps.mean(dim=(2, 3)).unflatten(0, (-1, length))
        if self.spec.attention == "mean":
            return features, None
        vectors = self.attention_conv(maps).unflatten(0, (-1, length))
        return features, self.attention_tconv(vectors)


def build_network(spec: NetworkSpec) -> VideoReID:
    """A network with fresh weights; raises ``ValueError`` for an unknown backbone."""
    return VideoReID(spec)
