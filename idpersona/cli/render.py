"""Loads the models, draws the pictures, checks them, and writes them: all of them or none."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from idpersona.cli.output import Progress, library_warnings, note, spinner
from idpersona.cli.prepare import Job
from idpersona.errors import BadInput
from idpersona.identity import Identity
from idpersona.provenance import write_pngs
from idpersona.safety import check_picture
from idpersona.silence import quiet_libraries


def render(job: Job, paths: Sequence[Path], *, force: bool) -> list[dict[str, Any]]:
    """Make ``paths``; returns the settings of each picture, as they are inside it.

    Pictures are drawn one by one, also when several are asked for: a batch would change the numbers in their
    last digits, and each must be repeatable alone.
    """
    device, pipe, adapters = _load(job)
    import torch

    from idpersona.pipelines import weighted_prompts

    width, height = job.size or canvas(pipe, adapters, job.pose)
    if job.pose is not None and not any(adapter.holds_pose for adapter in adapters):
        named = ", ".join(adapter.name for adapter in adapters)
        raise BadInput(f"--pose needs an adapter that holds a pose, as instantid; {named} does not")
    job.cast.check_canvas((width, height))
    checker = _safety_checker(pipe, job)
    if not job.weighted:
        for text, option in ((job.prompt, "--prompt"), (job.negative or "", "--negative")):
            note_cut(pipe, text, option)
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
    pictures: list[Image.Image] = []
    with Progress(job.steps * len(paths), "drawing") as progress, ExitStack() as scopes:
        if job.weighted:
            scopes.enter_context(weighted_prompts(pipe))
        for adapter, use in zip(adapters, job.adapters, strict=True):
            who = job.cast.on_canvas if adapter.encoders else None
            pose = job.pose if adapter.holds_pose else None
            scopes.enter_context(adapter.attach(pipe, who, scale=use.scale, pose=pose, **use.options))

        def on_step(_pipe: Any, _step: int, _time: Any, values: dict[str, Any]) -> dict[str, Any]:
            where = f"picture {len(pictures) + 1} of {len(paths)}" if len(paths) > 1 else ""
            progress.advance(where)
            return values

        for seed in job.seeds:
            # A generator on the CPU gives the same start noise on every device.
            drawn = pipe(
                prompt=job.prompt,
                negative_prompt=job.negative,
                num_inference_steps=job.steps,
                guidance_scale=job.guidance,
                width=width,
                height=height,
                generator=torch.Generator("cpu").manual_seed(seed),
                callback_on_step_end=on_step,
            )
            if any(getattr(drawn, "nsfw_content_detected", None) or ()):
                raise BadInput(
                    f"the base's safety checker blocked the picture of seed {seed}: nothing written"
                )
            pictures.append(drawn.images[0])
    for picture in pictures:
        check_picture(picture, job.people)
    settings = [{**common, "seed": seed} for seed in job.seeds]
    write_pngs(list(zip(pictures, paths, settings, strict=True)), force=force)
    return settings


def _load(job: Job) -> tuple[str, Any, list[Any]]:
    """Device, pipeline, and the adapters."""
    started = time.monotonic()
    names = ", ".join((job.base, *(adapter.name for adapter in job.adapters)))
    with spinner(f"loading {names}"):
        quiet_libraries()
        from idpersona.adapters import load_adapter
        from idpersona.pipelines import load_base

        device = job.device or best_device()
        pipe: Any = load_base(job.base, device=device, dtype=job.dtype)
        pipe.set_progress_bar_config(disable=True)
        _add_loras(pipe, job)
        adapters = [load_adapter(adapter.name, base=pipe) for adapter in job.adapters]
    print(f"loaded {names} on {device}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return device, pipe, adapters


def best_device() -> str:
    """``cuda``, ``mps`` or ``cpu``: the fastest that works here."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def canvas(pipe: Any, adapters: Sequence[Any], pose: Identity | None) -> tuple[int, int]:
    """Width and height in pixels: an adapter's rule for the pose photo, else what the base was made for."""
    if pose is not None and pose.image_size is not None:
        for adapter in adapters:
            if size := adapter.canvas(pose.image_size):
                return size
    from idpersona.pipelines.base import native_size

    return native_size(pipe)


def _safety_checker(pipe: Any, job: Job) -> bool | None:
    """Whether the base's own checker looks at the pictures; None when it has none."""
    if getattr(pipe, "safety_checker", None) is None:
        return None
    if not job.safety_checker:
        pipe.safety_checker = None
        note("the base's safety checker is switched off for this picture; its settings say so")
    return job.safety_checker


def dtype_name(pipe: Any) -> str:
    """Number type of the weights, as ``--dtype`` takes it."""
    return {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16"}[str(pipe.dtype)]


def note_cut(pipe: Any, text: str, option: str, hint: str = "--weighted takes prompts of any length") -> None:
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
            note(
                f"{option} has {len(tokens) - 2} tokens, the base takes {limit - 2}; cut off: '{cut}' "
                f"({hint})"
            )
            return


def _add_loras(pipe: Any, job: Job) -> None:
    if not job.loras:
        return
    from importlib.util import find_spec

    if find_spec("peft") is None:
        raise BadInput("--lora needs the package peft: pip install 'idpersona[train]'")
    names = []
    for index, (file, _) in enumerate(job.loras):
        names.append(f"lora{index}")
        try:
            with library_warnings() as heard:
                pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=names[-1])
        except Exception as error:  # diffusers, peft and safetensors share no error type for a bad file
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise BadInput(f"LoRA {file} does not fit base '{job.base}': {reason}") from error
        for warning in heard:  # above all that a part of the file fits nothing in the base
            note(f"LoRA {file}: {warning}")
    pipe.set_adapters(names, [weight for _, weight in job.loras])
