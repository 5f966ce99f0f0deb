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
from idpersona.pipelines.inversion.record import Inversion, InversionError, model_fingerprint
from idpersona.seams.call import Call, alike, is_attached
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
        return self.steering.unconditional(call)

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

    Adapters that are attached to ``pipe`` take part, in the photos' rows as in the edits'. They should be
    attached when the photos are inverted, too (``record.attached``): unconditional rows then see the person
    as well, and guidance leads only where the words differ. Attached to the drawing alone they lead away from
    the photo.

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
        InversionError: the record is of another model, or was made with adapters and none is attached.
        PictureBlocked: the base's safety checker blocked a picture.
        BadInput: not one prompt for each photo, words that are not in them, another guidance than an
            inversion rests on, a region of another size, or of ``ledits``: a control, an attached adapter, or
            prompts that say the same as the photos'.
    """
    require_text_to_image(pipe)
    record.check(model=model_fingerprint(pipe))
    _require_attached(pipe, record)
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
        pairs = list(zip(record.prompts, texts, strict=True))
        controls = None if control is None else AttentionControl(pipe, control, pairs)
        rows, blocked = _draw(
            pipe, record, method, pairs, controls, scale, against, held, output_type, on_step
        )
        images, sources, blocked = rows[1::2], rows[::2], blocked[1::2]
    else:
        images, sources, blocked = draw_concepts(
            pipe, record, texts, guidance=scale, region=held, output_type=output_type, on_step=on_step
        )
    _refuse_blocked(blocked)
    return Edited(images=images, sources=sources)


def reconstruct(pipe: Any, record: Inversion) -> list[Image.Image]:
    """The photos of a record, as drawing brings them back.

    Raises:
        As :func:`edit`.
    """
    require_text_to_image(pipe)
    record.check(model=model_fingerprint(pipe))
    _require_attached(pipe, record)
    record, method = record.to(pipe._execution_device), method_of(record)
    if not method.takes_control:
        return draw_back(pipe, record)
    alone = [(prompt,) for prompt in record.prompts]
    images, blocked = _draw(pipe, record, method, alone, None, record.guidance, None, None, "pil", None)
    _refuse_blocked(blocked)
    return images


def _require_attached(pipe: Any, record: Inversion) -> None:
    if record.attached and not is_attached(pipe.unet):
        raise InversionError(
            "this inversion was made with an adapter attached: attach it, or invert the photo anew without it"
        )


def _refuse_blocked(blocked: Sequence[bool]) -> None:
    # The checker makes a picture black, which nobody could tell from a failed edit.
    if any(blocked):
        raise PictureBlocked("the base's safety checker blocked the picture")


def _for_each(texts: str | Sequence[str], record: Inversion, what: str) -> list[str]:
    many = [texts] * record.photos if isinstance(texts, str) else list(texts)
    if len(many) != record.photos:
        raise BadInput(
            f"{len(many)} {what} for {record.photos} inverted photos: give one for each, or one for all"
        )
    return many


def _draw(
    pipe: Any,
    record: Inversion,
    method: Method,
    told: Sequence[tuple[str, ...]],
    controls: AttentionControl | None,
    guidance: float,
    negative: Sequence[str] | None,
    region: Tensor | None,
    output_type: str,
    on_step: Callable[..., Any] | None,
) -> tuple[Any, Sequence[bool]]:
    """The rows that each photo is ``told``, by the pipeline itself, and whether the safety checker blocked
    them: the photo's own prompt, and perhaps its edit's."""
    each = len(told[0])
    device = pipe._execution_device
    steering = _Steered(
        method.steering(record, lambda: Denoiser(pipe, record.size).tell(record.prompts)[0]), controls, region
    )
    start = method.start(record).repeat_interleave(each, dim=0).to(pipe.unet.dtype)
    height, width = (side * pipe.vae_scale_factor for side in record.size)
    options = {} if on_step is None else {"callback_on_step_end": on_step}
    with contextlib.ExitStack() as stack:
        if controls is not None:
            stack.enter_context(control_scope(pipe, controls))
        if record.attached:
            stack.enter_context(alike(pipe.unet))
        stack.enter_context(latent_scope(pipe, method.scheduler(record, device, each), steering))
        drawn = pipe(
            prompt=[text for texts in told for text in texts],
            negative_prompt=None if negative is None else [text for text in negative for _ in range(each)],
            num_inference_steps=record.steps,
            guidance_scale=guidance,
            height=height,
            width=width,
            latents=start,
            output_type=output_type,
            **options,
        )
    return drawn.images, getattr(drawn, "nsfw_content_detected", None) or ()
