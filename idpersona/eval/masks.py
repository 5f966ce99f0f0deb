"""Masks of edited places, as PIE-Bench writes them down (arXiv:2310.01506)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from idpersona.errors import BadInput

SIDE = 512
"""Width and height in pixels of PIE-Bench's photos and masks."""


def decode_runs(runs: Sequence[Any], size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """A mask bool [height, width] of ``size`` from run lengths: first pixel, number of pixels, and so on.

    Pixels are counted row by row from 0. As in the benchmark's evaluator, runs end where the picture ends,
    and a border of one pixel always counts as edited, because annotations are careless there.

    Raises:
        BadInput: the runs are no pairs of whole numbers of at least 0.
    """
    whole = all(type(number) is int and number >= 0 for number in runs)
    if len(runs) % 2 or not whole:
        raise BadInput("a mask is a list of pairs, first pixel and number of pixels, of whole numbers from 0")
    height, width = size
    flat = np.zeros(height * width, dtype=bool)
    for first, length in zip(runs[::2], runs[1::2], strict=True):
        flat[first : first + length] = True
    mask = flat.reshape(height, width)
    mask[[0, -1]] = True
    mask[:, [0, -1]] = True
    return mask


def times(picture: Image.Image, mask: np.ndarray) -> Image.Image:
    """An RGB picture multiplied by a mask bool [height, width] of its size: black where that is False."""
    pixels = np.asarray(picture.convert("RGB"))
    if mask.shape != pixels.shape[:2]:
        raise BadInput(f"a mask of {list(mask.shape)} does not fit a picture of {list(pixels.shape[:2])}")
    return Image.fromarray(np.where(mask[..., None], pixels, np.uint8(0)))
