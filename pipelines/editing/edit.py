"""Edit inverted photos by words."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.pipelines.base import require_text_to_image
from idpersona.pipelines.editing.control import AttentionControl, control_scope
from idpersona.pipelines.editing.region import latent_region
from idpersona.pipelines.editing.spec import Control
from idpersona.pipelines.inversion.denoiser import Denoiser
from idpersona.pipelines.inversion.methods import get_method
from idpersona.pipelines.inversion.record import Inversion, model_fingerprint
from idpersona.seams.call import Call
from idpersona.seams.latent import Steering, Told, latent_scope

USUAL = Control()
FREE_NEGATIVE = ("direct", "ddim", "renoise")
"""Inversions in which nothing rests on the negative prompt."""
FREE_GUIDANCE = (*FREE_NEGATIVE, "negative-prompt", "proximal")
"""Inversions that were found without guidance, and may be edited with any."""


@dataclass(frozen=True)
class Edited:
    """``images`` are the edits, ``sources`` the photos as the same drawing brought them back."""

    images: list[Image.Image]
    sources: list[Image.Image]


class _Steered:
    """An inversion's steering, then the controller's local blend, then what a region holds."""

    def __init__(self, steering: Steering, control: AttentionControl | None, region: Tensor | None):
        self.steering, self.control, self.region = steering, control, region

    def unconditional(self, call: Call) -> Told | None:
        told = self.steering.unconditional(call)
        if told is None:
            return None
        twice = [None if x is None else x.repeat_interleave(2, dim=0) for x in (told.text, told.pooled)]
        return Told(*twice)  # type: ignore[arg-type]

    def predicted(self, prediction: Tensor, call: Call) -> Tensor:
        return self.steering.predicted(prediction, call)

    def stepped(self, latents: Tensor, step: int, steps: int) -> Tensor:
        latents = self.steering.stepped(latents, step, steps)
        if self.control is not None:
            latents = self.control.stepped(latents, step, steps)
        if self.region is None:
            return latents
        sources, targets = latents.unflatten(0, (-1, 2)).unbind(1)
        held = sources + self.region.to(latents) * (targets - sources)
        return torch.stack([sources, held], dim=1).flatten(0, 1)


def edit(
    pipe: Any,
    record: Inversion,
    prompts: str | Sequence[str],
    *,
    control: Control | None = USUAL,
    guidance: float | None = None,
    negative: str | None = None,
    region: np.ndarray | None = None,
    output_type: str = "pil",
    on_step: Callable[..., Any] | None = None,
) -> Edited:
    """Draw inverted photos again, told something else.

    Adapters that are attached to ``pipe`` take part, in the photos' rows as in the edits'. A photo comes back
    in spite of them where the inversion does not rest on the prediction for it, as ``direct``.

    Args:
        pipe: the pipeline that they were inverted with.
        record: of :func:`~idpersona.pipelines.inversion.invert`.
        prompts: what the edits show, one for each photo or one for all.
        control: what they take over of the photos; None for nothing.
        guidance: another scale than the record's, of inversions that do not depend on it.
        negative: what they shall not show; only of inversions that leave the negative prompt alone.
        region: float [height, width] in 0..1 of the picture, 1 where it may change and 0 where it is held to
            the photo; None for everywhere. One for all photos.
        output_type: ``pil``, ``np``, ``pt`` or ``latent``, as of diffusers' pipelines.
        on_step: ``callback_on_step_end`` of the pipeline.

    Raises:
        InversionError: the record is of another model.
        BadInput: not one prompt for each photo, words that are not in them, another guidance than an
            inversion rests on, a region of another size, or the base's safety checker blocked a picture.
    """
    require_text_to_image(pipe)
    record.check(model=model_fingerprint(pipe))
    texts = [prompts] * record.photos if isinstance(prompts, str) else list(prompts)
    if len(texts) != record.photos:
        raise BadInput(
            f"{len(texts)} prompts for {record.photos} inverted photos: give one for each, or one for all"
        )
    if negative is not None and record.method not in FREE_NEGATIVE:
        raise BadInput(
            f"{record.method} has its own negative prompt: leave negative out, or invert with direct"
        )
    if guidance is not None and guidance != record.guidance and record.method not in FREE_GUIDANCE:
        raise BadInput(
            f"this {record.method} inversion was made for a guidance of {record.guidance:g}, not "
            f"{guidance:g}: leave guidance out, or invert anew"
        )
    method = get_method(record.method, **(record.options or {}))
    pairs = list(zip(record.prompts, texts, strict=True))
    device = pipe._execution_device
    record = record.to(device)
    controls = None if control is None else AttentionControl(pipe, control, pairs)
    steering = _Steered(
        method.steering(record, lambda: Denoiser(pipe, record.size).tell(record.prompts)[0]),
        controls,
        None if region is None else latent_region(region, record.size, pipe.vae_scale_factor),
    )
    start = method.start(record).repeat_interleave(2, dim=0).to(pipe.unet.dtype)
    height, width = (side * pipe.vae_scale_factor for side in record.size)
    options = {} if on_step is None else {"callback_on_step_end": on_step}
    with contextlib.ExitStack() as stack:
        if controls is not None:
            stack.enter_context(control_scope(pipe, controls))
        stack.enter_context(latent_scope(pipe, method.scheduler(record, device), steering))
        drawn = pipe(
            prompt=[text for pair in pairs for text in pair],
            negative_prompt=None if negative is None else [negative] * (2 * len(pairs)),
            num_inference_steps=record.steps,
            guidance_scale=record.guidance if guidance is None else guidance,
            height=height,
            width=width,
            latents=start,
            output_type=output_type,
            **options,
        )
    # The checker makes a picture black, which nobody could tell from a failed edit.
    if any((getattr(drawn, "nsfw_content_detected", None) or ())[1::2]):
        raise BadInput("the base's safety checker blocked the edited picture")
    return Edited(images=drawn.images[1::2], sources=drawn.images[::2])
