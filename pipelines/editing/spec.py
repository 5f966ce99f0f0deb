"""What a Prompt-to-Prompt edit is to do, in words; :mod:`control` does it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from idpersona.errors import BadInput

Window = float | tuple[float, float]
"""Steps as fractions of all: up to one, or from one to another."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """How much of the source picture's attention its edit takes over (Prompt-to-Prompt, arXiv:2208.01626).

    Attributes:
        kind: ``refine`` aligns the prompts' tokens, so that words may come and go; ``replace`` goes word by
            word and needs as many words in both.
        cross: steps in which the source's cross-attention is taken, as a window, or by words of the target
            prompt, ``default`` being all others.
        self_attention: steps in which the source's self-attention is taken.
        reweight: factors on the attention that words of the target prompt draw.
        blend: words of (source prompt, target prompt), separated by commas; the edit stays where they draw
            attention. None: the whole picture may change.
        blend_from: fraction of the steps after which it is held there.
        threshold: of the attention that counts as such a place, as a fraction of the largest.
        self_side: self-attention is taken in layers of at most so many queries along the larger side of the
            latents, as a fraction of that side; published: half.
    """

    kind: Literal["refine", "replace"] = "refine"
    cross: Window | Mapping[str, Window] = 0.4
    self_attention: Window = 0.6
    reweight: Mapping[str, float] = field(default_factory=dict)
    blend: tuple[str, str] | None = None
    blend_from: float = 0.2
    threshold: float = 0.3
    self_side: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in ("refine", "replace"):
            raise BadInput(f"an edit is one of refine and replace, not '{self.kind}'")
        crosses = self.cross.values() if isinstance(self.cross, Mapping) else [self.cross]
        for value in (*crosses, self.self_attention, self.blend_from, self.threshold):
            first, last = window(value)
            if not 0 <= first <= last <= 1:
                raise BadInput(f"a window of an edit lies in 0..1, got {value}")
        for word, factor in self.reweight.items():
            if not math.isfinite(factor):
                raise BadInput(f"the weight of '{word}' must be a number, got {factor}")


def window(value: Window) -> tuple[float, float]:
    """First and last fraction of the steps."""
    return (0.0, float(value)) if isinstance(value, (int, float)) else (float(value[0]), float(value[1]))
