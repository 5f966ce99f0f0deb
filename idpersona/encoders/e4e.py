"""e4e: a face to its code in StyleGAN2's W+ space (Tov et al., arXiv:2102.02766), published key names.

An IR-SE-50 backbone (ArcFace's residual units with squeeze and excitation), a feature pyramid, and one style
head for each of the 18 rows: the first gives a code for all rows, the others what their row adds to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor, nn

from idpersona.checkpoint import fill, read_tensors
from idpersona.encoders.files import sha256_of
from idpersona.errors import CheckpointError, MissingWeights

STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))
"""Channels and units of the backbone's stages; each halves height and width in its first unit."""
_COARSE, _MIDDLE = 3, 7
"""First rows that are read from the middle and from the finest level of the pyramid."""


class _SqueezeExcite(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class BackboneUnit(nn.Module):
    """ArcFace's residual unit with squeeze and excitation."""

    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if channels_in != channels:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels, 3, 1, 1, bias=False),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            _SqueezeExcite(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut_layer(x) + self.res_layer(x)


class _EqualLinear(nn.Module):
    """A linear layer whose weights are stored without their usual start's factor (StyleGAN)."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(dim, dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight / math.sqrt(x.shape[-1]), self.bias)


class _StyleHead(nn.Module):
    """A map [B, dim, side, side] to one row [B, dim]."""

    def __init__(self, dim: int, side: int):
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(int(math.log2(side))):
            layers += [nn.Conv2d(dim, dim, 3, 2, 1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = _EqualLinear(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


class E4EEncoder(nn.Module):
    """Faces float [B, 3, side, side] in [-1, 1] to W+ codes [B, rows, dim], before the mean code is added.

    Args:
        rows, side: 18 rows and 256 pixels as published; smaller for tests (``side`` a power of two from 64).
        stages: (channels, units) of the four stages of the backbone; the last one's channels are ``dim``.
    """

    def __init__(self, rows: int = 18, side: int = 256, stages: tuple[tuple[int, int], ...] = STAGES):
        super().__init__()
        width = stages[0][0]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        units: list[nn.Module] = []
        for channels, count in stages:
            units += [
                BackboneUnit(width if n == 0 else channels, channels, 2 if n == 0 else 1)
                for n in range(count)
            ]
            width = channels
        self.body = nn.Sequential(*units)
        counts = [sum(count for _, count in stages[: n + 1]) for n in range(len(stages))]
        self.taps = tuple(count - 1 for count in counts[1:])
        sides = [side // 4] * max(rows - _MIDDLE, 0)
        heads = ([side // 16] * _COARSE + [side // 8] * (_MIDDLE - _COARSE) + sides)[:rows]
        self.styles = nn.ModuleList(_StyleHead(width, head) for head in heads)
        self.latlayer1 = nn.Conv2d(stages[2][0], width, 1)
        self.latlayer2 = nn.Conv2d(stages[1][0], width, 1)

    def forward(self, faces: Tensor) -> Tensor:
        x = self.input_layer(faces)
        maps = []
        for number, unit in enumerate(self.body):
            x = unit(x)
            if number in self.taps:
                maps.append(x)
        fine, middle, coarse = maps
        levels = [coarse]
        for lateral, finer in ((self.latlayer1, middle), (self.latlayer2, fine)):
            size = finer.shape[-2:]
            raised = F.interpolate(levels[-1], size=size, mode="bilinear", align_corners=True)
            levels.append(raised + lateral(finer))
        first = self.styles[0](coarse)
        rows = [first]
        for number, head in enumerate(self.styles):
            if number:
                level = levels[(number >= _COARSE) + (number >= _MIDDLE)]
                rows.append(first + head(level))
        return torch.stack(rows, dim=1)


class E4EModel:
    """FFHQ-aligned faces to W+ codes, by the published ``e4e_ffhq_encode.pt`` (its decoder is not read).

    Args:
        name: of the weights, for messages.
        file: a pickle {state_dict: encoder.* and decoder.*, latent_avg [rows, dim]}, read with
            ``weights_only=True``.
        network: the encoder; None for the published sizes.
        side: width and height of a picture.

    Raises:
        MissingWeights: there is no such file.
    """

    def __init__(self, name: str, file: str | Path, *, network: E4EEncoder | None = None, side: int = 256):
        self.name, self.file, self.side, self._given = name, Path(file), side, network
        if not self.file.is_file():
            raise MissingWeights(
                f"encoder '{name}' needs {self.file}: put it there (see idpersona models list)"
            )

    @cached_property
    def _loaded(self) -> tuple[E4EEncoder, Tensor]:
        content = read_tensors(self.file)
        if not isinstance(content.get("state_dict"), dict) or not isinstance(
            content.get("latent_avg"), Tensor
        ):
            raise CheckpointError(f"{self.file} is no e4e encoder: it lacks state_dict or latent_avg")
        state = {k[8:]: v for k, v in content["state_dict"].items() if k.startswith("encoder.")}
        mean = content["latent_avg"].float()
        network = self._given
        if network is None:
            with torch.device("meta"):
                network = E4EEncoder()
        network = fill(network, state, str(self.file)).float().requires_grad_(False)
        if mean.shape != (len(network.styles), network.latlayer1.out_channels):
            raise CheckpointError(f"{self.file} is no e4e encoder: latent_avg is {list(mean.shape)}")
        return network, mean

    @property
    def tokens(self) -> int:
        return len(self._loaded[1])

    @property
    def dim(self) -> int:
        return int(self._loaded[1].shape[1])

    @property
    def weights_sha256(self) -> str:
        return sha256_of(self.file)

    @property
    def provider(self) -> str:
        return "cpu"

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Codes float32 [n, rows, dim] of RGB pictures of the encoder's size."""
        network, mean = self._loaded
        pixels = torch.from_numpy(np.stack([np.asarray(p.convert("RGB")) for p in pictures]))
        faces = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        return (network(faces) + mean).numpy()
