"""Draws the pictures of a job, and checks them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from PIL import Image

from idpersona.errors import BadInput
from idpersona.identity import Identity
from idpersona.jobs.listener import Listener
from idpersona.jobs.models import Models, loras_on
from idpersona.jobs.prepare import Job
from idpersona.jobs.request import Variation
from idpersona.safety import check_picture

Settings = dict[str, Any]


def draw(job: Job, models: Models, listener: Listener) -> list[tuple[Image.Image, Settings]]:
    """The pictures, each with the settings that belong into its file.

    Pictures are drawn one by one, also when several are asked for: a batch would change the numbers in their
    last digits, and each must be repeatable alone.

    Raises:
        IdPersonaError: the base, an adapter or a LoRA file does not take what was asked; the safety checker
            or the people registry refuses a picture. None is given then.
    """
    pipe, adapters, device = models.load(
        job.base, [use.name for use in job.adapters], listener, device=job.device, dtype=job.dtype
    )
    import torch

    from idpersona.pipelines import weighted_prompts

    width, height = job.size or canvas(pipe, adapters, job.pose)
    if job.pose is not None and not any(adapter.holds_pose for adapter in adapters):
        named = ", ".join(adapter.name for adapter in adapters)
        raise BadInput(f"--pose needs an adapter that holds a pose, as instantid; {named} does not")
    job.cast.check_canvas((width, height))
    if not job.weighted:
        for text, option in ((job.prompt, "--prompt"), (job.negative or "", "--negative")):
            note_cut(pipe, text, option, listener)
    pictures: list[Image.Image] = []
    with ExitStack() as scopes:
        checker = scopes.enter_context(_safety_checker(pipe, job, listener))
        scopes.enter_context(loras_on(pipe, job.base, job.loras, listener))
        scopes.callback(listener.finished)
        listener.started(job.steps * len(job.seeds), "drawing")
        if job.weighted:
            scopes.enter_context(weighted_prompts(pipe))
        for adapter, use in zip(adapters, job.adapters, strict=True):
            who = job.cast.on_canvas if adapter.encoders else None
            pose = job.pose if adapter.holds_pose else None
            scopes.enter_context(adapter.attach(pipe, who, scale=use.scale, pose=pose, **use.options))

        def on_step(_pipe: Any, _step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
            where = f"picture {len(pictures) + 1} of {len(job.seeds)}" if len(job.seeds) > 1 else ""
            listener.step(where, pipe, values.get("latents"))
            return values

        for seed, vary in zip(job.seeds, job.variations, strict=True):
            # A generator on the CPU gives the same start noise on every device.
            noise = {"latents": mixed_noise(pipe, (width, height), seed, vary)} if vary else {}
            drawn = pipe(
                prompt=job.prompt,
                negative_prompt=job.negative,
                num_inference_steps=job.steps,
                guidance_scale=job.guidance,
                width=width,
                height=height,
                generator=torch.Generator("cpu").manual_seed(seed),
                callback_on_step_end=on_step,
                **noise,
            )
            if any(getattr(drawn, "nsfw_content_detected", None) or ()):
                raise BadInput(
                    f"the base's safety checker blocked the picture of seed {seed}: nothing written"
                )
            pictures.append(drawn.images[0])
    for picture in pictures:
        check_picture(picture, job.people)
    common = {
        **job.recorded,
        "adapters": [asdict(adapter) for adapter in job.adapters],
        "base": job.base,
        "steps": job.steps,
        "guidance": job.guidance,
        "width": width,
        "height": height,
        "device": device,
        "dtype": dtype_name(pipe),
        "scheduler": type(pipe.scheduler).__name__,
        "safety_checker": checker,
    }
    return [
        (picture, {**common, "seed": seed, **({"vary": _told(vary)} if vary else {})})
        for picture, seed, vary in zip(pictures, job.seeds, job.variations, strict=True)
    ]


def _told(vary: Variation) -> list[dict[str, Any]]:
    return [{"seed": seed, "amount": amount} for seed, amount in vary]


def mixed_noise(pipe: Any, size: tuple[int, int], seed: int, vary: Variation) -> Any:
    """Start noise [1, channels, height / f, width / f] on the way from one seed's to another's.

    Mixed along the sphere, on which noise of unit spread lies, so that the mix is noise of unit spread, too.

    Args:
        size: width and height of the picture in pixels.
        seed: of the noise that is varied.
        vary: seeds of other noise and how much of each: 0 leaves what was there, 1 takes the other alone.
    """
    import torch
    from diffusers.utils.torch_utils import randn_tensor

    width, height = size
    factor = pipe.vae_scale_factor
    shape = (1, pipe.unet.config.in_channels, height // factor, width // factor)

    def noise(number: int) -> torch.Tensor:
        generator = torch.Generator("cpu").manual_seed(number)
        return randn_tensor(shape, generator=generator, device=pipe.unet.device, dtype=pipe.unet.dtype)

    mixed = noise(seed).float()
    for other, amount in vary:
        if amount == 0.0:
            continue
        two = noise(other).float()
        likeness = torch.nn.functional.cosine_similarity(mixed.flatten(), two.flatten(), dim=0)
        angle = likeness.clamp(-1, 1).acos()
        if float(angle) > 0.0:  # else both are one noise
            mixed = (((1 - amount) * angle).sin() * mixed + (amount * angle).sin() * two) / angle.sin()
    return mixed.to(pipe.unet.dtype)


def canvas(pipe: Any, adapters: Sequence[Any], pose: Identity | None) -> tuple[int, int]:
    """Width and height in pixels: an adapter's rule for the pose photo, else what the base was made for."""
    if pose is not None and pose.image_size is not None:
        for adapter in adapters:
            if size := adapter.canvas(pose.image_size):
                return size
    from idpersona.pipelines.base import native_size

    return native_size(pipe)


@contextmanager
def _safety_checker(pipe: Any, job: Job, listener: Listener) -> Iterator[bool | None]:
    """Whether the base's own checker looks at the pictures; None when it has none."""
    checker = getattr(pipe, "safety_checker", None)
    if checker is None:
        yield None
        return
    if job.safety_checker:
        yield True
        return
    listener.note("the base's safety checker is switched off for this picture; its settings say so")
    pipe.safety_checker = None
    try:
        yield False
    finally:
        pipe.safety_checker = checker


def dtype_name(pipe: Any) -> str:
    """Number type of the weights, as ``--dtype`` takes it."""
    return {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}[str(pipe.dtype)]


def note_cut(
    pipe: Any,
    text: str,
    option: str,
    listener: Listener,
    hint: str = "--weighted takes prompts of any length",
) -> None:
    """Say what of a prompt does not reach the picture, because the text encoder takes no more."""
    for which in ("", "_2"):
        tokenizer = getattr(pipe, f"tokenizer{which}", None)
        encoder = getattr(pipe, f"text_encoder{which}", None)
        if tokenizer is None or encoder is None:
            continue
        limit = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        tokens = tokenizer(text, truncation=False).input_ids
        if len(tokens) > limit:
            cut = tokenizer.decode(tokens[limit - 1 : -1]).strip()
            listener.note(
                f"{option} has {len(tokens) - 2} tokens, the base takes {limit - 2}; cut off: '{cut}' "
                f"({hint})"
            )
            return
