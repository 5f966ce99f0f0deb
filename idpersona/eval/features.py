"""How alike two pictures are to a network that was trained to see faces."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from idpersona.encoders.vit import TokenModel
from idpersona.registry import locate


@lru_cache(maxsize=1)
def _mini_vit() -> TokenModel:
    return TokenModel("mini-vit", locate("mini-vit"))


def feature_distance(a: Image.Image, b: Image.Image) -> float:
    """1 - cosine of the patch tokens of ``mini-vit``, the mean over patches; 0 for equal pictures, at most 2.

    RGB pictures of one framing; they are scaled to the network's size. The class token has no part in it.

    Raises:
        MissingWeights: the network is not in this installation.
    """
    model = _mini_vit()
    size = (model.side, model.side)
    one, other = model([picture.resize(size, Image.Resampling.BICUBIC) for picture in (a, b)])[:, 1:]
    product = (one * other).sum(axis=1)
    return float(1 - (product / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))).mean())


def network_sha256() -> str:
    """Hash of the weights of :func:`feature_distance`."""
    return _mini_vit().weights_sha256
