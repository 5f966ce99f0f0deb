"""The trained autoencoder as the first stage of other trainings: pictures in, scaled latents out."""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from torch import Tensor, nn

from idpersona.training.weights import channels_last, require_folder


class Latents(nn.Module):
    """Pictures float32 [B, 3, H, W] in [-1, 1] -> latents float32 [B, C, H/8, W/8] of unit spread.

    Frozen: no gradient passes. ``folder`` is that of a trained AutoencoderTiny; raises MissingWeights when
    nothing lies there.
    """

    def __init__(self, folder: str):
        super().__init__()
        path = require_folder(folder, "autoencoder", "mini-vae")
        vae = AutoencoderTiny.from_pretrained(path)
        self.vae = channels_last(vae.eval().requires_grad_(False))

    @torch.no_grad()
    def forward(self, pictures: Tensor) -> Tensor:
        self.vae.to(pictures.device)  # type: ignore[call-arg]
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        latents = self.vae.encode(pictures, return_dict=False)[0].float()
        return latents * self.vae.config["scaling_factor"]

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures float32 [B, 3, 8 h, 8 w] in [-1, 1] of such latents; gradients flow through."""
        self.vae.to(latents.device)  # type: ignore[call-arg]
        scaled = (latents / self.vae.config["scaling_factor"]).contiguous(memory_format=torch.channels_last)
        return self.vae.decode(scaled, return_dict=False)[0].float()
