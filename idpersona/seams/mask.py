"""Region masks: where on the canvas an adapter may add anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from idpersona.errors import BadInput, SeamError
from idpersona.seams.call import Call


def as_mask(mask: Any) -> Tensor:
    """A float32 mask [P, 1, H, W] in 0..1 from a picture, path, array or tensor, or a sequence of them.

    Pictures and uint8 arrays count 0..255, everything else 0..1; [H, W] is one mask, [P, H, W] are P.

    Raises:
        BadInput: not a mask, or values outside 0..1.
    """
    if isinstance(mask, (list, tuple)):
        parts = [as_mask(one) for one in mask]
        if not parts or len({part.shape[1:] for part in parts}) > 1:
            raise BadInput("a list of masks must hold at least one, all of one size")
        return torch.cat(parts)
    if isinstance(mask, (str, os.PathLike)):
        from idpersona.images import open_photo

        mask = open_photo(mask, min_side=1)
    if isinstance(mask, Image.Image):
        mask = np.array(mask.convert("L"))
    try:
        values = torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"a mask must be a picture or numbers [H, W], got {type(mask).__name__}") from error
    values = values.float() / 255 if values.dtype == torch.uint8 else values.float()
    if values.ndim == 2:
        values = values[None]
    if values.ndim == 3:
        values = values[:, None]
    if values.ndim != 4 or values.shape[1] != 1 or values.numel() == 0:
        raise BadInput(f"a mask must be [H, W] or [people, H, W], got shape {tuple(values.shape)}")
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise BadInput("a mask must hold numbers from 0 to 1")
    return values


MaskFor = Callable[[Call], Tensor]
"""A mask that is known when the canvas is."""


def mask_of(mask: Tensor | MaskFor | None, call: Call) -> Tensor | None:
    """The mask for the pass under way."""
    return mask(call) if callable(mask) else mask


def layer_grid(size: tuple[int, int], tokens: int) -> tuple[int, int] | None:
    """Height and width of a layer with ``tokens`` queries, the latent being ``size``: halved, rounding up."""
    height, width = size
    while height * width > tokens and max(height, width) > 1:
        height, width = -(-height // 2), -(-width // 2)
    return (height, width) if height * width == tokens else None


def mask_at(mask: Tensor, size: tuple[int, int], tokens: int, layer: str) -> Tensor:
    """``mask`` [P, 1, H, W] as [P, tokens, 1] for a layer; nearest, so that outside stays exactly 0.

    Raises:
        SeamError: the layer's queries are no halving of the latent; the layer is named.
    """
    grid = layer_grid(size, tokens)
    if grid is None:
        raise SeamError(
            f"no mask can be laid over {layer}: {tokens} queries for a latent of {size}; leave mask and "
            "regions out"
        )
    return F.interpolate(mask, size=grid, mode="nearest").flatten(2).transpose(1, 2)


def mask_like(mask: Tensor, residual: Tensor, rows: Sequence[int]) -> Tensor:
    """``mask`` [P, 1, H, W] as [rows, 1, h, w] for a residual, shrunk by averaging each cell."""
    size = (residual.shape[-2], residual.shape[-1])
    small = F.adaptive_avg_pool2d(mask.to(residual.device), size).to(residual.dtype)
    return small[list(rows)]
