"""Keep the initial weights of parts of a network, with faster layers for this case on a CPU.

Fine-tuning ImageNet weights on a few thousand people changes the early layers little, but they take most of the time,
because their maps are large. Kept layers need no backward pass, and if BatchNorm keeps its statistics, each
normalisation becomes a factor of the convolution before it.
"""

from collections.abc import Callable
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from model.network import VideoReID
from model.network.backbone import IBN
from model.network.efficient import EfficientTrunk, InvertedBottleneck


class FreezeSettings(BaseModel):
    """Which parts of the backbone keep their initial weights; only for EfficientNet backbones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocks: int = Field(0, ge=0, description="the stem and this many of the first blocks keep all their weights")
    statistics: bool = Field(False, description="BatchNorm of the backbone keeps its statistics")
    depthwise: bool = Field(
        False, description="depthwise filters keep their weights; their gradient is the slowest part on a CPU"
    )

    @property
    def any(self) -> bool:
        """Whether a part is kept."""
        return bool(self.blocks or self.statistics or self.depthwise)


def freeze(network: VideoReID, settings: FreezeSettings, *, fast: bool) -> None:
    """Freeze parts of a network in place; parameters, buffers and their names do not change.

    Args:
        network: with an EfficientNet backbone, unless nothing is to be frozen
        settings: which parts
        fast: use the faster forms of the layers for training on a CPU

    Raises:
        ValueError: the backbone is of another kind or has fewer blocks.
    """
    if not settings.any:
        return
    trunk = network.base
    if not isinstance(trunk, EfficientTrunk):
        raise ValueError(f"freeze needs an efficientnet backbone (got {network.spec.backbone})")
    if settings.blocks >= len(trunk.blocks):
        raise ValueError(f"freeze.blocks must be below {len(trunk.blocks)} (got {settings.blocks})")
    if settings.blocks and not settings.statistics:
        raise ValueError("freeze.blocks needs freeze.statistics = true")
    if settings.blocks:
        for part in (trunk.stem, trunk.stem_norm, *trunk.bottlenecks[: settings.blocks]):
            part.requires_grad_(False)
    if settings.depthwise:
        for block in trunk.bottlenecks:
            block.depthwise.requires_grad_(False)
            block.depthwise_norm.requires_grad_(False)
    if settings.statistics:
        trunk.register_forward_pre_hook(_keep_statistics)
    if fast and settings.statistics and settings.depthwise:
        for block in trunk.bottlenecks:
            block.__class__ = _FastBottleneck
        trunk.__class__ = _FastTrunk
        if isinstance(trunk, _FastTrunk):
            trunk.kept_blocks = settings.blocks


def _keep_statistics(trunk: nn.Module, inputs: object) -> None:  # noqa: ARG001 - the signature of a hook
    if trunk.training:
        for layer in trunk.modules():
            if isinstance(layer, nn.BatchNorm2d | IBN):
                layer.eval()


class _FastTrunk(EfficientTrunk):
    """A backbone in training whose statistics, depthwise filters and first blocks are kept.

    The kept blocks are folded once, at the first step, and again after `load_state_dict`.
    """

    kept_blocks: int = 0
    folded: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if self.kept_blocks:
            with torch.no_grad():
                if self.folded is None:
                    self.folded = _fold_kept(self)
                x = self.folded(x)
        else:
            x = F.relu6(_linear_norm(x, self.stem, self.stem_norm))
        for block in self.bottlenecks[self.kept_blocks :]:
            x = block(x)
        return F.relu6(_linear_norm(x, self.head, self.head_norm), inplace=True)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.folded = None  # also called when a network around the trunk loads weights
        super()._load_from_state_dict(*args, **kwargs)


class _FastBottleneck(InvertedBottleneck):
    """A block in training whose statistics and depthwise filters are kept."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        inner = x
        if self.expand is not None and self.expand_norm is not None:
            inner = F.relu6(_linear_norm(inner, self.expand, self.expand_norm), inplace=True)
        weight, bias = _fold(self.depthwise, self.depthwise_norm)
        inner = _KeptDepthwise.apply(inner, weight, bias, self.depthwise.stride[0])
        if isinstance(self.project_norm, nn.BatchNorm2d):
            result = _linear_norm(inner, self.project, self.project_norm)
        else:
            result = self.project_norm(_pointwise(inner, self.project.weight, None))
        return x + result if self.shortcut else result


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution together with the normalisation after it, with its statistics."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("the normalisation has no statistics")
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return convolution.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def _linear_norm(x: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    weight, bias = _fold(convolution, norm)
    if convolution.kernel_size == (1, 1):
        return _pointwise(x, weight, bias)
    return F.conv2d(x, weight, bias, convolution.stride, _padding(convolution))


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute a 1x1 convolution as a matrix product, whose weight gradient takes less than half the time."""
    return F.linear(x.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias).permute(0, 3, 1, 2)


def _padding(convolution: nn.Conv2d) -> tuple[int, int]:
    height, width = convolution.kernel_size
    return height // 2, width // 2


class _KeptDepthwise(torch.autograd.Function):
    """A depthwise convolution with fixed weights, and ReLU6."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        out = _convolve(x, weight, bias, stride, clamp=True, groups=len(weight))
        ctx.save_for_backward(out, weight)
        ctx.shape, ctx.stride = x.shape, stride
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        out, weight = ctx.saved_tensors
        gradient = torch.ops.aten.hardtanh_backward(gradients[0], out, 0.0, 6.0)
        if ctx.stride == 1:
            flipped = weight.flip(2, 3)
            return _convolve(gradient, flipped, None, 1, clamp=False, groups=len(weight)), None, None, None
        padding = weight.shape[2] // 2
        # The operator needs the shape of the input, not its values.
        empty = out.new_empty(1).expand(ctx.shape).contiguous(memory_format=torch.channels_last)
        back, _, _ = torch.ops.aten.convolution_backward(
            gradient,
            empty,
            weight,
            None,
            [ctx.stride] * 2,
            [padding] * 2,
            [1, 1],
            False,
            [0, 0],
            len(weight),
            [True, False, False],
        )
        return back, None, None, None


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, *, clamp: bool, groups: int) -> Tensor:
    """Compute a convolution without gradients for its weights, in one pass with ReLU6 if `clamp`."""
    padding = weight.shape[2] // 2
    # On CPUs without instructions for bf16, the fused operator accepts fp32 only.
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        action, bounds = ("hardtanh", [0.0, 6.0]) if clamp else ("none", [])
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, [padding] * 2, [stride] * 2, [1, 1], groups, action, bounds, ""
        )
        return fused
    out = F.conv2d(x, weight, bias, stride, padding, 1, groups)
    return F.relu6(out) if clamp else out


