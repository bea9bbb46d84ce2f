"""The video Re-ID network: a 2D backbone over frames, attention over a clip, a neck and a classifier.

Builds not3d ("Not 3D Re-ID", Alsehaim & Breckon, ICPR 2020), fantastic ("Fantastic Techniques", Pathak et al., AAAI
2020), aas_rfu (AAS + RFU on STA), their baselines and lighter variants; `NetworkSpec` lists the fields of each. The
names of modules are those in the state dicts of not3d: `base`, `attention_conv`, `attention_tconv`, `bottleneck`,
`classifier`; `embedding` is FC1 of aas_rfu.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.network.attention import AttentionConv, TemporalAttention, stripe_scores, weight_frames, weight_stripes
from model.network.spec import NetworkSpec
from model.network.trunks import TRUNKS


class NetworkOutput(NamedTuple):
    """The input of the losses. D is the length of an embedding, K the number of classes."""

    logits: Tensor
    """`[N, K]`"""
    feature: Tensor
    """`[N, D]`: the clip feature after the neck, for all losses (as in the paper and code of not3d)"""
    raw: Tensor
    """`[N, D]`: the clip feature before the neck; `v^r` of aas_rfu"""
    attention: Tensor | None
    """`[N, T]`: the ReLU logits of the frames before the softmax; `None` if the attention has none"""
    frame_logits: Tensor | None
    """`[N * T, K]`: neck and classifier applied to each frame alone, if requested"""


class VideoReID(nn.Module):
    """Computes clip embeddings from clips; see `NetworkSpec` for the parts."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        if spec.backbone not in TRUNKS:
            raise ValueError(f"unknown backbone {spec.backbone!r}: use one of {', '.join(TRUNKS)}")
        self.spec = spec
        self.base = TRUNKS[spec.backbone](last_stride=spec.last_stride)
        if spec.attention in ("full_map", "pooled"):
            kernel = spec.map_size if spec.attention == "full_map" else None
            self.attention_conv = AttentionConv(self.base.channels, spec.attention_channels, kernel)
            if spec.initial == "kaiming":
                self.attention_conv.initialise()
            self.attention_tconv = TemporalAttention(spec.attention_channels)
            if spec.initial == "kaiming":
                self.attention_tconv.initialise(spec.attention_bias)
            if spec.attention_start == "mean":
                nn.init.zeros_(self.attention_tconv.weight)
        self.embedding: nn.Module = nn.Identity()
        if spec.embedding is not None:
            self.embedding = nn.Linear(self.base.channels, spec.embedding, bias=False)
            nn.init.kaiming_normal_(self.embedding.weight, mode="fan_out")
        self.bottleneck: nn.Module = nn.Identity()
        if spec.neck != "none":
            self.bottleneck = nn.BatchNorm1d(self.dimension)
            # The features of a BNNeck are centred (Luo et al., 2019).
            self.bottleneck.bias.requires_grad_(spec.neck != "bnneck")
        self.classifier = nn.Linear(self.dimension, spec.classes, bias=spec.classifier_bias)
        if spec.initial == "kaiming":
            nn.init.normal_(self.classifier.weight, std=0.001)
            if spec.classifier_bias:
                nn.init.zeros_(self.classifier.bias)

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        return self.spec.embedding or self.base.channels

    def forward(self, clips: Tensor) -> Tensor:
        """Compute clip embeddings `[N, D]`, not of unit length, from normalised clips `[N, T, 3, H, W]`."""
        if self.spec.mirror:
            clips = mirror_frames(clips)
        raw: Tensor = self.embedding(self._aggregate(self._maps(clips))[0])
        if self.spec.feature == "raw":
            return raw
        embedding: Tensor = self.bottleneck(raw)
        return embedding

    def train_forward(self, clips: Tensor, *, frames: bool = False) -> NetworkOutput:
        """Compute the input of the losses from normalised clips `[N, T, 3, H, W]`; `frames` adds frame logits."""
        maps = self._maps(clips)
        clip, attention = self._aggregate(maps)
        raw = self.embedding(clip)
        feature = self.bottleneck(raw)
        frame_logits = None
        if frames:
            each = maps.mean(dim=(3, 4)).flatten(0, 1)
            frame_logits = self.classifier(self.bottleneck(self.embedding(each)))
        return NetworkOutput(self.classifier(feature), feature, raw, attention, frame_logits)

    def frame_weights(self, clips: Tensor) -> Tensor:
        """Return the weight of each frame of normalised clips `[N, T, 3, H, W]`: `[N, T]`, sum 1 over T.

        This is the softmax of the attention logits. For `sta` it is the mean over the stripes of a frame; for `mean`
        it is uniform; for `max` it is the share of channels that have their largest value in the frame (the first of
        equal values).
        """
        maps = self._maps(clips)
        match self.spec.attention:
            case "mean":
                return maps.new_full(maps.shape[:2], 1 / maps.shape[1])
            case "max":
                winners = maps.mean(dim=(3, 4)).argmax(dim=1)
                return F.one_hot(winners, maps.shape[1]).float().mean(dim=1)
            case "sta":
                return stripe_scores(maps, self.spec.stripes).mean(dim=2)
            case _:
                return torch.softmax(self._logits(maps), dim=1)

    def _maps(self, clips: Tensor) -> Tensor:
        """Return the maps of the backbone, `[N, T, C, h, w]`."""
        maps: Tensor = self.base(clips.flatten(0, 1)).unflatten(0, (-1, clips.shape[1]))
        return maps

    def _logits(self, maps: Tensor) -> Tensor:
        """Return the attention logits `[N, T]`."""
        vectors = self.attention_conv(maps.flatten(0, 1)).unflatten(0, (-1, maps.shape[1]))
        logits: Tensor = self.attention_tconv(vectors)
        return logits

    def _aggregate(self, maps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return clip features `[N, C]`, and the attention logits or `None`."""
        if self.spec.attention == "sta":
            return weight_stripes(maps, stripe_scores(maps, self.spec.stripes)), None
        features = maps.mean(dim=(3, 4))
        if self.spec.attention == "mean":
            return features.mean(dim=1), None
        if self.spec.attention == "max":
            return features.amax(dim=1), None
        logits = self._logits(maps)
        return weight_frames(features, logits), logits


def mirror_frames(clips: Tensor) -> Tensor:
    """Return clips `[N, T, 3, H, W]` with the second and third of every four frames mirrored.

    Clips of 1 to 4 frames that are repeated to a length of 4 then have as many mirrored frames of each as others,
    except for clips of 3 frames.
    """
    position = torch.arange(clips.shape[1], device=clips.device) % 4
    mirrored = (position == 1) | (position == 2)
    return torch.where(mirrored[:, None, None, None], clips.flip(-1), clips)


def build_network(spec: NetworkSpec) -> VideoReID:
    """Build a network with random weights; raise `ValueError` for an unknown backbone."""
    return VideoReID(spec)
