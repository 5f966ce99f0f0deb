"""Trained parameters inside a large frozen model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class TrainedParameters(nn.Module):
    """A module by its trained parameters alone: its state holds nothing else.

    Args:
        module: what of it requires gradients is trained (a LoRA that peft put into a U-Net, for example).
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def state_dict(  # type: ignore[override]
        self, *, destination: dict[str, Any] | None = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        found: dict[str, Any] = {} if destination is None else destination
        for name, parameter in self._trained().items():
            found[prefix + name] = parameter if keep_vars else parameter.detach()
        return found

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Tensor], *_: Any, **__: Any) -> Any:
        """Raises KeyError when names differ, RuntimeError when shapes do."""
        trained = self._trained()
        if apart := sorted(trained.keys() ^ state_dict.keys()):
            raise KeyError(f"names that only one of both has: {', '.join(apart[:3])}")
        for name, parameter in trained.items():
            parameter.copy_(state_dict[name])
        return None
