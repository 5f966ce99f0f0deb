"""Where the face goes: from an identity, keypoints, a photo or a ready drawing to IdentityNet's picture."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idpersona.adapters.instantid.config import InstantIDConfig
from idpersona.errors import BadInput
from idpersona.identity import Identity
from idpersona.keypoints import check_keypoints, draw_kps, fit_keypoints
from idpersona.seams.region import Box, Canvas


def to_tensor(image: Image.Image, canvas: Canvas) -> Tensor:
    """RGB picture to float32 [1, 3, H, W] in 0..1, resized to the canvas if it has another size."""
    image = image.convert("RGB")
    if image.size != canvas:
        image = image.resize(canvas, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).permute(2, 0, 1)[None]


def is_drawing(image: Image.Image) -> bool:
    """Whether a picture is a keypoint drawing, as ``draw_kps`` makes it with its own colours.

    Less than half of it is lit, and nine tenths of that have a colour far from grey. Drawings that were
    compressed on the way (JPEG 50, WebP 80) have 92 % or more of such pixels, faces before a black wall at
    most 85 % (400 photos).
    """
    pixels = np.asarray(image.convert("RGB"))
    lit = pixels[pixels.max(axis=2) > 64]
    coloured = lit.min(axis=1) < 0.4 * lit.max(axis=1)
    return 0 < len(lit) < 0.5 * pixels.shape[0] * pixels.shape[1] and bool(coloured.mean() >= 0.9)


class PoseDrawer:
    """Gives IdentityNet's picture [people or 1, 3, H, W] in 0..1 for a canvas size.

    Args:
        pose: None (each identity's own keypoints, fitted to the canvas by the configured framing), an
            :class:`Identity` (its keypoints as they lie in its photo, fitted to the canvas within the
            configured freedom), keypoints
            [5, 2] or [people, 5, 2] in canvas pixels, a keypoint drawing (picture, or tensor
            [people, 3, H, W] in 0..1), a photo, or a sequence of these, one per identity. A picture counts
            as a drawing when it looks like one (``is_drawing``), otherwise as a photo whose face is looked
            for.
        read: reads an identity from a photo.
        boxes: where each identity is on a canvas, if all are in one picture: their own keypoints are then
            fitted to their boxes, and one drawing holds them all.

    Raises:
        BadInput: none of these, or a needed identity holds no keypoints.
    """

    def __init__(
        self,
        pose: Any,
        people: Sequence[Identity],
        config: InstantIDConfig,
        read: Callable[[Any], Identity],
        boxes: Callable[[Canvas], list[Box] | None] = lambda _: None,
    ):
        self._config, self._read, self._boxes = config, read, boxes
        if pose is None:
            self._poses = [self._fitted(person, None, number) for number, person in enumerate(people)]
        elif isinstance(pose, (list, tuple)) and not _is_points(pose):
            if len(pose) != len(people):
                raise BadInput(f"{len(pose)} poses for {len(people)} identities")
            self._poses = [self._one(single) for single in pose]
        elif isinstance(pose, np.ndarray) and pose.ndim == 3 and pose.dtype != np.uint8:
            if len(pose) not in (1, len(people)):
                raise BadInput(f"{len(pose)} poses for {len(people)} identities")
            self._poses = [self._one(single) for single in pose]
        else:
            self._poses = [self._one(pose)]

    def __call__(self, canvas: Canvas) -> Tensor:
        drawings = torch.cat([draw(canvas) for draw in self._poses])
        # Drawings are light on black.
        return drawings if self._boxes(canvas) is None else drawings.amax(dim=0, keepdim=True)

    def _draw(self, points: np.ndarray, canvas: Canvas) -> Tensor:
        config = self._config
        drawing = draw_kps(canvas, points, radius=config.kps_radius, stick_width=config.kps_stick_width)
        return to_tensor(drawing, canvas)

    def _fitted(
        self, person: Identity, freedom: tuple[float, float, float] | None, number: int | None = None
    ) -> Callable[[Canvas], Tensor]:
        """``number``: which box of the canvas the face is fitted to; None: the whole canvas."""
        points, size = person.keypoints, person.image_size
        if points is None or size is None:
            raise BadInput("the identity holds no keypoints: give pose=, or scale={'net': 0}")
        framing = self._config.framing

        def draw(canvas: Canvas) -> Tensor:
            boxes = None if number is None else self._boxes(canvas)
            x, y, *box = (0, 0, *canvas) if boxes is None or number is None else boxes[number]
            fitted = fit_keypoints(points, size, (box[0], box[1]), framing=framing, freedom=freedom)
            return self._draw(fitted + np.array([x, y], dtype=np.float32), canvas)

        return draw

    def _one(self, pose: Any) -> Callable[[Canvas], Tensor]:
        if isinstance(pose, Identity):
            return self._fitted(pose, self._config.framing_freedom)
        if isinstance(pose, Tensor):
            if pose.ndim not in (3, 4) or pose.shape[-3] != 3:
                raise BadInput(f"a pose tensor must be a drawing [people, 3, H, W], got {tuple(pose.shape)}")
            drawing = pose.float().reshape(-1, *pose.shape[-3:])
            if not bool(((drawing >= 0) & (drawing <= 1)).all()):  # NaN is neither
                raise BadInput("a pose tensor must be a drawing with values in 0..1")
            return lambda canvas: torch.nn.functional.interpolate(
                drawing, size=(canvas[1], canvas[0]), mode="bilinear"
            )
        if isinstance(pose, np.ndarray) and pose.dtype == np.uint8 and pose.ndim == 3:
            pose = Image.fromarray(pose)
        if isinstance(pose, Image.Image) and is_drawing(pose):
            return lambda canvas: to_tensor(pose, canvas)
        if isinstance(pose, (str, os.PathLike, Image.Image)):
            return self._fitted(self._read(pose), self._config.framing_freedom)
        points = check_keypoints(pose)
        return lambda canvas: self._draw(points, canvas)


def _is_points(pose: Sequence[Any]) -> bool:
    """A plain list [[x, y], …] is one set of keypoints, not one pose per identity."""
    return len(pose) == 5 and all(not isinstance(p, Identity) and np.shape(p) == (2,) for p in pose)
