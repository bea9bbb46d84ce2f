"""EfficientNet-Lite0 as a backbone, plain or with instance normalisation in its early blocks.

Inverted bottlenecks without squeeze-and-excite, with ReLU6: the "Lite" models of EfficientNet (Tan & Le, ICML 2019).
The last stage that halves the map can keep its resolution, as in the ResNets. `ibn` puts instance normalisation on the
first half of the channels after each block of the first three stages. This is IBN-a (Pan et al., ECCV 2018) on the
narrow maps between the blocks, where it costs little and convolutions can still be fused with what follows them.

The published weights were trained with TensorFlow's "SAME" padding, which pads a layer of stride 2 only at the right
and at the bottom. Here each layer is padded on both sides: its samples are one pixel further to the top left, which
changes a convolutional network only at the border, and needs no separate padding step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from model.network.backbone import IBN

_EPSILON = 1e-3
"""Of all normalisation layers, as in the published weights."""


@dataclass(frozen=True, slots=True)
class _Stage:
    """Inverted bottlenecks, of which the first one has the stride."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


_LITE0 = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_STEM, _HEAD = 32, 1280
_IBN_STAGES = 3
_LAST_STRIDE_STAGE = 5

IBN_BLOCKS = sum(stage.blocks for stage in _LITE0[:_IBN_STAGES])
"""Number of first blocks that have instance normalisation with `ibn`."""


class InvertedBottleneck(nn.Module):
    """Expands by a 1x1 convolution, filters each channel, projects by a 1x1 convolution; with a shortcut if it fits."""

    def __init__(self, channels: int, out: int, *, kernel: int, stride: int, expansion: int, ibn: bool) -> None:
        super().__init__()
        wide = channels * expansion
        self.shortcut = stride == 1 and channels == out
        self.expand: nn.Conv2d | None = None
        self.expand_norm: nn.BatchNorm2d | None = None
        if expansion > 1:
            self.expand = nn.Conv2d(channels, wide, 1, bias=False)
            self.expand_norm = nn.BatchNorm2d(wide, _EPSILON)
        self.depthwise = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(wide, _EPSILON)
        self.project = nn.Conv2d(wide, out, 1, bias=False)
        self.project_norm: nn.Module = IBN(out, _EPSILON) if ibn else nn.BatchNorm2d(out, _EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Compute `[N, out, H / stride, W / stride]` from `[N, channels, H, W]`."""
        inner = x
        if self.expand is not None and self.expand_norm is not None:
            inner = F.relu6(self.expand_norm(self.expand(inner)))
        inner = F.relu6(self.depthwise_norm(self.depthwise(inner)))
        result: Tensor = self.project_norm(self.project(inner))
        return x + result if self.shortcut else result


class EfficientTrunk(nn.Module):
    """EfficientNet-Lite0 without its classifier."""

    def __init__(self, *, ibn: bool = False, last_stride: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _STEM, 3, 2, 1, bias=False)
        self.stem_norm = nn.BatchNorm2d(_STEM, _EPSILON)
        blocks: list[InvertedBottleneck] = []
        channels = _STEM
        for number, stage in enumerate(_LITE0):
            stride = last_stride if number == _LAST_STRIDE_STAGE else stage.stride
            for index in range(stage.blocks):
                blocks.append(
                    InvertedBottleneck(
                        channels,
                        stage.channels,
                        kernel=stage.kernel,
                        stride=stride if index == 0 else 1,
                        expansion=stage.expansion,
                        ibn=ibn and number < _IBN_STAGES,
                    )
                )
                channels = stage.channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(channels, _HEAD, 1, bias=False)
        self.head_norm = nn.BatchNorm2d(_HEAD, _EPSILON)
        self.channels = _HEAD
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def bottlenecks(self) -> list[InvertedBottleneck]:
        """The blocks between stem and head."""
        return [block for block in self.blocks if isinstance(block, InvertedBottleneck)]

    def forward(self, x: Tensor) -> Tensor:
        """Compute maps `[N, 1280, H / 16, W / 16]` from frames `[N, 3, H, W]`; last stride 2: `H / 32`, rounded up."""
        x = F.relu6(self.stem_norm(self.stem(x)))
        x = self.blocks(x)
        return F.relu6(self.head_norm(self.head(x)))


EFFICIENT_TRUNKS: dict[str, Callable[..., EfficientTrunk]] = {
    "efficientnet_lite0": EfficientTrunk,
    "efficientnet_lite0_ibn": partial(EfficientTrunk, ibn=True),
}
"""Constructors by name, with random weights; each takes `last_stride`, by default 1."""
