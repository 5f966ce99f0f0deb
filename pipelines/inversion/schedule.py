"""The schedule that photos are inverted and edited with: DDIM, whatever scheduler the base draws with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from idpersona.errors import BadInput

# As published for null-text inversion. "trailing" would begin at the last timestep, where a base with zero
# terminal signal-to-noise ratio knows nothing of the photo any more.
_AS_PUBLISHED: dict[str, Any] = {
    "timestep_spacing": "leading",
    "clip_sample": False,
    "thresholding": False,
    "set_alpha_to_one": False,
}


def ddim(config: Mapping[str, Any], steps: int, device: Any = None) -> DDIMScheduler:
    """DDIM with the noise schedule and prediction type of a scheduler configuration.

    Raises:
        BadInput: more steps than the schedule has.
    """
    # As keywords: of a configuration, diffusers drops what the base left at its defaults.
    scheduler: Any = DDIMScheduler.from_config(dict(config), **_AS_PUBLISHED)
    most = scheduler.config["num_train_timesteps"] - scheduler.config["steps_offset"]
    if not 1 <= steps <= most:
        raise BadInput(f"an inversion has 1 to {most} steps, not {steps}")
    scheduler.set_timesteps(steps, device)
    return scheduler


def levels(scheduler: DDIMScheduler, timestep: int) -> tuple[Tensor, Tensor]:
    """Cumulative alphas at ``timestep`` and at the step below it."""
    below = int(timestep) - scheduler.config["num_train_timesteps"] // scheduler.num_inference_steps
    alphas = scheduler.alphas_cumprod
    return alphas[int(timestep)], alphas[below] if below >= 0 else scheduler.final_alpha_cumprod


def split(
    scheduler: DDIMScheduler, prediction: Tensor, latents: Tensor, alpha: Tensor
) -> tuple[Tensor, Tensor]:
    """Clean latents and noise that ``prediction`` says ``latents`` at the level ``alpha`` are made of."""
    kind = scheduler.config["prediction_type"]
    root, rest = alpha**0.5, (1 - alpha) ** 0.5
    if kind == "epsilon":
        return (latents - rest * prediction) / root, prediction
    if kind == "v_prediction":
        return root * latents - rest * prediction, root * prediction + rest * latents
    return prediction, (latents - root * prediction) / rest


def ascend(
    scheduler: DDIMScheduler, prediction: Tensor, seen: Tensor, latents: Tensor, timestep: int
) -> Tensor:
    """One step from ``latents`` up to ``timestep``, where the model made ``prediction`` of ``seen``.

    The noise in a v-prediction is read at the level that the model was told, which is not that of the
    ``latents``: read at theirs, as diffusers' inverse scheduler does, the way up errs about twice as far.
    """
    above, _ = levels(scheduler, timestep)
    return ascend_noise(scheduler, split(scheduler, prediction, seen, above)[1], latents, timestep)


def ascend_noise(scheduler: DDIMScheduler, noise: Tensor, latents: Tensor, timestep: int) -> Tensor:
    """One step from ``latents`` up to ``timestep``, ``noise`` being what is in them."""
    above, below = levels(scheduler, timestep)
    clean = (latents - (1 - below) ** 0.5 * noise) / below**0.5
    return above**0.5 * clean + (1 - above) ** 0.5 * noise
