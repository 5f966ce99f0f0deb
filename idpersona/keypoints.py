"""Five facial points: the picture that IdentityNet sees, and the sizes it is drawn at.

Points are in pixels, shape ``[5, 2]``, in InsightFace's order: left eye, right eye, nose tip, left and right
corner of the mouth, where *left* means left in the picture. Paper: InstantID (arXiv:2401.07519).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from idpersona.errors import BadInput

COLORS: tuple[tuple[int, int, int], ...] = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 0),
    (255, 0, 255),
)
LIMBS = ((0, 2), (1, 2), (3, 2), (4, 2))
LIMB_BRIGHTNESS = 0.6


def check_keypoints(kps: object) -> np.ndarray:
    """``kps`` as a finite float32 ``[5, 2]`` array; BadInput otherwise."""
    try:
        points = np.asarray(kps, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise BadInput(f"keypoints must be numbers of shape [5, 2]: {error}") from error
    if points.shape != (5, 2):
        raise BadInput(f"keypoints must have shape [5, 2], got {list(points.shape)}")
    if not np.isfinite(points).all() or float(np.abs(points).max()) > 1e6:
        raise BadInput("keypoints must be finite pixel positions")
    return points


def draw_kps(
    image: Image.Image | tuple[int, int],
    kps: object,
    color_list: Sequence[tuple[int, int, int]] = COLORS,
    *,
    radius: int = 10,
    stick_width: int = 4,
) -> Image.Image:
    """Draw five keypoints on black, pixel for pixel as InstantID's published weights expect them.

    Args:
        image: gives the size of the canvas only (an image, or ``(width, height)``).
        kps: ``[5, 2]`` pixel positions on that canvas; points outside of it are cut off.
        color_list: RGB colour of each point; a limb to the nose takes the colour of its outer point.
        radius: of a point, in pixels; **not** scaled with the canvas (10 for SDXL).
        stick_width: half the width of a limb, in pixels (4 for SDXL).

    Returns:
        RGB image of the canvas size.

    Raises:
        BadInput: wrong shape, points that are not finite, or sizes below zero.
    """
    import cv2

    check_keypoints(kps)
    points = np.asarray(kps, dtype=np.float64)  # float32 would move points that lie next to a whole number
    width, height = image if isinstance(image, tuple) else image.size
    if radius < 0 or stick_width < 0:
        raise BadInput(f"radius and stick_width must not be negative, got {radius} and {stick_width}")
    if len(color_list) < 5:
        raise BadInput(f"color_list needs 5 colours, got {len(color_list)}")
    canvas = np.zeros((height, width, 3), dtype=np.uint8)
    for outer, inner in LIMBS:
        (x0, y0), (x1, y1) = points[outer], points[inner]
        centre = (int((x0 + x1) / 2), int((y0 + y1) / 2))
        half_axes = (int(math.hypot(x0 - x1, y0 - y1) / 2), stick_width)
        angle = int(math.degrees(math.atan2(y0 - y1, x0 - x1)))
        polygon = np.asarray(cv2.ellipse2Poly(centre, half_axes, angle, 0, 360, 1))
        cv2.fillConvexPoly(canvas, polygon, color_list[outer])
    canvas = (canvas * LIMB_BRIGHTNESS).astype(np.uint8)
    for (x, y), color in zip(points, color_list, strict=False):
        cv2.circle(canvas, (int(x), int(y)), radius, color, -1)
    return Image.fromarray(canvas)


def resize_sizes(
    size: tuple[int, int], *, max_side: int = 1280, min_side: int = 1024, base: int = 64
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The two ``(width, height)`` that :func:`resize_img` goes through: unrounded, multiples of ``base``.

    The long side always becomes ``max_side``; ``min_side`` acts only through rounding. Small images are
    enlarged. Sides never fall below ``base``.
    """
    if min(size) < 1 or base < 1 or max_side < base or min_side < 1:
        raise BadInput(f"cannot resize {size} to max_side {max_side}, min_side {min_side}, base {base}")
    width, height = size
    ratio = min_side / min(width, height)
    width, height = round(ratio * width), round(ratio * height)
    ratio = max_side / max(width, height)
    width, height = max(1, round(ratio * width)), max(1, round(ratio * height))
    return (width, height), (max(base, width // base * base), max(base, height // base * base))


def resize_img(
    image: Image.Image,
    max_side: int = 1280,
    min_side: int = 1024,
    size: tuple[int, int] | None = None,
    pad_to_max_side: bool = False,
    mode: Image.Resampling = Image.Resampling.BILINEAR,
    base_pixel_number: int = 64,
) -> Image.Image:
    """Resize as InstantID does: long side ``max_side``, both sides multiples of ``base_pixel_number``.

    Args:
        size: exact ``(width, height)`` instead of the rule.
        pad_to_max_side: centre the result on a white square of ``max_side``.

    Returns:
        RGB image. Two successive resizes, because the published preprocessing does so and the pixels differ.
    """
    image = image.convert("RGB")
    if size is None:
        first, size = resize_sizes(image.size, max_side=max_side, min_side=min_side, base=base_pixel_number)
        image = image.resize(first, mode)
    image = image.resize(size, mode)
    if pad_to_max_side:
        if max(size) > max_side:
            raise BadInput(f"cannot pad {size[0]}x{size[1]} to a square of {max_side}")
        canvas = Image.new("RGB", (max_side, max_side), (255, 255, 255))
        canvas.paste(image, ((max_side - size[0]) // 2, (max_side - size[1]) // 2))
        return canvas
    return image


def fit_keypoints(
    kps: object,
    image_size: tuple[int, int],
    canvas_size: tuple[int, int],
    *,
    framing: tuple[float, float] | None = None,
    freedom: tuple[float, float, float] | None = None,
) -> np.ndarray:
    """Carry keypoints from a photo to a canvas, keeping the face's shape and roll.

    Args:
        kps: ``[5, 2]`` pixels in the photo.
        image_size: ``(width, height)`` of the photo.
        canvas_size: ``(width, height)`` of the picture to be drawn.
        framing: None places the whole photo inside the canvas, centred. ``(eye_distance, eye_line)`` places
            the face instead: distance of the eyes as a part of the canvas width, middle of the eyes at that
            part of its height and at half of its width (for models trained on one framing).
        freedom: with ``framing``: the face stays where the whole photo has it as far as that lies within
            (smallest, largest) times the framing's size and ``shift`` of the canvas around its place; beyond,
            it is brought to the edge of that range.

    Returns:
        float32 ``[5, 2]`` pixels on the canvas.

    Raises:
        BadInput: sizes below one, a framing outside 0..1, or eyes on one spot.
    """
    points = np.asarray(check_keypoints(kps), dtype=np.float64)
    if min(*image_size, *canvas_size) < 1:
        raise BadInput(f"sizes must be positive, got {image_size} and {canvas_size}")
    canvas = np.asarray(canvas_size, dtype=np.float64)
    if framing is None:
        scale = float((canvas / np.asarray(image_size, dtype=np.float64)).min())
        offset = (canvas - np.asarray(image_size) * scale) / 2
        return (points * scale + offset).astype(np.float32)
    distance, line = framing
    if not (0 < distance < 1 and 0 < line < 1):
        raise BadInput(f"framing must lie between 0 and 1, got {framing}")
    eyes = float(np.linalg.norm(points[0] - points[1]))
    # In a profile the eyes nearly meet; the height of the face then says how large it is.
    tall = float(np.linalg.norm(points[:2].mean(0) - points[3:].mean(0)))
    eyes = max(eyes, 0.7 * tall)
    if eyes < 1e-3:
        raise BadInput("keypoints lie on one spot")
    middle = points[:2].mean(axis=0)
    target = canvas * np.asarray([0.5, line])
    scale = distance * canvas[0] / eyes
    if freedom is not None:
        smallest, largest, shift = freedom
        whole = float((canvas / np.asarray(image_size, dtype=np.float64)).min())
        there = (middle - np.asarray(image_size) / 2) * whole + canvas / 2
        scale = float(np.clip(whole, smallest * scale, largest * scale))
        target = np.clip(there, target - shift * canvas, target + shift * canvas)
    return ((points - middle) * scale + target).astype(np.float32)
