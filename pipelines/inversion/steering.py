"""How each kind of record leads a pipeline back from its noise: steerings for the seam ``latent``.

Rows of the batch are pairs, a photo and its edit: (0, 1), (2, 3) …; or the photos alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from idpersona.pipelines.inversion.record import Inversion
from idpersona.seams.call import Call
from idpersona.seams.latent import Told


class Plain:
    """Nothing is corrected."""

    def unconditional(self, call: Call) -> Told | None:
        return None

    def predicted(self, prediction: Tensor, call: Call) -> Tensor:
        return prediction

    def stepped(self, latents: Tensor, step: int, steps: int) -> Tensor:
        return latents


class Pinned(Plain):
    """After every step the photos' rows are their pivots again (direct inversion, arXiv:2310.01506).

    The paper adds the difference to the photos' rows; putting the pivot there is the same without the passes
    that it takes to know the difference.
    """

    def __init__(self, record: Inversion):
        self.pivots = record.latents

    def stepped(self, latents: Tensor, step: int, steps: int) -> Tensor:
        pivot = self.pivots[len(self.pivots) - 2 - step].to(latents)
        rows = latents.unflatten(0, (len(pivot), -1))
        return torch.cat([pivot[:, None], rows[:, 1:]], dim=1).flatten(0, 1)


class Optimised(Plain):
    """Unconditional rows are told the embeddings of the record, step by step (null-text)."""

    def __init__(self, record: Inversion):
        assert record.unconditional is not None
        self.embeddings = record.unconditional

    def unconditional(self, call: Call) -> Told:
        step, _ = call.step()
        return Told(self.embeddings[step])


class Negative(Plain):
    """Unconditional rows are told what the photos show (negative-prompt inversion, arXiv:2305.16807)."""

    def __init__(self, source: Told):
        self.source = source

    def unconditional(self, call: Call) -> Told:
        return self.source


class Proximal(Negative):
    """Negative-prompt inversion whose small differences are left out (ProxEdit, arXiv:2306.05414).

    Args:
        source: what the photos' rows are told.
        quantile: of the differences' sizes; those below it are left out.
        kind: ``l0`` leaves the others as they are, ``l1`` takes the threshold off them.
    """

    def __init__(self, source: Told, *, quantile: float = 0.75, kind: str = "l0"):
        super().__init__(source)
        self.quantile, self.kind = quantile, kind

    def predicted(self, prediction: Tensor, call: Call) -> Tensor:
        if not call.guided:
            return prediction
        first, second = prediction.chunk(2)
        difference = second - first
        size = difference.abs()
        # Of each picture alone: others in the batch have no say in it.
        threshold = torch.quantile(size.flatten(1).float(), self.quantile, dim=1).to(size)[
            :, None, None, None
        ]
        if self.kind == "l1":
            difference = difference.sign() * (size - threshold).clamp(min=0)
        else:
            difference = torch.where(size > threshold, difference, torch.zeros_like(difference))
        return torch.cat([first, first + difference])
