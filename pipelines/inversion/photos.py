"""Photos to latents and back, by the autoencoder of a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.images import Photo, open_photo, photo_name
from idpersona.pipelines.base import native_size


def canvas_of(pipe: Any, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Width and height that photos get: ``size``, or what the base was made for.

    Raises:
        BadInput: a side that the base cannot take; the nearest that it can is named.
    """
    if size is None:
        return native_size(pipe)
    # Every down block but the last halves the latents, and the way up must meet the same sides.
    step = pipe.vae_scale_factor * 2 ** (len(pipe.unet.config["down_block_types"]) - 1)
    if any(side < step or side % step for side in size):
        near = "x".join(str(max(step, round(side / step) * step)) for side in size)
        raise BadInput(
            f"this base edits pictures whose sides are multiples of {step}, not {size[0]}x{size[1]}: "
            f"take {near}"
        )
    return size


def fit_photo(photo: Photo, size: tuple[int, int]) -> Image.Image:
    """The middle of a photo in the aspect ratio of ``size`` (width, height), scaled to it."""
    image = open_photo(photo)
    scale = max(size[0] / image.width, size[1] / image.height)
    width, height = size[0] / scale, size[1] / scale
    left, top = (image.width - width) / 2, (image.height - height) / 2
    return image.resize(
        size, Image.Resampling.LANCZOS, box=(left, top, left + width, top + height), reducing_gap=3.0
    )


@torch.no_grad()
def encode_photos(pipe: Any, photos: Sequence[Photo], size: tuple[int, int]) -> Tensor:
    """Latents float32 [B, C, h, w] of photos cut to ``size``: the mean of the autoencoder's distribution."""
    if not photos:
        raise BadInput("give at least one photo")
    pixels = np.stack([np.asarray(fit_photo(photo, size)) for photo in photos])
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    vae = pipe.vae
    own, kind = vae.dtype, torch.float32 if vae.config.force_upcast else vae.dtype
    if kind != own:  # SDXL's in float16
        vae.to(kind)
    try:
        encoded = vae.encode(tensor.to(pipe._execution_device, kind))
    finally:
        if kind != own:
            vae.to(own)
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    latents = (latents.float() - shift) * vae.config.scaling_factor
    if not bool(torch.isfinite(latents).all()):
        names = ", ".join(photo_name(photo) for photo in photos)
        raise BadInput(f"the autoencoder makes no numbers of {names} in {kind}: load the base in float32")
    return latents
