"""What a Prompt-to-Prompt edit is to do, in words; :mod:`control` does it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from idpersona.errors import BadInput

Window = float | tuple[float, float]
"""Steps as fractions of all: up to one, or from one to another."""

ADAPTER_SCALE = 0.5
"""Usual strength of an adapter in an edit, whose photo says already who it is. More keeps more of the person
and changes less: on mini, 24 photos with five edits each, InstantID at 1 / 0.5 / 0 kept a likeness of .72 /
.63 / .53 (MobileFaceNet), and 53 / 72 / 83 % of the edits showed what was asked for."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """How much of the source picture's attention its edit takes over (Prompt-to-Prompt, arXiv:2208.01626).

    Attributes:
        strength: fraction of the steps, up to the last, in which an edit differs from its photo. Less than 1
            leaves it the colours and the layout, which the first steps settle.
        kind: ``refine`` aligns the prompts' tokens, so that words may come and go; ``replace`` goes word by
            word and needs as many words in both.
        cross: steps in which the source's cross-attention is taken, as a window, or by words of the target
            prompt, ``default`` being all others (without it, the published 0.8).
        self_attention: steps in which the source's self-attention is taken.
        reweight: factors on the attention that words of the target prompt draw.
        blend: words of (source prompt, target prompt), separated by commas, one of both perhaps empty; the
            edit stays where they draw attention. None: the whole picture may change.
        blend_from: fraction of the steps after which it is held there.
        threshold: of the attention that counts as such a place, as a fraction of the largest.
        self_side: self-attention is taken in layers of at most so many queries along the larger side of the
            latents, as a fraction of that side, and in all of at most 16; published: half of 64.
    """

    strength: float = 1.0
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
        for value in (
            *(self.cross.values() if isinstance(self.cross, Mapping) else [self.cross]),
            self.self_attention,
        ):
            window(value)
        for name in ("strength", "blend_from", "threshold", "self_side"):
            _fraction(getattr(self, name), name)
        if self.blend is not None and (
            isinstance(self.blend, str) or len(self.blend) != 2 or not any(self.blend)
        ):
            raise BadInput(
                f"blend names words of the source and of the target, ('man', 'man'), got {self.blend!r}"
            )
        for word, factor in self.reweight.items():
            if not math.isfinite(factor):
                raise BadInput(f"the weight of '{word}' must be a number, got {factor}")


def window(value: Window) -> tuple[float, float]:
    """First and last fraction of the steps.

    Raises:
        BadInput: neither a number in 0..1 nor two of them in order.
    """
    if not isinstance(value, (tuple, list)):
        return 0.0, _fraction(value, "a window of an edit")
    if len(value) != 2 or value[0] > value[1]:
        raise BadInput(f"a window of an edit is one fraction or two in order, got {value!r}")
    return _fraction(value[0], "a window of an edit"), _fraction(value[1], "a window of an edit")


def _fraction(value: Any, what: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise BadInput(f"{what} is a number from 0 to 1, got {value!r}")
    return number
