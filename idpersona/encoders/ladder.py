"""The sizes at which a photo is searched for faces, from the likely one to the desperate one.

A detector sees faces of a limited range of sizes. Too small a face needs an enlarged photo; a close crop,
whose face touches the border, needs a smaller photo with a margin around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Rung:
    """One look: the photo, with a margin of ``pad`` times its long side around it, at ``long_side`` px."""

    long_side: int
    pad: float = 0.0


@dataclass(frozen=True)
class View:
    """A photo as a detector sees it, and the way back; ``margin`` is in pixels of the view."""

    pixels: np.ndarray
    scale: float
    margin: int

    def to_photo(self, points: np.ndarray) -> np.ndarray:
        """Points ``[..., 2]`` of the view as points of the photo (float64)."""
        return (np.asarray(points, dtype=np.float64) - self.margin) / self.scale


def look(image: Image.Image, rung: Rung, *, max_enlarge: float = 4.0) -> View | None:
    """The view of ``rung`` (RGB uint8), or None when it would enlarge the photo beyond ``max_enlarge``."""
    inner = rung.long_side / (1 + 2 * rung.pad)
    scale = inner / max(image.size)
    if scale > max_enlarge:
        return None
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    filter_ = Image.Resampling.BILINEAR if scale >= 1 else Image.Resampling.BOX
    view = np.array(image if size == image.size else image.resize(size, filter_), dtype=np.uint8)
    margin = (rung.long_side - max(size)) // 2 if rung.pad else 0
    if margin:
        # Repeating the border keeps its edge from looking like the outline of something. Padding comes after
        # scaling: a margin around a photo of many megapixels would not fit into memory.
        view = np.pad(view, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    return View(view, scale, margin)
