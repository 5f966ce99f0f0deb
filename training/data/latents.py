"""Latents of framed photos, made once, so that the diffusion model's training never runs the autoencoder.

Each photo is encoded in several framings: the standard one plain and mirrored, and some over the whole range of
poses (shift, scale, roll). The file is keyed by the autoencoder's weights.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny

from idpersona.training.data.faces import FaceData, cache_root


@dataclass(frozen=True)
class Latents:
    """Scaled latents float16 [N, K, C, h, w] and keypoints float32 [N, K, 5, 2] in pixels; the first
    ``standard`` of the K framings are near the standard one."""

    values: np.ndarray
    keypoints: np.ndarray
    standard: int


def open_latents(vae_folder: str, faces: FaceData, *, standard: int = 2, wide: int = 2, seed: int = 0) -> Latents:
    """Open the latents of ``faces`` under this autoencoder, computing them first where they are missing."""
    vae = AutoencoderTiny.from_pretrained(vae_folder).eval()
    mark = hashlib.sha256()
    for value in vae.encoder.state_dict().values():
        mark.update(value.float().numpy().tobytes())
    mark.update(f"{vae.config['scaling_factor']} {standard} {wide} {seed}".encode())
    mark.update("\n".join(faces.files.tolist()).encode())
    path = cache_root() / f"latents-{mark.hexdigest()[:16]}.npz"
    if not path.is_file():
        _compute(vae, faces, path, standard, wide, seed)
    stored = np.load(path)
    return Latents(stored["values"], stored["keypoints"], standard)


@torch.inference_mode()
def _compute(vae: AutoencoderTiny, faces: FaceData, path: Path, standard: int, wide: int, seed: int) -> None:
    vae = vae.to(memory_format=torch.channels_last)
    count = standard + wide
    keypoints = np.zeros((len(faces), count, 5, 2), np.float32)
    values: np.ndarray | None = None
    for row in range(len(faces)):
        pictures = np.zeros((count, 128, 128, 3), np.uint8)
        for k in range(count):
            rng = np.random.default_rng([seed, row, k])
            pictures[k], keypoints[row, k] = faces.framed_random(row, rng, wide=k >= standard)
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            z = vae.encode(x).latents.float() * vae.config["scaling_factor"]
        if values is None:
            values = np.zeros((len(faces), count, *z.shape[1:]), np.float16)
        values[row] = z.numpy()
        if row % 2000 == 0:
            print(f"latents {row}/{len(faces)}", file=sys.stderr, flush=True)
    if values is None:
        raise ValueError("no photos to encode")
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, values=values, keypoints=keypoints)
    partial.replace(path)
