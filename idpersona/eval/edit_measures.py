"""What PIE-Bench measures of one edit (arXiv:2310.01506), by the definitions of its evaluator.

*Structure* and *CLIP, whole* look at the whole picture. PSNR, LPIPS, MSE and SSIM look at photo and edit
multiplied by the mask of what is not to be edited: the black places count in the means, so that an edit with
a large mask is better by all of them. There is nothing to measure where the mask covers everything (NaN).
*CLIP, edited* sees the edit multiplied by the mask of what is to be edited.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from idpersona.errors import MissingWeights
from idpersona.eval.clip_score import ClipScore, load_clip_score
from idpersona.eval.lpips import Lpips, load_lpips
from idpersona.eval.masks import times
from idpersona.eval.pictures import mse, psnr, ssim
from idpersona.eval.structure import StructureDistance, load_structure
from idpersona.eval.weights import modules_sha256


@dataclass(frozen=True)
class Column:
    """Heading of a measure, and the factor and digits that tables give it with."""

    heading: str
    factor: float = 1.0
    digits: int = 2


COLUMNS = {
    "structure": Column("structure ×10³", 1e3),
    "psnr": Column("PSNR, dB"),
    "lpips": Column("LPIPS ×10³", 1e3),
    "mse": Column("MSE ×10⁴", 1e4),
    "ssim": Column("SSIM ×10²", 1e2),
    "clip": Column("CLIP, whole"),
    "clip_edited": Column("CLIP, edited"),
}


@dataclass(frozen=True)
class EditMeasures:
    """All measures whose weights are here; ``missing`` says in a sentence each why others are not."""

    structure: StructureDistance | None = None
    lpips: Lpips | None = None
    clip: ClipScore | None = None
    missing: tuple[str, ...] = ()

    @classmethod
    def load(cls, device: Any = "cpu") -> EditMeasures:
        """Those whose weights the registry finds. Raises CheckpointError where they are damaged."""
        found: dict[str, Any] = {}
        missing: list[str] = []
        for name, what, load in (
            ("structure", "structure", load_structure),
            ("lpips", "LPIPS", load_lpips),
            ("clip", "CLIP", load_clip_score),
        ):
            try:
                found[name] = load(device=device)
            except MissingWeights as error:
                missing.append(f"{what} is left out: {error}")
        return cls(**found, missing=tuple(missing))

    @property
    def names(self) -> tuple[str, ...]:
        """Keys of :data:`COLUMNS` that are measured."""
        absent = {
            "structure": self.structure,
            "lpips": self.lpips,
            "clip": self.clip,
            "clip_edited": self.clip,
        }
        return tuple(name for name in COLUMNS if absent.get(name, self) is not None)

    @property
    def weights(self) -> dict[str, str]:
        """sha256 of the networks that measure, for a report."""
        models: dict[str, Any] = {
            "structure": None if self.structure is None else self.structure.model,
            "lpips": self.lpips,
            "clip": None if self.clip is None else self.clip.model,
        }
        return {n: modules_sha256({n: model}) for n, model in models.items() if model is not None}

    def __call__(
        self, photo: Image.Image, edit: Image.Image, mask: np.ndarray, prompt: str
    ) -> dict[str, float]:
        """All :attr:`names` of one edit; NaN for those that compare unedited places where there are none.

        Args:
            photo, edit: RGB, of the mask's size.
            mask: of what is to be edited, bool [height, width].
            prompt: what the edit is to show.
        """
        values: dict[str, float] = {}
        kept = ~mask
        a, b = times(photo, kept), times(edit, kept)
        whole = bool(kept.any())
        values["psnr"] = psnr(a, b) if whole else math.nan
        values["mse"] = mse(a, b) if whole else math.nan
        values["ssim"] = ssim(a, b) if whole else math.nan
        if self.structure is not None:
            values["structure"] = self.structure(photo, edit)
        if self.lpips is not None:
            values["lpips"] = self.lpips(a, b) if whole else math.nan
        if self.clip is not None:
            values["clip"], values["clip_edited"] = self.clip([edit, times(edit, mask)], prompt)
        return {name: values[name] for name in self.names}


def through_jpeg(picture: Image.Image) -> Image.Image:
    """An RGB picture as it comes back from a JPEG file of Pillow's usual quality (75)."""
    file = io.BytesIO()
    picture.convert("RGB").save(file, format="JPEG")
    file.seek(0)
    with Image.open(file, formats=["JPEG"]) as read:
        return read.convert("RGB")
