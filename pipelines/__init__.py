"""diffusers-compatible pipelines: ``load_base``, the InstantID drop-ins, ``weighted_prompts``, and editing of
real photos: ``invert``, and ``edit`` or ``retouch``, which gives back what need not change.

Everything is imported on first use, so that ``import idpersona.pipelines`` loads neither torch nor diffusers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idpersona.keypoints import draw_kps
    from idpersona.pipelines.base import load_base
    from idpersona.pipelines.editing.edit import Edited, edit
    from idpersona.pipelines.editing.retouch import retouch
    from idpersona.pipelines.editing.spec import Control
    from idpersona.pipelines.instantid_sd15 import StableDiffusionInstantIDPipeline
    from idpersona.pipelines.instantid_sdxl import StableDiffusionXLInstantIDPipeline
    from idpersona.pipelines.instantid_sdxl_img2img import StableDiffusionXLInstantIDImg2ImgPipeline
    from idpersona.pipelines.inversion.methods import invert
    from idpersona.pipelines.inversion.record import Inversion
    from idpersona.pipelines.weighted import weighted_prompts

_WHERE = {
    "Control": "idpersona.pipelines.editing.spec",
    "Edited": "idpersona.pipelines.editing.edit",
    "Inversion": "idpersona.pipelines.inversion.record",
    "StableDiffusionInstantIDPipeline": "idpersona.pipelines.instantid_sd15",
    "StableDiffusionXLInstantIDImg2ImgPipeline": "idpersona.pipelines.instantid_sdxl_img2img",
    "StableDiffusionXLInstantIDPipeline": "idpersona.pipelines.instantid_sdxl",
    "draw_kps": "idpersona.keypoints",
    "edit": "idpersona.pipelines.editing.edit",
    "invert": "idpersona.pipelines.inversion.methods",
    "load_base": "idpersona.pipelines.base",
    "retouch": "idpersona.pipelines.editing.retouch",
    "weighted_prompts": "idpersona.pipelines.weighted",
}

__all__ = [
    "Control",
    "Edited",
    "Inversion",
    "StableDiffusionInstantIDPipeline",
    "StableDiffusionXLInstantIDImg2ImgPipeline",
    "StableDiffusionXLInstantIDPipeline",
    "draw_kps",
    "edit",
    "invert",
    "load_base",
    "retouch",
    "weighted_prompts",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
