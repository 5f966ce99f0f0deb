"""All inversions by name, and the two steps that every edit is made of: ``invert`` and the way back."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from idpersona.errors import BadInput, UnknownName, first_line
from idpersona.images import Photo
from idpersona.pipelines.base import encodes_otherwise, require_text_to_image
from idpersona.pipelines.inversion.denoiser import Denoiser
from idpersona.pipelines.inversion.edict import Edict
from idpersona.pipelines.inversion.ledits import Ledits
from idpersona.pipelines.inversion.method import Method, Task
from idpersona.pipelines.inversion.null_text import NullText
from idpersona.pipelines.inversion.photos import encode_photos, fit_photo
from idpersona.pipelines.inversion.record import Inversion, InversionError, model_fingerprint
from idpersona.pipelines.inversion.renoise import ReNoise
from idpersona.pipelines.inversion.schedule import ddim
from idpersona.pipelines.inversion.simple import Ddim, Direct, NegativePrompt, ProximalPrompt
from idpersona.seams.call import is_attached, unguided

METHODS: dict[str, type[Method]] = {
    kind.name: kind
    for kind in (Direct, NullText, NegativePrompt, ProximalPrompt, Edict, ReNoise, Ddim, Ledits)
}


def get_method(name: str, **options: Any) -> Method:
    """An inversion by name with its own options.

    Raises:
        UnknownName: there is none of that name.
        BadInput: an option that it does not have, or a value that it does not take.
    """
    if name not in METHODS:
        raise UnknownName("inversion", name, METHODS)
    known = [field.name for field in dataclasses.fields(METHODS[name])]  # type: ignore[arg-type]
    for option in options:
        if option not in known:
            raise BadInput(f"{name} knows no option {option}; it has {', '.join(known) or 'none'}")
    kinds = get_type_hints(METHODS[name])
    return METHODS[name](**{o: _taken(f"{name}.{o}", kinds[o], value) for o, value in options.items()})


def _taken(option: str, kind: Any, value: Any) -> Any:
    """``value`` as an option's type; whole numbers may come as floats, as the command line reads them."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if value is None and NoneType in kinds:
        return None
    if isinstance(value, bool):
        if bool in kinds:
            return value
    elif isinstance(value, (int, float)):
        if float in kinds:
            return float(value)
        if int in kinds and float(value).is_integer():
            return int(value)
    choices = [choice for each in kinds if get_origin(each) is Literal for choice in get_args(each)]
    if value in choices:
        return value
    words = {bool: "true or false", int: "a whole number", float: "a number"}
    wanted = [words[each] for each in kinds if each in words] + [repr(choice) for choice in choices]
    raise BadInput(f"{option} takes {' or '.join(wanted)}, got {value!r}")


def method_of(record: Inversion) -> Method:
    """The method that a record was made by.

    Raises:
        InversionError: there is none that would have made it: the file was changed, or is of a newer version.
    """
    try:
        method = get_method(record.method, **(record.options or {}))
        ddim(record.scheduler, record.steps)
    except Exception as error:  # diffusers raises many things for a configuration that makes no sense
        raise InversionError(f"this inversion cannot be used: {first_line(error)}") from error
    method.check(record)
    return method


def invert(
    pipe: Any,
    photos: Photo | Sequence[Photo],
    prompts: str | Sequence[str],
    *,
    method: str = "direct",
    steps: int = 50,
    guidance: float | None = None,
    size: tuple[int, int] | None = None,
    on_step: Callable[[], None] | None = None,
    **options: Any,
) -> Inversion:
    """Find the noise from which a pipeline draws given photos.

    Adapters that are attached to ``pipe`` take part; an edit of the record needs them, too. Told who is in
    the photo on the way up and on the way down, the model keeps that person while the words change.

    Args:
        pipe: a diffusers pipeline with a U-Net (SD1.5, SDXL, mini).
        photos: one or more; each is cut to the middle and scaled to ``size``.
        prompts: what they show, one for each.
        method: a name of :data:`METHODS`; ``options`` are its own.
        steps: T.
        guidance: scale that they are to be edited with; None for the method's usual one: 7.5, ``ledits`` 5.
        size: width and height in pixels; None for what the base was made for.
        on_step: called after each step of the way up; ``null-text`` optimises afterwards.

    Raises:
        UnknownName, BadInput: as :func:`get_method`; a size or photos that the base cannot take, not one
            prompt for each photo, or something attached that has no part in an inversion.
        PhotoError: a photo cannot be read.
    """
    way = get_method(method, **options)
    require_text_to_image(pipe)
    way.refuse(pipe)
    if encodes_otherwise(pipe):
        raise BadInput(
            "prompts are weighted, or edited by an adapter: leave that scope, photos are inverted with plain "
            "prompts"
        )
    attached = is_attached(pipe.unet)
    if attached and not way.takes_control:
        raise BadInput(f"{method} works without adapters: leave their scope, or invert with direct")
    model = model_fingerprint(pipe)
    many: list[Any] = list(photos) if isinstance(photos, (list, tuple)) else [photos]
    texts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    if len(many) != len(texts):
        raise BadInput(
            f"{len(many)} photos and {len(texts)} prompts: each photo needs one that says what it shows"
        )
    canvas = way.canvas(pipe, size)
    latents = encode_photos(pipe, many, canvas)
    scheduler = ddim(pipe.scheduler.config, steps, latents.device)
    denoise = Denoiser(pipe, (latents.shape[-2], latents.shape[-1]))
    source, empty = denoise.tell(texts)
    scale = way.guidance if guidance is None else guidance
    task = Task(
        denoise,
        scheduler,
        latents,
        source,
        empty,
        scale,
        on_step or (lambda: None),
        lambda: [fit_photo(photo, canvas) for photo in many],
    )
    with unguided(pipe, scheduler) if attached else contextlib.nullcontext():
        found = way.invert(task)
    return Inversion(
        method=method,
        prompts=texts,
        guidance=scale,
        scheduler={k: v for k, v in scheduler.config.items() if not k.startswith("_")},
        model=model,
        options=dataclasses.asdict(way),  # type: ignore[call-overload]
        passes=denoise.passes,
        attached=attached,
        **{name: tensor.detach() for name, tensor in found.items()},
    )
