"""LEDITS++ (arXiv:2311.16711): the noise of every step is solved for, so that drawing meets the photo again.

The photo is noised to every level at random, not by the model; what a step of the solver leaves between two
of these latents is kept as the noise of that step. :mod:`idpersona.pipelines.editing.concepts` draws from it.
Both are done by diffusers' own pipelines, over the components of the one that is given.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.ledits_pp.pipeline_leditspp_stable_diffusion import LEditsPPPipelineStableDiffusion
from diffusers.pipelines.ledits_pp.pipeline_leditspp_stable_diffusion_xl import (
    LEditsPPPipelineStableDiffusionXL,
)
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.pipelines.inversion.method import Method, Task
from idpersona.pipelines.inversion.record import Inversion, InversionError

SIDE = 32
"""Sides of pictures are multiples of it, in pixels."""
_PARTS = ("vae", "text_encoder", "tokenizer", "unet")
_OF_BASE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
_SOLVER: Mapping[str, Any] = {
    "algorithm_type": "sde-dpmsolver++",
    "solver_order": 2,
    "timestep_spacing": "leading",
    "steps_offset": 1,
    # diffusers solves for the noises as if all steps but the first were of second order and led to noise.
    # With the scheduler's defaults the last steps are not and do not: the photo would not come back.
    "final_sigmas_type": "sigma_min",
    "lower_order_final": False,
}


@dataclass(frozen=True)
class Ledits(Method):
    """Exact up to rounding (a grey level in float16), but for the steps without noise; edited by concepts.

    The photo's prompt has no part in the inversion: drawing is guided by the empty prompt, and with any other
    here (``source_prompt`` of diffusers) the photo would not come back.

    Attributes:
        skip: how many of the noisiest steps are left out, as a fraction of those that are drawn; the fewer,
            the freer the edit; published: 0.15.
        threshold: quantile of the attention and of the change that a concept draws; only places above it are
            edited; published: 0.9.
        warmup: first steps that no concept changes.
        intersect: whether places must be above it in both, or in the change alone. None, as published: both
            with SD (where its U-Net has cross-attention at a quarter of the latents' sides), not with SDXL.
        zero_noise: last steps whose noise is left out, which avoids specks in pictures of SDXL but brings the
            photo back not quite as it was. None, as published: 3 with SDXL, 0 with SD.
        seed: of the noise that the photo gets; every photo gets the same, alone or in a batch.
    """

    skip: float = 0.15
    threshold: float = 0.9
    warmup: int = 0
    intersect: bool | None = None
    zero_noise: int | None = None
    seed: int = 0
    name: ClassVar[str] = "ledits"
    paper: ClassVar[str] = "arXiv:2311.16711"
    guidance: ClassVar[float] = 5.0
    free_guidance: ClassVar[bool] = True
    takes_control: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.skip < 1 or not 0 <= self.threshold < 1:
            raise BadInput(
                f"ledits takes skip and threshold from 0 to below 1, got {self.skip} and {self.threshold}"
            )
        if self.warmup < 0 or (self.zero_noise or 0) < 0:
            raise BadInput(
                f"ledits takes warmup and zero_noise of at least 0, got {self.warmup} and {self.zero_noise}"
            )

    def check(self, record: Inversion) -> None:
        super().check(record)
        if record.noises is None:
            raise InversionError("an inversion by ledits holds the noise of every step, and this has none")

    def refuse(self, pipe: Any) -> None:
        lacking = [name for name in _PARTS if getattr(pipe, name, None) is None]
        if lacking:
            raise BadInput(
                f"ledits works on SD1.5 and SDXL bases, {type(pipe).__name__} has no {', '.join(lacking)}: "
                "take another base"
            )
        vae = getattr(pipe.vae, "_orig_mod", pipe.vae)
        if not isinstance(vae, AutoencoderKL) or vae.config["latent_channels"] != 4:
            raise BadInput(
                "ledits needs an autoencoder with a distribution of 4 channels (AutoencoderKL, latent_dist), "
                f"this base has {type(vae).__name__}: take sd15 or sdxl, or invert with direct"
            )
        if pipe.device != pipe._execution_device:
            raise BadInput("ledits needs the whole base on one device: load it without offloading")
        if self.intersect and not _quarter(pipe.unet):
            raise BadInput(
                "intersect of ledits needs cross-attention at a quarter of the latents' sides, which this "
                "base has not: leave intersect out"
            )

    def canvas(self, pipe: Any, size: tuple[int, int] | None) -> tuple[int, int]:
        found = super().canvas(pipe, size)
        if any(side % SIDE for side in found):
            near = "x".join(str(max(SIDE, round(side / SIDE) * SIDE)) for side in found)
            raise BadInput(
                f"ledits edits pictures whose sides are multiples of {SIDE}, not {found[0]}x{found[1]}: "
                f"take {near}"
            )
        return found

    def invert(self, task: Task) -> Mapping[str, Tensor]:
        pipe, steps = task.denoise.pipe, len(task.scheduler.timesteps)
        most = task.scheduler.config["num_train_timesteps"] - 2
        if self._scheduled(steps) > most:
            raise BadInput(
                f"{steps} steps and a skip of {self.skip} are more than the {most} steps that ledits can "
                "take: take fewer"
            )
        seen: list[Tensor] = []

        def after(_module: Any, args: tuple[Any, ...], _output: Any) -> None:
            seen.append(args[0].to(task.photo))
            task.denoise.passes += 1
            task.on_step()

        with ledits_scope(pipe, task.scheduler.config, task.denoise.size) as ledits:
            ledits.set_progress_bar_config(disable=True)
            # A generator for each, or a photo in a batch would get other noise than alone.
            generators = [torch.Generator("cpu").manual_seed(self.seed) for _ in task.photo]
            handle = pipe.unet.register_forward_hook(after)
            try:
                ledits.invert(
                    image=task.pictures(),
                    source_prompt="",
                    num_inversion_steps=steps,
                    skip=self.skip,
                    generator=generators,
                    **({"num_zero_noise_steps": 0} if _two_encoders(pipe) else {}),
                )
            finally:
                handle.remove()
            noises = ledits.zs.to(task.photo)
        zeros = (3 if _two_encoders(pipe) else 0) if self.zero_noise is None else self.zero_noise
        noises[max(0, steps - zeros) :] = 0
        return {"latents": torch.stack([task.photo, *reversed(seen)]), "noises": noises}

    def resume(self, ledits: Any, record: Inversion, rows: slice) -> None:
        """Put the pipeline of :func:`ledits_scope` where its own inversion of these photos would leave it."""
        self.check(record)
        assert record.noises is not None
        # Otherwise the rounding is another than on the way up, and grows.
        ledits.unet.set_attn_processor(AttnProcessor())
        ledits.eta = 1.0
        ledits.scheduler.set_timesteps(self._scheduled(record.steps))
        ledits.inversion_steps = ledits.scheduler.timesteps[-record.steps :]
        ledits.init_latents = record.latents[-1, rows].to(ledits.unet.dtype)
        ledits.zs = record.noises[:, rows]
        ledits.batch_size = len(ledits.init_latents)

    def intersects(self, pipe: Any) -> bool:
        """``intersect``, or what is published for ``pipe``."""
        if self.intersect is None:
            return not _two_encoders(pipe) and _quarter(pipe.unet)
        return self.intersect

    def _scheduled(self, steps: int) -> int:
        # As diffusers counts them.
        return int(steps * (1 + self.skip))


@contextlib.contextmanager
def ledits_scope(pipe: Any, schedule: Mapping[str, Any], size: tuple[int, int]) -> Iterator[Any]:
    """diffusers' LEDITS++ pipeline over the components of ``pipe``, which are as they were afterwards.

    Args:
        pipe: one that :meth:`Ledits.refuse` lets through.
        schedule: configuration of the base's scheduler.
        size: height and width of the latents.
    """
    unet, vae = getattr(pipe.unet, "_orig_mod", pipe.unet), pipe.vae
    processors, config, kind = unet.attn_processors, unet._internal_dict, vae.dtype
    try:
        # diffusers compares it with a number, and writes a new one into the configuration of old models.
        unet.register_to_config(sample_size=64)
        yield _mended(_over(pipe, schedule), tuple(side * pipe.vae_scale_factor for side in size))
    finally:
        unet.set_attn_processor(processors)
        unet._internal_dict = config
        if vae.dtype != kind:
            vae.to(kind)


def _over(pipe: Any, schedule: Mapping[str, Any]) -> Any:
    of_base: dict[str, Any] = {name: schedule[name] for name in _OF_BASE if name in schedule}
    parts: dict[str, Any] = {name: getattr(pipe, name) for name in _PARTS}
    parts["scheduler"] = DPMSolverMultistepScheduler(**of_base, **_SOLVER)
    parts["feature_extractor"] = getattr(pipe, "feature_extractor", None)
    if _two_encoders(pipe):
        made: Any = LEditsPPPipelineStableDiffusionXL(
            **parts,
            text_encoder_2=pipe.text_encoder_2,
            tokenizer_2=pipe.tokenizer_2,
            force_zeros_for_empty_prompt=bool(pipe.config.get("force_zeros_for_empty_prompt", True)),
            add_watermarker=getattr(pipe, "watermark", None) is not None,
        )
    else:
        checker: Any = getattr(pipe, "safety_checker", None)
        made = LEditsPPPipelineStableDiffusion(
            **parts, safety_checker=checker, requires_safety_checker=checker is not None
        )
    made.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return made


def _mended(ledits: Any, size: tuple[int, ...]) -> Any:
    """What diffusers gets wrong: how many tokens a concept has, and with SDXL which side is the height."""
    encode = ledits.encode_prompt

    @functools.wraps(encode)
    def encode_prompt(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        tokenizer = getattr(ledits, "tokenizer_2", ledits.tokenizer)
        # The tokenizer counts padding, too, and all of it would have a say in where the concept is.
        counts = [
            len(tokenizer(text, truncation=True, max_length=tokenizer.model_max_length).input_ids) - 2
            for text in kwargs.get("editing_prompt") or ()
        ]
        return (*encode(*args, **kwargs)[:-1], counts)

    ledits.encode_prompt = encode_prompt
    if hasattr(ledits, "_get_add_time_ids"):
        ids = ledits._get_add_time_ids

        @functools.wraps(ids)
        def time_ids(_original: Any, crops: Any, _target: Any, **kwargs: Any) -> Tensor:
            return ids(size, crops, size, **kwargs)

        ledits._get_add_time_ids, ledits.size = time_ids, size
    return ledits


def _two_encoders(pipe: Any) -> bool:
    return getattr(pipe, "text_encoder_2", None) is not None


def _quarter(unet: Any) -> bool:
    """Whether there is cross-attention, but in the middle block, at a quarter of the latents' sides."""
    down, up = unet.config["down_block_types"], unet.config["up_block_types"]
    return len(down) > 2 and "CrossAttn" in down[2] + up[len(up) - 3]
