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
from idpersona.pipelines.editing.concepts import draw_back, draw_concepts
from idpersona.pipelines.editing.control import AttentionControl, control_scope
from idpersona.pipelines.editing.region import latent_region
from idpersona.pipelines.editing.spec import Control
from idpersona.pipelines.inversion.denoiser import Denoiser
from idpersona.pipelines.inversion.method import Method
from idpersona.pipelines.inversion.methods import METHODS, method_of
from idpersona.pipelines.inversion.record import Inversion, model_fingerprint
from idpersona.seams.call import Call
from idpersona.seams.latent import Steering, Told, latent_scope

USUAL = Control()


class PictureBlocked(BadInput):
    """The base's safety checker blocked an edited picture."""


@dataclass(frozen=True)
class Edited:
    """``images`` are the edits, ``sources`` the photos as the same drawing brought them back."""

    images: list[Image.Image]
    sources: list[Image.Image]


class _Steered:
    """An inversion's steering, then what the controller and a region hold to the photos."""

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
        held = torch.lerp(sources, targets, self.region.to(latents).expand_as(sources))
        return torch.stack([sources, held], dim=1).flatten(0, 1)


def edit(
    pipe: Any,
    record: Inversion,
    prompts: str | Sequence[str],
    *,
    control: Control | None = USUAL,
    guidance: float | None = None,
    negative: str | Sequence[str] | None = None,
    region: np.ndarray | None = None,
    output_type: str = "pil",
    on_step: Callable[..., Any] | None = None,
) -> Edited:
    """Draw inverted photos again, told something else.

    Adapters that are attached to ``pipe`` take part, in the photos' rows as in the edits'. A photo comes back
    in spite of them where the inversion does not rest on the prediction for it, as ``direct``.

    ``ledits`` edits by the words that come and go instead, and takes neither adapters nor a control.

    Args:
        pipe: the pipeline that they were inverted with.
        record: of :func:`~idpersona.pipelines.inversion.invert`.
        prompts: what the edits show, one for each photo or one for all.
        control: what they take over of the photos; None for nothing. ``ledits`` leaves the usual one out.
        guidance: another scale than the record's, of inversions that do not depend on it.
        negative: what they shall not show, one for each photo or one for all; only of inversions that leave
            the negative prompt alone. What the photo shows, said here, leaves guidance nothing to push but
            the difference of the two prompts.
        region: float [height, width] in 0..1 of the picture, 1 where it may change and 0 where it is held to
            the photo; None for everywhere. One for all photos.
        output_type: ``pil``, ``np``, ``pt`` or ``latent``, as of diffusers' pipelines.
        on_step: ``callback_on_step_end`` of the pipeline; of ``ledits`` for one photo after the other.

    Raises:
        InversionError: the record is of another model.
        PictureBlocked: the base's safety checker blocked a picture.
        BadInput: not one prompt for each photo, words that are not in them, another guidance than an
            inversion rests on, a region of another size, or of ``ledits``: a control, an attached adapter, or
            prompts that say the same as the photos'.
    """
    require_text_to_image(pipe)
    record.check(model=model_fingerprint(pipe))
    texts = _for_each(prompts, record, "prompts")
    against = None if negative is None else _for_each(negative, record, "negative prompts")
    method = method_of(record)
    if negative is not None and not method.free_negative:
        raise BadInput(
            f"{record.method} has its own negative prompt: leave negative out, or invert with direct"
        )
    if guidance is not None and guidance != record.guidance and not method.free_guidance:
        raise BadInput(
            f"this {record.method} inversion was made for a guidance of {record.guidance:g}, not "
            f"{guidance:g}: leave guidance out, or invert anew"
        )
    if not method.takes_control and control not in (None, USUAL):
        takers = ", ".join(name for name, kind in METHODS.items() if kind.takes_control)
        raise BadInput(f"{record.method} takes no control: leave it out, or invert with one of {takers}")
    record = record.to(pipe._execution_device)
    held = None if region is None else latent_region(region, record.size, pipe.vae_scale_factor)
    scale = record.guidance if guidance is None else guidance
    if method.takes_control:
        images, sources, blocked = _draw_pairs(
            pipe, record, texts, method, control, scale, against, held, output_type, on_step
        )
    else:
        images, sources, blocked = draw_concepts(
            pipe, record, texts, guidance=scale, region=held, output_type=output_type, on_step=on_step
        )
    # The checker makes a picture black, which nobody could tell from a failed edit.
    if any(blocked):
        raise PictureBlocked("the base's safety checker blocked the edited picture")
    return Edited(images=images, sources=sources)


def reconstruct(pipe: Any, record: Inversion) -> list[Image.Image]:
    """The photos of a record, as drawing brings them back.

    Raises:
        As :func:`edit`.
    """
    if method_of(record).takes_control:
        return edit(pipe, record, record.prompts, control=None).sources
    record.check(model=model_fingerprint(pipe))
    return draw_back(pipe, record.to(pipe._execution_device))


def _for_each(texts: str | Sequence[str], record: Inversion, what: str) -> list[str]:
    many = [texts] * record.photos if isinstance(texts, str) else list(texts)
    if len(many) != record.photos:
        raise BadInput(
            f"{len(many)} {what} for {record.photos} inverted photos: give one for each, or one for all"
        )
    return many


def _draw_pairs(
    pipe: Any,
    record: Inversion,
    texts: Sequence[str],
    method: Method,
    control: Control | None,
    guidance: float,
    negative: Sequence[str] | None,
    region: Tensor | None,
    output_type: str,
    on_step: Callable[..., Any] | None,
) -> tuple[Any, Any, Sequence[bool]]:
    """Each edit beside its photo, by the pipeline itself; with whether the safety checker blocked an edit."""
    pairs = list(zip(record.prompts, texts, strict=True))
    device = pipe._execution_device
    controls = None if control is None else AttentionControl(pipe, control, pairs)
    steering = _Steered(
        method.steering(record, lambda: Denoiser(pipe, record.size).tell(record.prompts)[0]), controls, region
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
            negative_prompt=None if negative is None else [text for text in negative for _ in range(2)],
            num_inference_steps=record.steps,
            guidance_scale=guidance,
            height=height,
            width=width,
            latents=start,
            output_type=output_type,
            **options,
        )
    return drawn.images[1::2], drawn.images[::2], (getattr(drawn, "nsfw_content_detected", None) or ())[1::2]
