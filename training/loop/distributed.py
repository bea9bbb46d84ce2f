"""Data parallel training: what the processes that torchrun starts must share so that they compute what one would.

Each process works on its part of the batch. BatchNorm's statistics are those of the whole batch, the network's outputs
are gathered, so that metric losses see every pair, and each process computes the loss of the whole batch. Its gradient
then is, on each process, the part of its clips times the number of processes: their mean is one process's gradient.
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

from model.network import NetworkOutput
from training.losses.distances import at_least_float32

_PATIENCE = timedelta(hours=6)
"""How long processes wait for the first, which alone measures the held-out people."""


@dataclass(frozen=True)
class Ranks:
    """This process's number, how many there are, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, network: nn.Module) -> None:
        """Makes a network's BatchNorm take its statistics over the clips of all processes; a single one: nothing."""
        if self.count > 1:
            _share_statistics(network, nn.SyncBatchNorm if self.device.type == "cuda" else SharedBatchNorm)

    def gather(self, output: NetworkOutput, *rest: Tensor) -> tuple[NetworkOutput, list[Tensor]]:
        """The outputs and further tensors of all processes, one after another; gradients flow back to each."""
        if self.count == 1:
            return output, list(rest)
        parts = {name: gather(part) for name, part in output._asdict().items() if part is not None}
        return output._replace(**parts), [gather(tensor) for tensor in rest]

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sets every gradient to the mean over processes."""
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
        """Whether the flag is set in any process."""
        if self.count == 1:
            return flag
        value = torch.tensor(int(flag), device=self.device)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return bool(value.item())


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The processes that torchrun started (by its environment variables), or this one alone.

    ``device`` is auto, cpu or cuda; each process takes a GPU of its own. GPUs talk by NCCL, CPUs by gloo.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if count == 1:
        yield Ranks(0, 1, torch.device(name))
        return
    own = torch.device(name)
    if own.type == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Ranks(rank, count, own)
    finally:
        dist.destroy_process_group()


def gather(tensor: Tensor) -> Tensor:
    """``[N, ...]`` of every process as ``[count * N, ...]``, in their order, float32 at least for gradients' sake."""
    if not tensor.is_floating_point():
        return _gathered(tensor)
    gathered: Tensor = _Gather.apply(at_least_float32(tensor))
    return gathered


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the clips of all processes on CPUs, for which ``torch.nn.SyncBatchNorm`` does not work.

    Variance by two passes, as exact as one process's. Every process must hold as many clips as the others.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"needs [N, C, ...], not {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """``[N, C, ...]`` to the same shape."""
        if not self.training:
            return super().forward(input)
        wide = at_least_float32(input)
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        count = dist.get_world_size() * input.numel() // input.shape[1]
        mean = _total(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = _total(centred.square().sum(axes)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(input.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        momentum = 0.1 if self.momentum is None else self.momentum
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance, momentum)


def _share_statistics(module: nn.Module, kind: type[nn.SyncBatchNorm] | type[SharedBatchNorm]) -> None:
    """Replaces BatchNorm by ``kind`` in place; parameters and their names stay."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            shared = kind(child.num_features, child.eps, child.momentum, device="meta")
            shared.weight, shared.bias = child.weight, child.bias
            shared.running_mean, shared.running_var = child.running_mean, child.running_var
            shared.num_batches_tracked = child.num_batches_tracked
            setattr(module, name, shared)
        else:
            _share_statistics(child, kind)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.length = len(tensor)
        return _gathered(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        total = _summed(gradient)
        start = dist.get_rank() * int(ctx.length)
        return total[start : start + ctx.length]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        return _summed(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        return _summed(gradients[0])


def _total(tensor: Tensor) -> Tensor:
    total: Tensor = _Total.apply(tensor)
    return total


def _gathered(tensor: Tensor) -> Tensor:
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _summed(tensor: Tensor) -> Tensor:
    total = tensor.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
