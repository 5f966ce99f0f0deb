"""Exponential moving average of the trained weights, kept in float32."""

from __future__ import annotations

import torch
from torch import nn

from idpersona.training.sharding import part_of


class Ema:
    """Average of every floating-point entry of ``module``'s state, with the usual warm-up of the decay.

    The decay at step n is ``min(decay, (1 + n) / (10 + n))``, so that the average forgets the random start.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.average = {
            k: v.detach().clone().float() if v.is_floating_point() else v.clone()
            for k, v in module.state_dict().items()
        }

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        weight = 1.0 - min(self.decay, (1 + step) / (10 + step))
        for key, value in module.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value.float(), weight)
            else:
                self.average[key].copy_(value)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.average

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Raises KeyError where an entry is missing."""
        for key, value in self.average.items():
            value.copy_(part_of(state[key], value))
