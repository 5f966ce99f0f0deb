"""How alike two pictures are, pixel by pixel; whole, or where a mask says.

All take RGB pictures of one size, and ``mask``, bool or float [height, width]: pixels count that are above a
half in it, None for all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from idpersona.errors import BadInput

EQUAL = 99.0
"""PSNR in dB of equal pictures, and the most that any have."""


def mse(a: Image.Image, b: Image.Image, mask: np.ndarray | None = None) -> float:
    """Mean squared error, of values in 0..1.

    Raises:
        BadInput: pictures or mask of different sizes, or an empty mask.
    """
    x, y = _pixels(a, b)
    return float(((x - y) ** 2)[_where(mask, x)].mean() / 255.0**2)


def psnr(a: Image.Image, b: Image.Image, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio, dB; :data:`EQUAL` for equal pictures. Raises as :func:`mse`."""
    error = mse(a, b, mask)
    return EQUAL if error == 0 else min(EQUAL, float(-10 * np.log10(error)))


def ssim(a: Image.Image, b: Image.Image, mask: np.ndarray | None = None) -> float:
    """Structural similarity (Wang et al. 2004: Gaussian window of 1.5 pixels). Raises as :func:`mse`.

    Without a mask the border is left out where the window would leave the picture; with one, the windows of
    its pixels see what is beside it, too.
    """
    from skimage.metrics import structural_similarity

    x, y = _pixels(a, b)
    where = _where(mask, x)
    found: Any = structural_similarity(
        x,
        y,
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    mean, values = found
    return float(mean) if mask is None else float(np.asarray(values)[where].mean())


def _pixels(a: Image.Image, b: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    if a.size != b.size:
        raise BadInput(f"pictures of {a.width}x{a.height} and {b.width}x{b.height} cannot be compared")
    x, y = (np.asarray(p.convert("RGB"), dtype=np.float64) for p in (a, b))
    return x, y


def _where(mask: np.ndarray | None, pixels: np.ndarray) -> np.ndarray:
    if mask is None:
        return np.ones(pixels.shape[:2], dtype=bool)
    where = np.asarray(mask, dtype=np.float64) > 0.5
    if where.shape != pixels.shape[:2] or not where.any():
        raise BadInput(
            f"a mask of {list(where.shape)} with {int(where.sum())} pixels does not fit pictures of "
            f"{list(pixels.shape[:2])}"
        )
    return where
