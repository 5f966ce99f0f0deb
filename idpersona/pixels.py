"""Pictures as tensors, and back."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLASSIFIER_SIDE = 64
"""Side in pixels of what the attribute classifiers and the identity judge see."""


def to_tensor(pictures: Sequence[np.ndarray]) -> Tensor:
    """Pictures uint8 [H, W, 3] of one size as one float32 tensor [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_pictures(values: Tensor) -> list[Image.Image]:
    """A tensor [B, 3, H, W] in [-1, 1] as RGB pictures; what lies outside is clipped."""
    rows = values.detach().float().clamp(-1, 1).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(row) for row in ((rows + 1) * 127.5).round().astype(np.uint8)]


def shrink(picture: np.ndarray) -> np.ndarray:
    """A picture uint8 [H, W, 3] at the classifiers' size, each pixel the average of the area it covers."""
    return cv2.resize(picture, (CLASSIFIER_SIDE, CLASSIFIER_SIDE), interpolation=cv2.INTER_AREA)
