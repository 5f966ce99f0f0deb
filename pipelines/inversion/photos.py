"""Photos to latents and back, by the autoencoder of a pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.images import Photo, open_photo, photo_name
from idpersona.pipelines.base import native_size
from idpersona.pixels import to_pictures, to_tensor


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
            f"this base takes pictures whose sides are multiples of {step}, not {size[0]}x{size[1]}: "
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


def fit_points(points: np.ndarray, photo: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Where pixels [n, 2] of a photo of ``photo`` (width, height) are after :func:`fit_photo`, float32."""
    scale = max(size[0] / photo[0], size[1] / photo[1])
    corner = (np.array(photo) - np.array(size) / scale) / 2
    # Pixel centres lie at halves.
    return ((np.asarray(points, np.float64) + 0.5 - corner) * scale - 0.5).astype(np.float32)


def encode_photos(pipe: Any, photos: Sequence[Photo], size: tuple[int, int]) -> Tensor:
    """As :func:`encode_pictures`, of the middle of photos, :func:`fit_photo`."""
    if not photos:
        raise BadInput("give at least one photo")
    try:
        return encode_pictures(pipe, [fit_photo(photo, size) for photo in photos])
    except BadInput as error:
        raise BadInput(f"{', '.join(photo_name(photo) for photo in photos)}: {error}") from error


@torch.no_grad()
def encode_pictures(pipe: Any, pictures: Sequence[Image.Image]) -> Tensor:
    """Latents float32 [B, C, h, w] of RGB pictures: the mean of the autoencoder's distribution.

    Raises:
        BadInput: they are no numbers, as half precision makes of SDXL's.
    """
    pixels = to_tensor([np.asarray(picture.convert("RGB")) for picture in pictures])
    with _upcast(pipe.vae) as kind:
        encoded = pipe.vae.encode(pixels.to(pipe._execution_device, kind))
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    scale, shift = _scaling(pipe.vae)
    latents = (latents.float() - shift) * scale
    if not bool(torch.isfinite(latents).all()):
        raise BadInput(f"the autoencoder makes no numbers of it in {kind}: load the base in float32")
    return latents


@torch.no_grad()
def decode_latents(pipe: Any, latents: Tensor) -> list[Image.Image]:
    """RGB pictures of latents [B, C, h, w]."""
    scale, shift = _scaling(pipe.vae)
    with _upcast(pipe.vae) as kind:
        values = pipe.vae.decode((latents / scale + shift).to(pipe._execution_device, kind)).sample
    return to_pictures(values)


def _scaling(vae: Any) -> tuple[float, float]:
    return vae.config.scaling_factor, getattr(vae.config, "shift_factor", None) or 0.0


@contextlib.contextmanager
def _upcast(vae: Any) -> Iterator[torch.dtype]:
    """The type in which ``vae`` computes; SDXL's, which overflows in float16, is float32 inside the scope."""
    own, kind = vae.dtype, torch.float32 if vae.config.force_upcast else vae.dtype
    if kind != own:
        vae.to(kind)
    try:
        yield kind
    finally:
        if kind != own:
            vae.to(own)
