"""Data-parallel training: the processes that torchrun starts compute together what one process would compute.

Each process has a part of the batch. BatchNorm takes its statistics over the full batch. The outputs of the network
are gathered, so that metric losses see all pairs, and each process computes the loss of the full batch. The gradient
in a process is then that of its own clips, times the number of processes. The mean over processes is therefore the
gradient of one process.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from model.errors import Not3dError
from model.network import NetworkOutput
from training.losses.distances import at_least_float32

_TIMEOUT = timedelta(hours=6)
"""The other processes wait this long for the first one, which alone measures the validation people."""


class DeviceError(Not3dError):
    """The device to train on does not exist."""


@dataclass(frozen=True)
class Ranks:
    """The number of this process, the number of processes, and the device of this process."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def share_batch_norm(self, network: nn.Module, *, kept: nn.Module | None = None) -> None:
        """Make the BatchNorm layers of a network take their statistics over the clips of all processes.

        Args:
            network: changed in place
            kept: a part of it whose statistics do not change in training
        """
        if self.count > 1:
            _replace_batch_norm(network, nn.SyncBatchNorm if self.device.type == "cuda" else SharedBatchNorm, kept)

    def gather(self, output: NetworkOutput, *rest: Tensor) -> tuple[NetworkOutput, list[Tensor]]:
        """Concatenate the outputs and further tensors of all processes; gradients flow back to each process."""
        if self.count == 1:
            return output, list(rest)
        parts = {name: gather(part) for name, part in output._asdict().items() if part is not None}
        return output._replace(**parts), [gather(tensor) for tensor in rest]

    def gather_tensor(self, tensor: Tensor) -> Tensor:
        """Concatenate a tensor of all processes."""
        return tensor if self.count == 1 else gather(tensor)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over processes."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, torch.split(flat, sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in at least one process."""
        if self.count == 1:
            return flag
        value = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value.item())


@contextmanager
def join_processes(device: str) -> Iterator[Ranks]:
    """Join the processes that torchrun started (it sets environment variables), or run alone.

    Args:
        device: auto, cpu or cuda. Each process takes its own GPU. GPUs communicate by NCCL, CPUs by gloo.

    Raises:
        DeviceError: there is no such device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"the device must be auto, cpu or cuda (got {device})")
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("PyTorch finds no GPU with CUDA on this machine: use the device cpu or auto")
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if count == 1:
        yield Ranks(0, 1, torch.device(name))
        return
    own = torch.device(name)
    if own.type == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=_TIMEOUT)
    try:
        yield Ranks(rank, count, own)
    finally:
        dist.destroy_process_group()


def gather(tensor: Tensor) -> Tensor:
    """Concatenate `[N, ...]` of all processes to `[count * N, ...]`, in order; floats become float32 or float64."""
    if not tensor.is_floating_point():
        return _all_gather(tensor)
    gathered: Tensor = _Gather.apply(at_least_float32(tensor))
    return gathered


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the clips of all processes on CPUs, which `torch.nn.SyncBatchNorm` does not support.

    The variance takes two passes and is as exact as in one process. All processes must hold the same number of clips.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"the input must have the shape [N, C, ...] (got {list(input.shape)})")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `[N, C, ...]`; the shape does not change."""
        if not self.training:
            return super().forward(input)
        wide = at_least_float32(input)
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        count = dist.get_world_size() * input.numel() // input.shape[1]
        mean = _sum_over_processes(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = _sum_over_processes(centred.square().sum(axes)) / count
        self._update_running(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)

    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        momentum = 0.1 if self.momentum is None else self.momentum
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance, momentum)


def _replace_batch_norm(
    module: nn.Module, kind: type[nn.SyncBatchNorm] | type[SharedBatchNorm], kept: nn.Module | None
) -> None:
    """Replace BatchNorm by `kind` in place, except in `kept`; parameters and their names do not change."""
    for name, child in module.named_children():
        if child is kept:
            continue
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            shared = kind(child.num_features, child.eps, child.momentum, device="meta")
            shared.weight, shared.bias = child.weight, child.bias
            shared.running_mean, shared.running_var = child.running_mean, child.running_var
            shared.num_batches_tracked = child.num_batches_tracked
            setattr(module, name, shared)
        else:
            _replace_batch_norm(child, kind, kept)


# The collectives with autograd in `torch.distributed.nn.functional` would do the same, but PyTorch 2.14 deprecates them
# (a FutureWarning on each call) in favour of a private module.
class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.length = len(tensor)
        return _all_gather(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = _all_reduce(gradients[0])
        start = dist.get_rank() * int(ctx.length)
        return total[start : start + ctx.length]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004
        return _all_reduce(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return _all_reduce(gradients[0])


def _sum_over_processes(tensor: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(tensor)
    return total


def _all_gather(tensor: Tensor) -> Tensor:
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _all_reduce(tensor: Tensor) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
