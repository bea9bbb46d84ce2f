"""Exponential moving average of the weights of a network, which varies less than the weights of the last step."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of parameters and buffers over steps.

    Early steps weigh less: the decay of step n, from 0, is at most `(1 + n) / (10 + n)`.

    Args:
        network: its weights are averaged
        decay: the weight of the previous average in each step, below 1
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._network = network
        self._state = _copy(network)

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights of the network after a step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        current = self._network.state_dict()
        names = [name for name, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_([self._state[name] for name in names], [current[name] for name in names], 1 - decay)
        for name, value in current.items():
            if not value.is_floating_point():
                self._state[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the network the averaged weights, and its own weights at the end."""
        own = _copy(self._network)
        self._network.load_state_dict(self._state)
        try:
            yield
        finally:
            self._network.load_state_dict(own)

    def restart(self) -> None:
        """Start again from the current weights of the network."""
        self.steps, self._state = 0, _copy(self._network)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for `load_state_dict`."""
        return {"steps": self.steps, "weights": self._state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.steps = int(state["steps"])
        for name, value in self._state.items():
            value.copy_(state["weights"][name])


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
