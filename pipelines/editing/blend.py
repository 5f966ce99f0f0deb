"""Local blend (Prompt-to-Prompt, arXiv:2208.01626): an edit changes only where words draw attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.seams.mask import layer_grid

# Sides of the published layers, relative to the latents (16 of 64), and the least and most that small latents
# have, where a quarter would be too coarse to tell a face from its hair.
_SHARE, _LEAST, _MOST = 4, 8, 16


def blend_grid(size: tuple[int, int], tokens: int) -> tuple[int, int] | None:
    """Height and width of a layer with so many queries, if its maps say where a word is; else None."""
    grid = layer_grid(size, tokens)
    if grid is None:
        return None
    usual = max(size) / _SHARE
    return grid if max(usual, _LEAST) <= max(grid) <= max(usual, _MOST) else None


class LocalBlend:
    """Collects the maps of two prompts' words and says where they are.

    Args:
        words: float32 [pictures, tokens], 1 at the words' tokens of each row of the batch.
        threshold: fraction of the largest value from which a place counts.
    """

    def __init__(self, words: Tensor, threshold: float):
        self.words, self.threshold = words, threshold
        self._sums: dict[tuple[int, int], Tensor] = {}
        self._counts: dict[tuple[int, int], int] = {}

    def add(self, probabilities: Tensor, grid: tuple[int, int]) -> None:
        """Take the probabilities [pictures, heads, queries, tokens] of one layer at one step."""
        words = self.words.to(probabilities)
        drawn = torch.einsum("phqt,pt->pq", probabilities, words).unflatten(1, grid) / probabilities.shape[1]
        self._sums[grid] = self._sums.get(grid, 0) + drawn.float()
        self._counts[grid] = self._counts.get(grid, 0) + 1

    def mask(self, size: tuple[int, int]) -> Tensor:
        """1 where the words are, bool [pictures, 1, height, width] of the latents."""
        if not self._sums:
            raise BadInput(
                f"blend: this base has no layer that says where words are in latents of {size[0]}x{size[1]}; "
                "edit larger pictures, or without blend"
            )
        maps = [
            F.interpolate((total / self._counts[grid])[:, None], size=max(self._sums), mode="bilinear")
            for grid, total in self._sums.items()
        ]
        drawn = F.max_pool2d(torch.stack(maps).mean(dim=0), 3, stride=1, padding=1)
        drawn = F.interpolate(drawn, size=size)
        return drawn / drawn.amax(dim=(2, 3), keepdim=True).clamp(min=1e-12) > self.threshold

    def clear(self) -> None:
        self._sums, self._counts = {}, {}