def _fold_kept(trunk: _FastTrunk) -> Callable[[Tensor], Tensor]:
    """Return the stem and the kept blocks as one function, without gradients."""

    def fold(convolution: nn.Conv2d, norm: nn.Module, *, clamp: bool) -> Callable[[Tensor], Tensor]:
        weight: Tensor = convolution.weight.detach()
        bias: Tensor | None = None
        if isinstance(norm, nn.BatchNorm2d):
            weight, bias = _fold(convolution, norm)
        weight = weight.contiguous(memory_format=torch.channels_last)
        stride, groups = convolution.stride[0], convolution.groups
        after = None if isinstance(norm, nn.BatchNorm2d) else norm

        def run(x: Tensor) -> Tensor:
            out = _convolve(x, weight, bias, stride, clamp=clamp, groups=groups)
            return out if after is None else after(out)

        return run

    stem = fold(trunk.stem, trunk.stem_norm, clamp=True)
    blocks = []
    for block in trunk.bottlenecks[: trunk.kept_blocks]:
        layers = [fold(block.depthwise, block.depthwise_norm, clamp=True)]
        if block.expand is not None and block.expand_norm is not None:
            layers.insert(0, fold(block.expand, block.expand_norm, clamp=True))
        blocks.append(([*layers, fold(block.project, block.project_norm, clamp=False)], block.shortcut))

    def run(x: Tensor) -> Tensor:
        x = stem(x)
        for layers, shortcut in blocks:
            inner = x
            for layer in layers:
                inner = layer(inner)
            x = x + inner if shortcut else inner
        return x

    return run
