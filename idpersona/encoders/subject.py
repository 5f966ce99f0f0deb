"""The subject of a photo apart from its background, for encoders of whole objects.

| mask | where it comes from |
| --- | --- |
| a picture, path or array | as given, white on the subject |
| ``alpha`` | the photo's own transparency |
| ``face`` | an ellipse around the head of the largest face, hair included |
| ``segment`` | the segmentation model ``mask2former`` of the registry |
| ``none`` | the whole photo is the subject |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from idpersona.encoders.masks import head_mask
from idpersona.errors import BadInput, NoFaceFound

BACKGROUND = (255, 255, 255)
MARGIN = 0.04
"""Of the longer side, left around the subject on each side."""
MASKS = ("alpha", "face", "segment", "none")


def cut_out(photo: Image.Image, mask: np.ndarray, name: str = "the photo") -> Image.Image:
    """The subject in the middle of a white square, RGB.

    Args:
        photo: RGB.
        mask: [height, width] of the photo in 0..1; from 0.5 on a pixel belongs to the subject's outline.
        name: of the photo, for messages.

    Raises:
        BadInput: the mask has another size, or holds nothing.
    """
    if mask.shape != (photo.height, photo.width):
        raise BadInput(
            f"{name} has {photo.width}x{photo.height} pixels, its mask {mask.shape[1]}x{mask.shape[0]}: "
            "give a mask of the photo's size"
        )
    rows, columns = (np.flatnonzero((mask >= 0.5).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise BadInput(f"the mask of {name} is empty: white is the subject, black the background")
    white = Image.new("RGB", photo.size, BACKGROUND)
    alone = Image.composite(photo, white, Image.fromarray((mask * 255).round().astype(np.uint8)))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    side = max(right - left, bottom - top)
    side = int(np.ceil(side * (1 + 2 * MARGIN)))
    x, y = (left + right - side) // 2, (top + bottom - side) // 2
    square = Image.new("RGB", (side, side), BACKGROUND)
    square.paste(alone, (int(-x), int(-y)))
    return square


def find_mask(photo: Image.Image, how: Any, *, alpha: np.ndarray | None, name: str) -> np.ndarray:
    """The subject's mask of a photo, float32 [height, width] in 0..1.

    Args:
        photo: RGB.
        how: one of :data:`MASKS`, or a mask (picture, path, array) of the photo's size.
        alpha: the photo's own transparency, if it has any.
        name: of the photo, for messages.

    Raises:
        BadInput: an unknown way, a photo without transparency, or something that is no mask.
        NoFaceFound: ``face``, and there is none.
        MissingWeights: ``segment``, and its model is not here.
    """
    finders: dict[str, Callable[[], np.ndarray]] = {
        "alpha": lambda: _alpha(alpha, name),
        "face": lambda: _face(photo, name),
        "segment": lambda: _segment(photo),
        "none": lambda: np.ones((photo.height, photo.width), dtype=np.float32),
    }
    if isinstance(how, str) and how in finders:
        return finders[how]()
    from idpersona.seams.mask import as_mask

    values = as_mask(how)
    if len(values) != 1:
        raise BadInput(f"{len(values)} masks for {name}: give one for each photo")
    return values[0, 0].numpy()


def _alpha(alpha: np.ndarray | None, name: str) -> np.ndarray:
    if alpha is None:
        raise BadInput(
            f"{name} has no transparency that tells the subject from its background: give a mask of its size "
            f"(--mask MASK.png), or one of {', '.join(MASKS[1:])}"
        )
    return alpha


def _face(photo: Image.Image, name: str) -> np.ndarray:
    from idpersona.encoders.catalogue import get_encoder

    finder: Any = get_encoder("dlib")
    found = finder.detect(photo)
    if not found:
        raise NoFaceFound(name, found.sizes_tried)
    return head_mask(photo.size, found[0].keypoints)


def _segment(photo: Image.Image) -> np.ndarray:
    from idpersona.encoders.segmenter import segment_subject

    return segment_subject(photo)
