"""What is being drawn, while it is being drawn."""

from __future__ import annotations

import io
import logging
import time
from typing import Any

SHARE = 0.1
"""Part of the time that previews may take."""
SIDE = 32
"""Latents are made this small, in cells of the longer side, before they are decoded."""
SMALLEST = 8
"""But no side smaller than this: autoencoders look around each cell."""
log = logging.getLogger(__name__)


class Preview:
    """Small pictures of latents, decoded by the base's own autoencoder; never more often than it can afford.

    Nothing is drawn from the random numbers that belong to the picture.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._spent = 0.0
        self._last = 0.0

    def look(self, pipe: Any, latents: Any) -> bytes | None:
        """A JPEG of the first of the latents [n, channels, height, width]; None when it is too soon."""
        begin = time.monotonic()
        afford = self._last == 0.0 or (self._spent + self._last) <= SHARE * (begin - self._began)
        if begin - self._began < 0.3 or not afford:
            return None
        try:
            seen = decode(pipe, latents)
        except Exception:  # whatever a foreign autoencoder says: the picture matters, its preview does not
            log.warning("no previews of %s", type(pipe).__name__, exc_info=True)
            self._spent = float("inf")
            return None
        self._last = time.monotonic() - begin
        self._spent += self._last
        return seen


def decode(pipe: Any, latents: Any) -> bytes:
    """A JPEG of the first of some latents, at most ``8 * SIDE`` pixels wide and high."""
    import torch
    import torch.nn.functional as functional

    vae = pipe.vae
    with torch.inference_mode():
        small = latents[:1].detach()
        height, width = small.shape[-2:]
        part = SIDE / max(height, width)
        if part < 1:
            sides = [max(min(side, SMALLEST), round(side * part)) for side in (height, width)]
            small = functional.interpolate(small.float(), size=sides, mode="area")
        config = vae.config
        scale = float(getattr(config, "scaling_factor", 1.0) or 1.0)
        shift = float(getattr(config, "shift_factor", 0.0) or 0.0)
        pixels = vae.decode((small / scale + shift).to(vae.dtype), return_dict=False)[0]
    return _jpeg(pipe.image_processor.postprocess(pixels, output_type="pil")[0])


def _jpeg(picture: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()
