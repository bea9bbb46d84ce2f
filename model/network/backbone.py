"""Backbones: residual networks, plain or with IBN-a blocks, whose last stage has stride 1 or 2.

Residual networks: He et al., CVPR 2016. With last stride 1, the last stage keeps its resolution (Luo et al., 2019), as
in not3d, fantastic and aas_rfu; the original has 2. IBN-a: Pan et al., ECCV 2018. The first normalisation of each block
of stages 1 to 3 is instance normalisation on the first half of the channels and batch normalisation on the rest, which
removes the appearance of a camera from the early features.
The names in state dicts are those of torchvision and of the IBN-Net release.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class IBN(nn.Module):
    """Instance normalisation on the first half of the channels, batch normalisation on the second (IBN-a)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.instance_channels = channels // 2
        self.IN = nn.InstanceNorm2d(self.instance_channels, eps, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.instance_channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `[N, C, H, W]`; the shape does not change."""
        first, second = x[:, : self.instance_channels], x[:, self.instance_channels :]
        return torch.cat([self.IN(first), self.BN(second)], dim=1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, as in ResNet18."""

    expansion = 1

    def __init__(self, channels: int, planes: int, stride: int, ibn: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
        self.bn1 = IBN(planes) if ibn else nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(channels, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, channels, H, W]` to `[N, planes, H / stride, W / stride]`."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out = out + (x if self.downsample is None else self.downsample(x))
        return F.relu(out, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut, as in ResNet50."""

    expansion = 4

    def __init__(self, channels: int, planes: int, stride: int, ibn: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn1 = IBN(planes) if ibn else nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.downsample = _shortcut(channels, 4 * planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[N, channels, H, W]` to `[N, 4 * planes, H / stride, W / stride]`."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out = out + (x if self.downsample is None else self.downsample(x))
        return F.relu(out, inplace=True)


def _shortcut(channels: int, out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class ResNet(nn.Module):
    """A residual network without its classifier."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
        width: int,
        *,
        ibn: bool,
        last_stride: int = 1,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = width
        stages = []
        for stage, (depth, stride) in enumerate(zip(depths, (1, 2, 2, last_stride), strict=True)):
            planes = width << stage
            blocks = []
            for index in range(depth):
                blocks.append(block(channels, planes, stride if index == 0 else 1, ibn and stage < 3))
                channels = planes * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map frames `[N, 3, H, W]` to `[N, channels, ceil(H / 16), ceil(W / 16)]`; last stride 2 divides by 32."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return x


@dataclass(frozen=True, slots=True)
class _Plan:
    block: type[BasicBlock | Bottleneck]
    depths: tuple[int, int, int, int]
    width: int
    ibn: Literal["a"] | None

    def build(self, last_stride: int = 1) -> ResNet:
        return ResNet(self.block, self.depths, self.width, ibn=self.ibn is not None, last_stride=last_stride)


_PLANS = {
    "resnet50": _Plan(Bottleneck, (3, 4, 6, 3), 64, None),
    "resnet50_ibn_a": _Plan(Bottleneck, (3, 4, 6, 3), 64, "a"),
    "resnet18": _Plan(BasicBlock, (2, 2, 2, 2), 64, None),
    "resnet18_ibn_a": _Plan(BasicBlock, (2, 2, 2, 2), 64, "a"),
    # Three quarters of the channels, for the bundled model, and the same without IBN.
    "resnet18_x0_75": _Plan(BasicBlock, (2, 2, 2, 2), 48, None),
    "resnet18_ibn_a_x0_75": _Plan(BasicBlock, (2, 2, 2, 2), 48, "a"),
}

BACKBONES: dict[str, Callable[..., ResNet]] = {name: plan.build for name, plan in _PLANS.items()}
"""Constructors by name, with random weights; each takes `last_stride`, by default 1."""
