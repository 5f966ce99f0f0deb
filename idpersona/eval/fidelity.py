"""How near one picture is to another, whole, inside a mask or outside of it.

* MSE: mean squared difference of the values in 0..1 over all pixels and channels. PSNR: -10 log10 MSE, in dB.
* SSIM: structural similarity (Wang et al. 2004), Gaussian window of sigma 1.5, mean over the channels.

With a mask, MSE and PSNR are over its pixels alone, and SSIM is the mean of the SSIM map over them. PIE-Bench
instead multiplies both pictures by the mask and takes the mean over all pixels: :func:`masked_as_pie`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from idpersona.errors import BadInput


def values(image: Image.Image) -> np.ndarray:
    """RGB float64 [height, width, 3] in 0..1."""
    return np.asarray(image.convert("RGB"), dtype=np.float64) / 255


def _pair(one: Image.Image, other: Image.Image, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if one.size != other.size:
        raise BadInput(f"pictures of {one.size} and {other.size} cannot be compared pixel by pixel")
    if mask is not None and (mask.shape != (one.height, one.width) or not mask.any()):
        raise BadInput(f"a mask of {list(mask.shape)} with {int(mask.sum())} pixels does not fit {one.size}")
    return values(one), values(other)


def mse(one: Image.Image, other: Image.Image, mask: np.ndarray | None = None) -> float:
    """Mean squared difference, 0..1; ``mask`` bool [height, width] says which pixels count.

    Raises:
        BadInput: pictures or mask of another size, or an empty mask.
    """
    a, b = _pair(one, other, mask)
    squares = (a - b) ** 2
    return float((squares if mask is None else squares[mask]).mean())


def psnr(one: Image.Image, other: Image.Image, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures. Arguments as for :func:`mse`."""
    error = mse(one, other, mask)
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def ssim(one: Image.Image, other: Image.Image, mask: np.ndarray | None = None) -> float:
    """Structural similarity, -1..1. Arguments as for :func:`mse`."""
    from skimage.metrics import structural_similarity

    a, b = _pair(one, other, mask)
    found: Any = structural_similarity(
        a,
        b,
        data_range=1.0,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    whole, parts = found
    return float(whole if mask is None else parts[mask].mean())


def masked_as_pie(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """The picture, black where ``mask`` bool [height, width] is not: as PIE-Bench compares them."""
    pixels = np.asarray(image.convert("RGB")) * mask[..., None].astype(np.uint8)
    return Image.fromarray(pixels)
