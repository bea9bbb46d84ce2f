"""Whether the layers of a network compute in bf16 or fp16 what they compute in fp32, on this machine.

Kernels for low precision can be wrong for some shapes: on CPUs with AMX, PyTorch 2.14.1 computes a 3x3 convolution with
stride 2 on 4x2 maps from memory that was never written. A run must not train on such results.

Each layer is compared alone, on the same input. The results of a complete network differ too much even if all layers
are correct: measured on a ResNet50 with random weights, the features by 22 % and the gradients by 135 %.
"""

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.network import VideoReID

CLIPS = 8
"""Clips to compare: enough for the statistics of BatchNorm, and few, because fp32 needs more memory than bf16."""

OUTPUT_TOLERANCE = 0.05
"""Largest relative difference of the output of a layer, as L2 norms.

bf16 has 8 significant bits, so one rounding is wrong by up to 2^-9 or 0.2 %. A layer rounds its weights and its output,
which is well below 1 %. A wrong kernel gives NaN, or a difference of the size of the output."""

GRADIENT_TOLERANCE = 0.9
"""The same for the gradients. It is larger because a ReLU inside a layer can select other elements after rounding."""


@dataclass(frozen=True)
class LayerDifference:
    """Relative differences of a layer from fp32, as L2 norms; infinity if a result is not finite."""

    layer: str
    output: float
    gradient: float
    """the largest one among the gradients of input and weights"""

    @property
    def is_small(self) -> bool:
        """Whether both are within their tolerances."""
        return self.output <= OUTPUT_TOLERANCE and self.gradient <= GRADIENT_TOLERANCE

    def __str__(self) -> str:
        return (
            f"layer {self.layer} differs from fp32 by {self.output:.3g} in its output (limit {OUTPUT_TOLERANCE:g}) and "
            f"by {self.gradient:.3g} in its gradients (limit {GRADIENT_TOLERANCE:g}), relative to their norms"
        )


def find_wrong_layer(network: VideoReID, clips: Tensor, dtype: torch.dtype) -> LayerDifference | None:
    """Compare each layer under autocast with fp32; return the first layer that is wrong.

    A layer is a module that calls no other module. The comparison runs on a copy of the network in train mode, and
    random states are restored: neither weights, gradients and statistics of BatchNorm nor later random numbers change.

    Args:
        network: whose layers are compared; a compiled network is compared in its eager form
        clips: normalised `[N, T, 3, H, W]`
        dtype: `torch.bfloat16` or `torch.float16`
    """
    network = copy.deepcopy(network).train()
    differences: list[LayerDifference] = []
    calls_others: list[bool] = []
    """for each module that is being called, whether it has called another module"""

    def enter(_module: nn.Module, _inputs: tuple[Any, ...]) -> None:
        if calls_others:
            calls_others[-1] = True
        calls_others.append(False)

    def leave(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not calls_others.pop() and len(inputs) == 1 and isinstance(output, Tensor):
            differences.append(_compare_layer(names[module], module, inputs[0], dtype))

    names = {module: name for name, module in network.named_modules()}
    for module in names:
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    with torch.no_grad(), torch.random.fork_rng([clips.device] if clips.device.type == "cuda" else []):
        network.train_forward(clips)
    # With several processes, all must compare all layers, because BatchNorm communicates.
    return next((difference for difference in differences if not difference.is_small), None)


def _compare_layer(name: str, layer: nn.Module, x: Tensor, dtype: torch.dtype) -> LayerDifference:
    x = x.to(dtype)  # both start from the same numbers
    reference = _pass(layer, x.float(), None)
    results = _pass(layer, x, dtype)
    output, *gradients = [_relative_difference(*pair) for pair in zip(results, reference, strict=True)]
    return LayerDifference(name, output, max(gradients))


def _pass(layer: nn.Module, x: Tensor, dtype: torch.dtype | None) -> list[Tensor]:
    """Return the output of a layer and its gradients, for a fixed random gradient of the output."""
    x = x.detach().clone().requires_grad_()
    wanted = [x, *(parameter for parameter in layer.parameters() if parameter.requires_grad)]
    with torch.enable_grad():
        with nullcontext() if dtype is None else torch.autocast(x.device.type, dtype):
            output = layer.forward(x).float()
        weighting = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(x.device)
        gradients = torch.autograd.grad(output, wanted, weighting, materialize_grads=True)
    return [output.detach(), *(gradient.float() for gradient in gradients)]


def _relative_difference(values: Tensor, reference: Tensor) -> float:
    if not values.isfinite().all():
        return float("inf")
    norm = torch.linalg.vector_norm(reference)
    return float(torch.linalg.vector_norm(values - reference) / norm) if norm > 0 else 0.0
