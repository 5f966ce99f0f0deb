"""What a base's autoencoder leaves of a picture: the ceiling of everything the base can draw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

_BATCH = 16


@torch.no_grad()
def roundtrip(pipe: Any, pictures: Sequence[Image.Image]) -> list[Image.Image]:
    """Encode and decode RGB pictures (sides divisible by 8) with ``pipe.vae``, deterministically.

    The mean of a KL autoencoder's distribution is decoded, not a sample of it.
    """
    vae = pipe.vae
    weight = next(vae.parameters())
    decoded: list[Image.Image] = []
    for start in range(0, len(pictures), _BATCH):
        pixels = np.stack([np.asarray(p.convert("RGB")) for p in pictures[start : start + _BATCH]])
        batch = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
        encoded = vae.encode(batch.contiguous().to(weight.device, weight.dtype))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        values = vae.decode(latents).sample.float().clamp(-1, 1).permute(0, 2, 3, 1).cpu().numpy()
        decoded += [Image.fromarray(row) for row in ((values + 1) * 127.5).round().astype(np.uint8)]
    return decoded


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two RGB pictures of one size, dB; 99 for equal ones."""
    x, y = (np.asarray(p.convert("RGB"), dtype=np.float64) for p in (a, b))
    error = float(((x - y) ** 2).mean())
    return 99.0 if error == 0 else min(99.0, float(10 * np.log10(255.0**2 / error)))


def ssim(a: Image.Image, b: Image.Image) -> float:
    """Structural similarity of two RGB pictures (Wang et al. 2004: Gaussian window of 1.5 pixels)."""
    from skimage.metrics import structural_similarity

    x, y = (np.asarray(p.convert("RGB")) for p in (a, b))
    value = structural_similarity(
        x, y, channel_axis=2, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(np.asarray(value))
