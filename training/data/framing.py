"""The framing of the embedded model: where a face stands in the 128x128 picture.

An 8x autoencoder has few numbers for a face that is small in the picture. Photos are therefore cut so that
the face fills it: eyes 0.30 of the width apart, eye line at 0.47 of the height, which leaves room for hair
and hats.
"""

from __future__ import annotations

from typing import TypedDict, Unpack

import cv2
import numpy as np
from PIL import Image

from idpersona.encoders.alignment import FACE_UNITS, similarity_transform

SIDE = 128
EYE_DISTANCE = 0.30
EYE_LINE = 0.47

MEAN_FACE = FACE_UNITS
"""Left eye, right eye, nose, mouth corners in units of the eye distance, origin between the eyes."""


class Framing(TypedDict, total=False):
    """How a picture departs from the standard framing; see ``frame_matrix``."""

    shift: tuple[float, float]
    scale: float
    roll_degrees: float
    flip: bool


def frame_matrix(
    keypoints: np.ndarray,
    size: int = SIDE,
    *,
    shift: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    roll_degrees: float = 0.0,
    flip: bool = False,
) -> np.ndarray:
    """Affine matrix float64 [2, 3] from photo pixels to the framed picture.

    ``shift`` is in fractions of the picture, ``scale`` multiplies the face size, ``roll_degrees`` turns the
    face clockwise. All five points take part (least squares), so that a face seen from the side is not blown
    up.
    """
    source = np.asarray(keypoints, dtype=np.float64)
    angle = np.deg2rad(roll_degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = MEAN_FACE * (EYE_DISTANCE * size * scale) @ rotation.T
    target = target + np.array([(0.5 + shift[0]) * size, (EYE_LINE + shift[1]) * size])
    matrix = similarity_transform(source, target)
    if flip:
        matrix = np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0]]) @ np.vstack([matrix, [0.0, 0.0, 1.0]])
    return matrix


def frame_pixels(
    pixels: np.ndarray, keypoints: np.ndarray, size: int = SIDE, **framing: Unpack[Framing]
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a photo uint8 [H, W, 3] so that its face stands as the embedded model expects.

    ``keypoints`` [5, 2] are in pixels of the photo. Returns pixels uint8 [size, size, 3] and the keypoints
    float32 [5, 2] in them; a flipped picture has left and right exchanged in the points too. What lies beyond
    the photo's border repeats its edge pixels.
    """
    matrix = frame_matrix(keypoints, size, **framing)
    pixels, whole = _smoothed(pixels, matrix)
    framed = cv2.warpAffine(
        pixels, whole, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    points = np.asarray(keypoints, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]
    return framed, (flip_points(points) if framing.get("flip") else points).astype(np.float32)


def _smoothed(pixels: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, and matrix from them, of which warping leaves none out: a large photo is shrunk first."""
    factor = int(1 / np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if factor < 2:
        return pixels, matrix
    small = np.asarray(Image.fromarray(pixels).reduce(factor))
    # Pixel n of the small photo is the mean of those from n * factor on.
    up = np.array([[factor, 0, (factor - 1) / 2], [0, factor, (factor - 1) / 2], [0, 0, 1]])
    return small, matrix @ up


def frame(
    image: Image.Image, keypoints: np.ndarray, size: int = SIDE, **framing: Unpack[Framing]
) -> tuple[Image.Image, np.ndarray]:
    """``frame_pixels`` from and to PIL pictures (RGB)."""
    pixels, points = frame_pixels(np.asarray(image.convert("RGB")), keypoints, size, **framing)
    return Image.fromarray(pixels), points


def flip_points(points: np.ndarray) -> np.ndarray:
    """Exchange left and right in five points [5, 2] whose picture was mirrored."""
    return points[[1, 0, 2, 4, 3]]
