"""Regions of several people on one canvas: boxes or masks, made disjoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from idpersona.errors import BadInput
from idpersona.seams.mask import as_mask

Canvas = tuple[int, int]
Box = tuple[int, int, int, int]


class Regions:
    """Where each of several people is.

    Args:
        regions: for each person a box (x, y, width, height) in pixels of the canvas, or a mask as
            :func:`~idpersona.seams.mask.as_mask` takes it, white on the person and stretched to the canvas.

    A pixel that several claim goes to the one whose mask is larger there, and of equals to the one whose
    region's middle is nearer.

    Raises:
        BadInput: a region is neither, is empty, or leaves the canvas; it is named by its number.
    """

    def __init__(self, regions: Sequence[Any]):
        if not regions:
            raise BadInput("no regions: give one for each person")
        self._boxes: list[Box | None] = []
        self._masks: list[Tensor | None] = []
        for number, region in enumerate(regions, start=1):
            box = _as_box(region, number)
            mask = None if box else as_mask(region)
            if mask is not None and (len(mask) != 1 or not bool((mask > 0).any())):
                raise BadInput(f"the region of person {number} is empty: white is where the person is")
            self._boxes.append(box)
            self._masks.append(mask)
        self._made: tuple[Canvas, torch.device, Tensor] | None = None

    def __len__(self) -> int:
        return len(self._boxes)

    def masks(self, canvas: Canvas, device: torch.device | str = "cpu") -> Tensor:
        """Disjoint masks float32 [people, 1, height, width] of a canvas (width, height) in pixels."""
        device = torch.device(device)
        if self._made is None or self._made[:2] != (canvas, device):
            claims = torch.cat([self._claim(number, canvas) for number in range(len(self))])
            # Kept where it is used: every layer asks for it in every step.
            self._made = (canvas, device, disjoint(claims).to(device))
        return self._made[2]

    def box(self, number: int, canvas: Canvas) -> Box:
        """What encloses the region of a person (counted from 0)."""
        box = self._boxes[number]
        if box is not None:
            return box
        rows, columns = ((self._claim(number, canvas)[0, 0] > 0).any(dim=axis).nonzero() for axis in (1, 0))
        x, y = int(columns.min()), int(rows.min())
        return x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y

    def _claim(self, number: int, canvas: Canvas) -> Tensor:
        width, height = canvas
        mask, box = self._masks[number], self._boxes[number]
        if mask is not None:
            if mask.shape[-2] <= height and mask.shape[-1] <= width:
                return F.interpolate(mask, size=(height, width), mode="nearest")
            return F.adaptive_max_pool2d(mask, (height, width))  # nothing thin is lost
        assert box is not None
        x, y, w, h = box
        if x < 0 or y < 0 or x + w > width or y + h > height:
            raise BadInput(
                f"the region {x},{y},{w},{h} of person {number + 1} leaves the canvas of {width}x{height}"
            )
        claim = torch.zeros(1, 1, height, width)
        claim[:, :, y : y + h, x : x + w] = 1
        return claim


def disjoint(claims: Tensor) -> Tensor:
    """Masks [people, 1, H, W] of which at every pixel at most one is above 0."""
    people, _, height, width = claims.shape
    if people == 1:
        return claims
    y = torch.arange(height, dtype=torch.float32).view(1, 1, height, 1)
    x = torch.arange(width, dtype=torch.float32).view(1, 1, 1, width)
    weight = claims.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    centre_y = (claims * y).sum(dim=(2, 3), keepdim=True) / weight
    centre_x = (claims * x).sum(dim=(2, 3), keepdim=True) / weight
    away = ((y - centre_y).square() + (x - centre_x).square()).sqrt() / (height + width)
    # Never enough to outdo a larger mask by a step of 1/255, always enough to decide between equals.
    winner = (claims - away / 512).masked_fill(claims == 0, -1).argmax(dim=0, keepdim=True)
    own = torch.arange(people).view(people, 1, 1, 1) == winner
    return claims * own


def _as_box(region: Any, number: int) -> Box | None:
    plain = isinstance(region, (tuple, list)) and all(isinstance(part, (int, float)) for part in region)
    if not plain:
        return None
    if len(region) != 4 or any(part != int(part) for part in region):
        raise BadInput(f"the region of person {number} is x,y,width,height in whole pixels, got {region}")
    x, y, width, height = (int(part) for part in region)
    if width < 1 or height < 1:
        raise BadInput(f"the region {x},{y},{width},{height} of person {number} is empty")
    return x, y, width, height
