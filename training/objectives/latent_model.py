"""A text-to-image pipeline as trainings look through it: SD1.5, SDXL and the embedded model alike.

All of it is frozen; what is trained lies beside it, or is put into its U-Net. Gradients pass through U-Net
and decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from idpersona.errors import BadInput
from idpersona.pipelines import load_base
from idpersona.pipelines.base import native_size, require_text_to_image
from idpersona.pipelines.inversion.denoiser import Denoiser
from idpersona.seams.latent import Told
from idpersona.training.objectives.denoising import Schedule


class LatentModel:
    """See the module's docstring.

    Args:
        pipe: a text-to-image pipeline of diffusers.
        size: width and height of the pictures; None for what its U-Net was made for.

    Attributes:
        schedule: its noise.

    Raises:
        BadInput: the pipeline takes a picture of its own, or its prediction type cannot be trained on.
    """

    def __init__(self, pipe: Any, size: tuple[int, int] | None = None):
        require_text_to_image(pipe)
        pipe.set_progress_bar_config(disable=True)
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False)
        self.pipe, self.size = pipe, size or native_size(pipe)
        self.schedule = Schedule(pipe.scheduler.config)
        self._told: dict[str, Told] = {}

    @classmethod
    def open(cls, name: str | Path, size: tuple[int, int] | None = None) -> Self:
        """Load a base by name, folder or hub id in float32; raises as ``load_base``."""
        return cls(load_base(name, dtype="fp32"), size)

    @property
    def unet(self) -> Any:
        return self.pipe.unet

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents."""
        factor = self.pipe.vae_scale_factor
        return self.pipe.vae.config["latent_channels"], self.size[1] // factor, self.size[0] // factor

    def to(self, device: torch.device) -> Self:
        """Move all parts. What is trained of the U-Net may have taken it there alone."""
        if {self.pipe.unet.device, self.pipe.vae.device} != {device}:
            self.pipe.to(device)
            self._told = {}
        return self

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents float32 [B, C, h, w] of pictures [B, 3, H, W] in [-1, 1]: the mean of their distribution.

        Raises:
            BadInput: they are no numbers (an autoencoder that overflows in half precision).
        """
        vae = self.pipe.vae
        encoded = vae.encode(pictures.to(vae.dtype))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        latents = (latents.float() - self._shift) * vae.config["scaling_factor"]
        if not bool(torch.isfinite(latents).all()):
            raise BadInput(f"the autoencoder makes no numbers of a photo in {vae.dtype}: load it in float32")
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures float32 [B, 3, H, W] in [-1, 1]; gradients flow through."""
        vae = self.pipe.vae
        values = latents / vae.config["scaling_factor"] + self._shift
        return vae.decode(values.to(vae.dtype)).sample.float()

    @torch.no_grad()
    def tell(self, texts: Sequence[str]) -> Told:
        """What rows with these prompts are told; each prompt is encoded once in a run."""
        new = [text for text in dict.fromkeys(texts) if text not in self._told]
        if new:
            found, _ = self._denoiser.tell(new)
            for n, text in enumerate(new):
                pooled = None if found.pooled is None else found.pooled[n]
                self._told[text] = Told(found.text[n], pooled)
        rows = [self._told[text] for text in texts]
        pooled = None if rows[0].pooled is None else torch.stack([row.pooled for row in rows])  # type: ignore[misc]
        return Told(torch.stack([row.text for row in rows]), pooled)

    def predict(self, noisy: Tensor, timesteps: Tensor, told: Told) -> Tensor:
        """What the U-Net makes of it, float32 [B, C, h, w]."""
        return self._denoiser(noisy, timesteps, told)

    @property
    def _denoiser(self) -> Denoiser:
        return Denoiser(self.pipe, self.shape[1:])

    @property
    def _shift(self) -> float:
        return float(self.pipe.vae.config.get("shift_factor") or 0.0)
