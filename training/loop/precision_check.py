"""Whether a network computes the same in bf16 or fp16 as in fp32, on this machine and at this frame size.

Kernels for low precision can be wrong for single shapes: on CPUs with AMX, PyTorch 2.14.1 computes a 3x3 convolution
with stride 2 on 4x2 maps from memory that was never written. A run must not train on such results.
"""

import copy
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from model.network import VideoReID

CLIPS = 8
"""Clips to compare: enough for the statistics of BatchNorm, and few, because fp32 needs more memory than bf16."""

FEATURE_TOLERANCE = 0.1
"""Largest relative difference of the clip features, as L2 norms.

bf16 has 8 significant bits, so one rounding is wrong by up to 2^-9 or 0.2 %. The networks here differ by 1 % as the
roundings of their layers add up. A wrong kernel gives NaN, or a difference of the size of the feature itself."""

GRADIENT_TOLERANCE = 0.9
"""The same for the gradient of all weights.

After rounding, ReLU and max pooling select other elements, so correct gradients differ by 35 % in bf16 and by 13 % in
fp16. Unrelated gradients of equal norm differ by 140 %."""


@dataclass(frozen=True)
class PrecisionDifference:
    """Relative differences from fp32, as L2 norms; NaN or infinity if a result is not finite."""

    features: float
    gradients: float

    @property
    def is_small(self) -> bool:
        """Whether both are within their tolerances."""
        return self.features <= FEATURE_TOLERANCE and self.gradients <= GRADIENT_TOLERANCE  # false for NaN

    def __str__(self) -> str:
        return (
            f"features differ from fp32 by {self.features:.3g} (limit {FEATURE_TOLERANCE:g}), gradients by "
            f"{self.gradients:.3g} (limit {GRADIENT_TOLERANCE:g}), relative to their norms"
        )


def compare_with_fp32(network: VideoReID, clips: Tensor, dtype: torch.dtype) -> PrecisionDifference:
    """Compare a training pass under autocast with the same pass in fp32.

    The passes run on copies of the network in train mode, and random states are restored: neither weights, gradients
    and statistics of BatchNorm nor later random numbers change. The gradient is that of a fixed random projection of
    features and logits, because the pairs that a metric loss selects may differ between precisions. A compiled network
    is compared in its eager form.

    Args:
        network: whose weights are compared
        clips: normalised `[N, T, 3, H, W]`
        dtype: `torch.bfloat16` or `torch.float16`
    """
    reference_features, reference_gradient = _train_pass(network, clips, None)
    features, gradient = _train_pass(network, clips, dtype)
    return PrecisionDifference(
        _relative_difference(features, reference_features), _relative_difference(gradient, reference_gradient)
    )


def _train_pass(network: VideoReID, clips: Tensor, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Return the features before the neck `[N, D]` and the gradient of all weights as one vector."""
    network = copy.deepcopy(network).train()
    network.zero_grad(set_to_none=True)
    generator = torch.Generator().manual_seed(1)
    device = clips.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(1)
        with nullcontext() if dtype is None else torch.autocast(device.type, dtype):
            output = network.train_forward(clips)
        projected = [
            (part.float() * torch.randn(part.shape, generator=generator).to(device)).sum()
            for part in (output.raw, output.logits)
        ]
        torch.stack(projected).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [parameter.grad.flatten() for parameter in network.parameters() if parameter.grad is not None]
    return output.raw.detach().float(), torch.cat(gradients)


def _relative_difference(values: Tensor, reference: Tensor) -> float:
    return float(torch.linalg.vector_norm(values - reference) / torch.linalg.vector_norm(reference))
