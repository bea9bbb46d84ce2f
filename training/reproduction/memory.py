"""The memory of a network, counted as the tool counts that gave Table II of the not3d paper its figures.

The tool adds up the outputs of the modules of a network for one frame, and counts them twice, for the forward and the
backward pass. The author's class has its ReLUs as modules, so their outputs count; ours calls a function, and hooks on
our modules alone would give 130.4 MB instead of 171.92.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from model.network import NetworkSpec, build_network

FRAMES = 32
"""Frames of the input that the paper counts: a batch of 8 clips of 4 frames."""

_FLOAT, _MEGABYTE = 4, 2**20


class _CountReLU(TorchFunctionMode):
    """Adds up the numbers in the outputs of `relu` that are called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is F.relu:
            self.numbers += output.numel()
        return output


def count_memory(spec: NetworkSpec) -> dict[str, float]:
    """Return the memory of a network in MB (2^20 bytes): input, forward-backward, parameters, total.

    Args:
        spec: a network with `attention="full_map"` and a neck; its trunk, pooling, attention, neck and classifier count
    """
    network = build_network(spec).eval()
    counted = 0

    def add(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal counted
        counted += output.numel()

    own = (m for m in network.modules() if not isinstance(m, (nn.Sequential, nn.Identity)) and m is not network)
    handles = [module.register_forward_hook(add) for module in own]
    frame = torch.zeros(1, 1, 3, spec.frame_height, spec.frame_width)
    relu = _CountReLU()
    with torch.no_grad():
        with relu:
            network.base(frame[0])
        counted = 0  # the trunk is counted once, with all other modules
        network.train_forward(frame)
    for handle in handles:
        handle.remove()
    pooled = network.base.channels
    passes = 2 * (counted + relu.numbers + pooled)
    numbers = {
        "input": FRAMES * 3 * spec.frame_height * spec.frame_width,
        "forward-backward": passes,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }
    figures = {name: _FLOAT * count / _MEGABYTE for name, count in numbers.items()}
    return figures | {"total": sum(figures.values())}
