"""LPIPS on SqueezeNet 1.1: how unlike two pictures look (Zhang et al., arXiv:1801.03924).

SqueezeNet (arXiv:1602.07360) sees both pictures in [-1, 1], standardised by LPIPS' own shift and scale. At
seven of its layers, features are brought to unit length at every place, and their squared differences
weighted by channel with a trained head, averaged over the places, and summed up over the layers::

    d(a, b) = sum_l mean_hw sum_c w_lc (a_lchw / (|a_lhw| + 1e-10) - b_lchw / (|b_lhw| + 1e-10))^2

The layers have the names that torchvision gives them (``features.3.squeeze.weight``), the heads those of the
``lpips`` package (``lin0.model.1.weight``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from idpersona.checkpoint import fill, only_tensors, read_tensors
from idpersona.errors import BadInput, MissingWeights

NAME = "lpips-squeeze"
BACKBONE, HEADS = "squeezenet1_1-b8a52dc0.pth", "squeeze.pth"
"""Published files: torchvision's SqueezeNet 1.1, and the heads of LPIPS 0.1 for it."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
LOOKED_AT = (1, 4, 7, 9, 10, 11, 12)
"""Layers of ``features`` after which pictures are compared."""
CHANNELS = (64, 128, 256, 384, 384, 512, 512)
LEAST = 17
"""Pixels that each side needs, so that something is left of it in the last layer."""


class Fire(nn.Module):
    """SqueezeNet's block: few channels by 1x1, then 1x1 and 3x3; [B, C, h, w] -> [B, 2 E, h, w]."""

    def __init__(self, channels: int, squeezed: int, expanded: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1).relu()


class SqueezeFeatures(nn.Module):
    """The layers of SqueezeNet 1.1 below its classifier."""

    def __init__(self) -> None:
        super().__init__()

        def pool() -> nn.Module:
            return nn.MaxPool2d(3, stride=2, ceil_mode=True)

        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(),
            pool(),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            pool(),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            pool(),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """What the seven layers make of standardised pictures [B, 3, H, W]."""
        found: list[Tensor] = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in LOOKED_AT:
                found.append(x)
        return found


class Heads(nn.Module):
    """A weight for every channel of the seven layers, under the names of the ``lpips`` package."""

    def __init__(self) -> None:
        super().__init__()
        for number, channels in enumerate(CHANNELS):
            # The first place is held by dropout while training.
            model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))
            self.add_module(f"lin{number}", nn.ModuleDict({"model": model}))

    def forward(self, differences: Sequence[Tensor]) -> Tensor:
        """Distances [B] of squared differences [B, C, h, w] of the seven layers."""
        layers = (self.get_submodule(f"lin{number}.model") for number in range(len(CHANNELS)))
        parts = [layer(x).mean(dim=(1, 2, 3)) for layer, x in zip(layers, differences, strict=True)]
        return torch.stack(parts).sum(dim=0)


class Lpips(nn.Module):
    """The distance of two RGB pictures of one size; 0 for equal ones."""

    def __init__(self, backbone: SqueezeFeatures, heads: Heads):
        super().__init__()
        self.backbone, self.heads = backbone, heads

    @torch.inference_mode()
    def forward(self, a: Image.Image, b: Image.Image) -> float:
        """Raises BadInput for pictures of different sizes, or with sides below :data:`LEAST` pixels."""
        if a.size != b.size or min(a.size) < LEAST:
            raise BadInput(
                f"LPIPS compares pictures of one size of at least {LEAST} px, not {a.width}x{a.height} and "
                f"{b.width}x{b.height}"
            )
        weight = next(self.parameters())
        pixels = torch.from_numpy(np.stack([np.asarray(p.convert("RGB")) for p in (a, b)]))
        values = pixels.permute(0, 3, 1, 2).to(weight) / 127.5 - 1
        shift, scale = (torch.tensor(part).view(1, 3, 1, 1).to(weight) for part in (SHIFT, SCALE))
        features = [_unit(layer) for layer in self.backbone((values - shift) / scale)]
        return float(self.heads([(layer[:1] - layer[1:]) ** 2 for layer in features]))


def _unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def load_lpips(folder: str | Path | None = None, *, device: str | torch.device = "cpu") -> Lpips:
    """LPIPS from its two published files, which are read as tensors only; no code in them is run.

    Args:
        folder: that holds :data:`BACKBONE` and :data:`HEADS`; None takes ``lpips-squeeze`` of the registry.
        device: where it computes.

    Raises:
        MissingWeights: a file is not there.
        CheckpointError: a file is damaged or another one; its keys are named.
    """
    from idpersona.registry import locate

    place = locate(NAME) if folder is None else Path(folder)
    for file in (BACKBONE, HEADS):
        if not (place / file).is_file():
            raise MissingWeights(
                f"LPIPS needs {file} in {place}: idpersona models list {NAME} says where from"
            )
    state = only_tensors(read_tensors(place / BACKBONE), str(place / BACKBONE))
    # Its classifier of ImageNet is not looked at.
    state = {key: value for key, value in state.items() if not key.startswith("classifier.")}
    backbone = fill(SqueezeFeatures(), state, str(place / BACKBONE))
    state = only_tensors(read_tensors(place / HEADS), str(place / HEADS))
    heads = fill(Heads(), state, str(place / HEADS))
    return Lpips(backbone, heads).eval().requires_grad_(False).to(device)
