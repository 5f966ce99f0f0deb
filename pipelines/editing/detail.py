"""What the autoencoder lost of a photo, given back to its edit where the edit changes nothing.

A base draws what its autoencoder can draw: skin loses its pores, a wall its colour. Where an edit and the
photo as the same drawing brought it back agree, their difference to the photo is the autoencoder's alone.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from idpersona.errors import BadInput

SAME, OTHER = 6.0, 24.0
"""Mean differences of colour, of 255, up to which a place counts as unchanged, and from which as changed."""
_SPREAD = 0.015


def restore(photo: Image.Image, source: Image.Image, edited: Image.Image) -> Image.Image:
    """``edited`` with the photo's detail where it agrees with ``source``; between the two it fades.

    Args:
        photo: RGB.
        source: the photo as the drawing of the edit brought it back (``Edited.sources``).
        edited: the edit, of the same size.

    Raises:
        BadInput: they are not of one size.
    """
    if not photo.size == source.size == edited.size:
        raise BadInput(f"photo, source and edit are of {photo.size}, {source.size} and {edited.size} pixels")
    radius = _SPREAD * max(photo.size)
    before, back, after = (np.asarray(p.convert("RGB"), dtype=np.float32) for p in (photo, source, edited))
    change = np.abs(after - back).mean(axis=2).round().astype(np.uint8)
    # The strongest change near a place, so that no outline of what was there stays around what is now.
    side = 2 * round(radius) + 1
    near = Image.fromarray(change)
    if side > 1:  # Pillow 12.3 divides by zero in a filter of one pixel, which changes nothing
        near = near.filter(ImageFilter.MaxFilter(side))
    near = near.filter(ImageFilter.GaussianBlur(radius))
    share = 1 - ((np.asarray(near, dtype=np.float32) - SAME) / (OTHER - SAME)).clip(0, 1)
    return Image.fromarray((after + share[..., None] * (before - back)).clip(0, 255).round().astype(np.uint8))
