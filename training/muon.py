"""Muon whose numbers are as exact as the weights.

``torch.optim.Muon`` orthogonalises in bfloat16, whatever the weights are. The bits that are lost there differ
with the order in which processes add up a gradient, and runs that should be one drift apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class ExactMuon(torch.optim.Muon):
    """``torch.optim.Muon`` (the same arguments and states) that computes in the parameters' own type.

    Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the length of its step is that of
    ``adjust_lr_fn="match_rms_adamw"`` (Liu et al., arXiv:2502.16982), always.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, of the parameters that have a gradient; returns what ``closure`` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._move(matrix, matrix.grad, group)
        return loss

    def _move(self, matrix: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean: Tensor = state["momentum_buffer"]
        mean.lerp_(gradient, 1 - group["momentum"])
        wanted = gradient.lerp(mean, group["momentum"]) if group["nesterov"] else mean
        matrix.mul_(1 - group["lr"] * group["weight_decay"])
        even = orthogonal(wanted, group["ns_coefficients"], group["ns_steps"], group["eps"])
        matrix.sub_(even, alpha=group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Float [m, n] with the directions of ``matrix`` and singular values near 1, by Newton and Schulz.

    Each of the ``steps`` puts the singular values s to a·s + b·s³ + c·s⁵ for the ``coefficients`` a, b, c.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
