"""Which pixels of a photo belong to the subject, where no mask was given."""

from __future__ import annotations

import numpy as np

from idpersona.encoders.alignment import FACE_UNITS, similarity_transform
from idpersona.errors import BadInput
from idpersona.keypoints import check_keypoints

_CENTRE = (0.0, 0.12)
_RADII = (1.42, 2.0)


def head_mask(size: tuple[int, int], keypoints: object) -> np.ndarray:
    """An ellipse around a head, hair included, from its five keypoints.

    Args:
        size: width and height of the photo in pixels.
        keypoints: ``[5, 2]`` pixels of the photo.

    Returns:
        float32 ``[height, width]``, 1 inside and 0 outside.

    Raises:
        BadInput: no keypoints, or keypoints that lie on one spot.
    """
    width, height = size
    if width < 1 or height < 1:
        raise BadInput(f"a photo of {width}x{height} pixels has no mask")
    matrix = similarity_transform(check_keypoints(keypoints), FACE_UNITS)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    across, down = (matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 2] for i in range(2))
    inside = ((across - _CENTRE[0]) / _RADII[0]) ** 2 + ((down - _CENTRE[1]) / _RADII[1]) ** 2 <= 1
    return inside.astype(np.float32)
