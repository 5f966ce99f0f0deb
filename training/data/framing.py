"""The framing of the embedded model: where a face stands in the 128x128 picture.

An 8x autoencoder has few numbers for a face that is small in the picture. Photos are therefore cut so that the
face fills it: eyes 0.30 of the width apart, eye line at 0.47 of the height, which leaves room for hair and hats.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

EYE_DISTANCE = 0.30
EYE_LINE = 0.47

# Mean face in units of the eye distance, origin between the eyes: left eye, right eye, nose, mouth corners.
# Proportions of the 112x112 ArcFace template (Deng et al., arXiv:1801.07698).
_MEAN_FACE = np.array(
    [[-0.5, 0.0], [0.5, 0.0], [0.003, 0.571], [-0.407, 1.157], [0.421, 1.152]], dtype=np.float64
)


def frame_matrix(
    keypoints: np.ndarray,
    size: int = 128,
    *,
    shift: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    roll_degrees: float = 0.0,
    flip: bool = False,
) -> np.ndarray:
    """Affine matrix float64 [2, 3] from photo pixels to the framed picture.

    ``shift`` is in fractions of the picture, ``scale`` multiplies the face size, ``roll_degrees`` turns the face
    clockwise. All five points take part (least squares), so that a face seen from the side is not blown up.
    """
    source = np.asarray(keypoints, dtype=np.float64)
    angle = np.deg2rad(roll_degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    target = _MEAN_FACE * (EYE_DISTANCE * size * scale) @ rotation.T
    target = target + np.array([(0.5 + shift[0]) * size, (EYE_LINE + shift[1]) * size])
    matrix = _similarity(source, target)
    if flip:
        matrix = np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0]]) @ np.vstack([matrix, [0.0, 0.0, 1.0]])
    return matrix


def frame(
    image: Image.Image,
    keypoints: np.ndarray,
    size: int = 128,
    shift: tuple[float, float] = (0.0, 0.0),
    scale: float = 1.0,
    roll_degrees: float = 0.0,
    flip: bool = False,
) -> tuple[Image.Image, np.ndarray]:
    """Cut ``image`` (RGB) so that the face with ``keypoints`` [5, 2] (pixels) stands as the embedded model expects.

    Returns the picture (size x size) and the keypoints float32 [5, 2] in it; a flipped picture has left and right
    exchanged in the points too. What lies beyond the photo's border repeats its edge pixels.
    """
    matrix = frame_matrix(
        keypoints, size, shift=shift, scale=scale, roll_degrees=roll_degrees, flip=flip
    )
    pixels = cv2.warpAffine(
        np.asarray(image.convert("RGB")), matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    points = np.asarray(keypoints, dtype=np.float64) @ matrix[:, :2].T + matrix[:, 2]
    if flip:
        points = flip_points(points)
    return Image.fromarray(pixels), points.astype(np.float32)


def flip_points(points: np.ndarray) -> np.ndarray:
    """Exchange left and right in five points [5, 2] whose picture was mirrored."""
    return points[[1, 0, 2, 4, 3]]


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares rotation, uniform scale and shift [2, 3] without reflection."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    a = (source - source_mean) @ np.array([1.0, 1.0j])
    b = (target - target_mean) @ np.array([1.0, 1.0j])
    turn = (b * a.conj()).sum() / max(float((abs(a) ** 2).sum()), 1e-12)
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.column_stack([linear, target_mean - linear @ source_mean])
