"""The embedded model's own W+ space: a style-based autoencoder of faces, on the latents of its autoencoder.

The encoder turns the latents of a framed face into a code of several rows, the decoder turns a code back
into latents by convolutions that each row modulates, as StyleGAN2's do (Karras et al., arXiv:1912.04958): the
first rows say what is coarse, the last what is fine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image
from torch import Tensor, nn

from idpersona.checkpoint import load_component
from idpersona.encoders.files import sha256_of
from idpersona.errors import MissingWeights

SIDE = 16
"""Width and height of the latents."""
START = 4
"""Width and height of the decoder's constant."""


class _Residual(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels_in), nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.skip = nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + self.skip(x)


class StyleEncoder(ModelMixin, ConfigMixin):
    """Latents float [B, channels, 16, 16] of unit spread -> codes [B, rows, dim].

    Args:
        channels: of the latents.
        rows, dim: of a code.
        widths: channels at 16, 8 and 4 pixels.
    """

    @register_to_config
    def __init__(
        self, channels: int = 8, rows: int = 8, dim: int = 64, widths: Sequence[int] = (64, 96, 128)
    ):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, 1, 1)]
        before = widths[0]
        for number, width in enumerate(widths):
            layers += [_Residual(before, width, 2 if number else 1), _Residual(width, width, 1)]
            before = width
        self.body = nn.Sequential(*layers, nn.GroupNorm(8, before), nn.SiLU(), nn.Flatten())
        left = SIDE // 2 ** (len(widths) - 1)
        self.head = nn.Linear(before * left * left, rows * dim)

    def forward(self, latents: Tensor) -> Tensor:
        return self.head(self.body(latents)).unflatten(1, (self.config["rows"], self.config["dim"]))


class _Modulated(nn.Module):
    """A convolution whose weights a row of the code scales, and which are normalised (StyleGAN2, 2.2)."""

    def __init__(self, dim: int, channels_in: int, channels: int, size: int = 3, *, normalise: bool = True):
        super().__init__()
        self.style = nn.Linear(dim, channels_in)
        nn.init.ones_(self.style.bias)
        self.weight = nn.Parameter(torch.randn(channels, channels_in, size, size))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.gain = (channels_in * size * size) ** -0.5
        self.normalise = normalise

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        scale = self.style(row)
        weight = self.weight * self.gain
        # Scaling what goes in and what comes out is the same as scaling each sample's weights, and one
        # convolution serves the whole batch.
        y = F.conv2d(x * scale[:, :, None, None], weight, padding=weight.shape[-1] // 2)
        if self.normalise:
            power = (weight.square().sum((2, 3)) @ scale.square().T).T
            y = y * (power + 1e-8).rsqrt()[:, :, None, None]
        return y + self.bias[:, None, None]


class StyleDecoder(ModelMixin, ConfigMixin):
    """Codes [B, rows, dim] -> latents float [B, channels, 16, 16] of unit spread.

    Args:
        channels, rows, dim: as of the encoder; ``rows`` a multiple of 2 from 6 on: two for 4 and two for 8
            pixels, the others for 16.
        width: channels inside.
    """

    @register_to_config
    def __init__(self, channels: int = 8, rows: int = 8, dim: int = 64, width: int = 128):
        super().__init__()
        self.constant = nn.Parameter(torch.randn(1, width, START, START))
        self.convs = nn.ModuleList(_Modulated(dim, width, width) for _ in range(rows))
        self.out = _Modulated(dim, width, channels, 1, normalise=False)

    def forward(self, codes: Tensor) -> Tensor:
        x: Any = self.constant.expand(len(codes), -1, -1, -1)
        rows = codes.unbind(1)
        for number, (conv, row) in enumerate(zip(self.convs, rows, strict=True)):
            if number in (2, 4):
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            y = F.leaky_relu(conv(x, row), 0.2)
            x = y if number in (0, 2, 4) else (x + y) * 0.7071
        return self.out(x, rows[-1])


class StyleModel:
    """Framed faces to codes: the autoencoder of a base, then :class:`StyleEncoder`.

    Args:
        name: of the weights, for messages.
        folder: of the encoder.
        vae: folder of the base's ``AutoencoderTiny``.

    Raises:
        MissingWeights: nothing lies there.
    """

    def __init__(self, name: str, folder: str | Path, vae: str | Path):
        self.folder, self.vae_folder = Path(folder), Path(vae)
        self.weights = self.folder / "diffusion_pytorch_model.safetensors"
        for path in (self.weights, self.vae_folder / "config.json"):
            if not path.is_file():
                raise MissingWeights(f"encoder '{name}' needs {path}, which is not there")

    @cached_property
    def _encoder(self) -> Any:
        encoder: Any = load_component(StyleEncoder, self.folder)
        return encoder.float().requires_grad_(False)

    @cached_property
    def _vae(self) -> Any:
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

        vae: Any = load_component(AutoencoderTiny, self.vae_folder)
        return vae.float().requires_grad_(False)

    @property
    def side(self) -> int:
        return 8 * SIDE

    @property
    def tokens(self) -> int:
        return int(self._encoder.config["rows"])

    @property
    def dim(self) -> int:
        return int(self._encoder.config["dim"])

    @property
    def weights_sha256(self) -> str:
        return sha256_of(self.weights)

    @property
    def provider(self) -> str:
        return str(self._encoder.device)

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Codes float32 [n, rows, dim] of RGB pictures of 128 pixels."""
        pixels = torch.from_numpy(np.stack([np.asarray(p.convert("RGB")) for p in pictures]))
        values = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = self._vae.encode(values.to(self._vae.device), return_dict=False)[0]
        return self._encoder(latents * self._vae.config["scaling_factor"]).float().cpu().numpy()
