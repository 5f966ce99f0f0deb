"""Regions of a photo that an edit may change, as masks float [height, width] in 0..1."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image, ImageFilter
from torch import Tensor

from idpersona.errors import BadInput

SOFT = 0.02
"""Width of the seam when an edit is pasted into its photo, as a fraction of the picture's larger side."""


def latent_region(region: np.ndarray, size: tuple[int, int], factor: int) -> Tensor:
    """The region at the latents' size (height, width), float32 [1, 1, h, w]: each the mean of what it covers.

    Raises:
        BadInput: it is not of the picture's size, ``factor`` times the latents', or leaves 0..1.
    """
    mask = torch.from_numpy(_checked(region, (size[0] * factor, size[1] * factor)))
    return F.avg_pool2d(mask[None, None], factor)


def paste(photo: Image.Image, edited: Image.Image, region: np.ndarray) -> Image.Image:
    """``edited`` inside the region and the photo, pixel for pixel, outside of it; the seam lies inside.

    Raises:
        BadInput: photo, edit and region are not of one size.
    """
    if photo.size != edited.size:
        raise BadInput(f"an edit of {edited.size} pixels does not go into a photo of {photo.size}")
    mask = _checked(region, (photo.height, photo.width))
    radius = SOFT * max(photo.size)
    whole = Image.fromarray((mask * 255).round().astype(np.uint8))
    soft = np.asarray(whole.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32) / 255
    # Twice what lies above a half: nothing of the edit outside, all of it well inside.
    share = (mask * (2 * soft - 1).clip(0, 1))[..., None]
    before, after = (np.asarray(image.convert("RGB"), dtype=np.float32) for image in (photo, edited))
    return Image.fromarray((before + share * (after - before)).round().astype(np.uint8))


def _checked(region: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    mask = np.asarray(region, dtype=np.float32)
    if mask.shape != size or not (mask >= 0).all() or not (mask <= 1).all():
        raise BadInput(
            f"a region holds numbers from 0 to 1 for {size[1]}x{size[0]} pixels, not {list(mask.shape)}"
        )
    return mask
