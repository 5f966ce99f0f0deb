"""Train the embedded model's W+ space: faces to codes and back, on the latents of its autoencoder.

Loss: L1 of the latents at full and half size, and the identity loss of ``likeness.py``. A little noise on the
codes keeps the space smooth, so that a step along a direction is a small change of the face.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from idpersona.encoders.style import StyleDecoder, StyleEncoder
from idpersona.pixels import to_tensor
from idpersona.training.data.faces import FaceData, sampling_weights
from idpersona.training.keyed import StepKey
from idpersona.training.latents import Latents
from idpersona.training.loop import Objective
from idpersona.training.objectives.likeness import Likeness
from idpersona.training.weights import channels_last

_NOISE = 1


class StyleAutoencoderConfig(BaseModel):
    """Sizes, and what is asked of the codes.

    Attributes:
        vae: folder of the trained autoencoder.
        latent_descriptor: folder of the network that reads a face's descriptor from latents.
        rows, dim: of a code.
        widths: of the encoder; ``width`` of the decoder.
        likeness: weight of the identity loss.
        noise: spread of the noise on the codes, whose own spread is held near 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["style-autoencoder"]
    vae: str
    latent_descriptor: str
    rows: int = Field(8, ge=6, multiple_of=2)
    dim: int = Field(64, ge=8)
    widths: tuple[int, ...] = (64, 96, 128)
    width: int = 128
    likeness: float = Field(0.3, ge=0)
    noise: float = Field(0.1, ge=0)


class StyleAutoencoderObjective(Objective):
    """See the module's docstring."""

    def __init__(self, config: StyleAutoencoderConfig):
        self.config = config
        self.latents = Latents(config.vae)
        self.faces = FaceData.open("train")
        self.weights = sampling_weights(self.faces)
        self.likeness = Likeness(config.latent_descriptor, self.faces.descriptors)
        channels = self.latents.vae.config["latent_channels"]
        self.encoder = channels_last(StyleEncoder(channels, config.rows, config.dim, config.widths))
        self.decoder = channels_last(StyleDecoder(channels, config.rows, config.dim, config.width))
        self.trained = nn.ModuleDict({"encoder": self.encoder, "decoder": self.decoder})

    def loss(self, key: StepKey) -> tuple[Tensor, Mapping[str, float]]:
        latents = self.latents(to_tensor([self._photo(key.rng(i)) for i in key.indices]).to(self._device))
        codes = self.encoder(latents).float()
        noise = key.normal(tuple(codes.shape[1:]), _NOISE).to(codes.device)
        drawn = self.decoder(codes + self.config.noise * noise).float()
        l1 = F.l1_loss(drawn, latents)
        half = F.l1_loss(F.avg_pool2d(drawn, 2), F.avg_pool2d(latents, 2))
        unlike = self.likeness.to_photos(drawn, latents, torch.ones(len(latents), device=latents.device))
        mean, spread = codes.mean(dim=0), codes.std(dim=0)
        settled = mean.square().mean() + (spread - 1).square().mean()
        loss = l1 + half + self.config.likeness * unlike + 0.02 * settled
        return loss, {
            "l1": float(l1.detach()),
            "unlike": float(unlike.detach()),
            "off": float(settled.detach()),
        }

    @property
    def _device(self) -> torch.device:
        return self.encoder.device

    def _photo(self, rng: np.random.Generator) -> np.ndarray:
        row = int(np.searchsorted(self.weights, rng.random()))
        return self.faces.framed_random(row, rng, wide=False)[0]

    def export(self, folder: Path) -> None:
        """Write ``encoder`` and ``decoder``."""
        self.encoder.save_pretrained(folder / "encoder")
        self.decoder.save_pretrained(folder / "decoder")
