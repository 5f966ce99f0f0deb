"""Bringing a face to a standard position from its five keypoints."""

from __future__ import annotations

import numpy as np
from PIL import Image

from idpersona.errors import BadInput
from idpersona.keypoints import check_keypoints

ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    dtype=np.float32,
)
"""Where ArcFace networks expect the five points in a crop of 112x112 pixels (arXiv:1801.07698)."""


def similarity_transform(src: object, dst: object) -> np.ndarray:
    """Rotation, uniform scale and shift that carry ``src`` to ``dst`` with the least squared error.

    Args:
        src, dst: ``[5, 2]`` points.

    Returns:
        float64 ``[2, 3]``: ``dst ≈ M[:, :2] @ src + M[:, 2]``; never a reflection. Umeyama, PAMI 1991.

    Raises:
        BadInput: wrong shapes, or source points that lie on one spot.
    """
    a = np.asarray(check_keypoints(src), dtype=np.float64)
    b = np.asarray(check_keypoints(dst), dtype=np.float64)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    centred_a, centred_b = a - mean_a, b - mean_b
    spread = float((centred_a**2).sum() / len(a))
    if spread < 1e-9:
        raise BadInput("cannot align a face whose keypoints lie on one spot")
    u, singular, vt = np.linalg.svd(centred_b.T @ centred_a / len(a))
    signs = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    rotation = (u * signs) @ vt
    matrix = rotation * float((singular * signs).sum() / spread)
    return np.concatenate([matrix, (mean_b - matrix @ mean_a)[:, None]], axis=1)


def align(
    image: Image.Image, keypoints: object, size: int = 112, *, repeat_edges: bool = False
) -> Image.Image:
    """Crop a face to ``size`` x ``size`` pixels with its keypoints at :data:`ARCFACE_TEMPLATE`.

    Parts beyond the photo are black, or with ``repeat_edges`` its edge pixels. For sizes that are multiples
    of 128 the template is centred in a wider frame, as InsightFace does.

    Raises:
        BadInput: keypoints that cannot be aligned, or a size below 16.
    """
    import cv2

    if size < 16:
        raise BadInput(f"cannot align to {size} px: use 16 or more")
    if size % 112 and size % 128 == 0:
        template = ARCFACE_TEMPLATE * (size / 128) + np.array([8.0 * size / 128, 0], dtype=np.float32)
    else:
        template = ARCFACE_TEMPLATE * (size / 112)
    matrix = similarity_transform(keypoints, template)
    pixels = np.asarray(image.convert("RGB"))
    border = cv2.BORDER_REPLICATE if repeat_edges else cv2.BORDER_CONSTANT
    return Image.fromarray(
        cv2.warpAffine(pixels, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
    )


FACE_UNITS = np.array(
    [[-0.5, 0.0], [0.5, 0.0], [0.003, 0.571], [-0.407, 1.157], [0.421, 1.152]], dtype=np.float64
)
"""The five keypoints of a face seen from the front, in units of its eye distance, origin between the eyes.

Proportions of the 112x112 ArcFace template (Deng et al., arXiv:1801.07698).
"""


def frame_face(
    image: Image.Image, keypoints: object, size: int, *, eye_distance: float, eye_line: float
) -> Image.Image:
    """Cut a photo to ``size`` x ``size`` pixels around an upright face, RGB.

    Args:
        keypoints: ``[5, 2]`` pixels of the photo.
        eye_distance: as a part of the width; all five points take part in the fit.
        eye_line: height of the eyes, as a part of the height from the top.

    What lies beyond the photo's border repeats its edge pixels. Large photos are shrunk first, so that
    nothing is skipped over.

    Raises:
        BadInput: keypoints that cannot be aligned.
    """
    target = FACE_UNITS * (eye_distance * size) + np.array([0.5, eye_line]) * size
    return _cut(image, similarity_transform(keypoints, target), size)


def ffhq_face(
    image: Image.Image, keypoints: object, size: int, *, beyond_edges: int | None = None
) -> Image.Image:
    """Cut a face as FFHQ's photos are (Karras et al., arXiv:1812.04948): RGB, ``size`` x ``size`` pixels.

    The crop stands upright on the line between the eyes and the mouth; its half side is the larger of twice
    the eye distance and 1.8 times the distance from eyes to mouth. Eye centres and mouth corners are enough.
    ``beyond_edges`` is the grey value outside of the photo; None repeats its edges.

    Raises:
        BadInput: keypoints that lie on one spot.
    """
    points = np.asarray(check_keypoints(keypoints), dtype=np.float64)
    eyes, mouth = points[:2].mean(axis=0), points[3:].mean(axis=0)
    across, down = points[1] - points[0], mouth - eyes
    axis = across + np.array([down[1], -down[0]])
    length = float(np.hypot(*axis))
    if length < 1e-6:
        raise BadInput("cannot align a face whose keypoints lie on one spot")
    axis *= max(2.0 * float(np.hypot(*across)), 1.8 * float(np.hypot(*down))) / length
    half = float(np.hypot(*axis))
    right = axis / half
    below = np.array([-right[1], right[0]])
    corner = eyes + 0.1 * down - half * (right + below)
    rotation = np.stack([right, below]) * (size / (2 * half))
    # Pixel centres of the crop: its first pixel covers the first part of the square.
    matrix = np.concatenate([rotation, (-rotation @ corner - 0.5)[:, None]], axis=1)
    return _cut(image, matrix, size, beyond_edges)


def _cut(image: Image.Image, matrix: np.ndarray, size: int, beyond_edges: int | None = None) -> Image.Image:
    """``size`` x ``size`` pixels where ``matrix`` float64 [2, 3] leads from the photo.

    Beyond its edges they are repeated, or everything has the grey value that is given.
    """
    import cv2

    shrink = int(1 / max(float(np.sqrt(abs(np.linalg.det(matrix[:, :2])))), 1e-6))
    photo = image.convert("RGB")
    if shrink >= 2:
        photo = photo.reduce(shrink)
        # Pixel centres: (x + 0.5) / shrink - 0.5 in the smaller photo.
        shift = matrix[:, :2] @ np.full((2, 1), (shrink - 1) / 2)
        matrix = np.concatenate([matrix[:, :2] * shrink, matrix[:, 2:] + shift], axis=1)
    pixels = cv2.warpAffine(
        np.asarray(photo),
        matrix,
        (size, size),
        flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE if beyond_edges is None else cv2.BORDER_CONSTANT,
        borderValue=(beyond_edges or 0,) * 3,
    )
    return Image.fromarray(pixels)
