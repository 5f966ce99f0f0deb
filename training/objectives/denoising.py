"""What all denoising objectives share: the noise schedule, the weighted error, drawings from pure noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.training.keyed import StepKey

NOISE, DRAWING, OFFSET = 1, 2, 9
"""Streams of a step's keyed randomness."""
DRAWING_STEPS = 5
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
"""The last step is nothing but noise (Lin et al., arXiv:2305.08891), and sampling starts there.

Stable Diffusion's own last step leaves 7 % of the latents' amplitude, in which a 16x16 picture's colours and
outlines can still be read. A model trained on it takes them from there instead of from the prompt and the
person; from pure noise it then draws the same brown haze for everybody.
"""


class Schedule:
    """Noise of a base at its timesteps, and what it predicts there.

    Args:
        config: of the base's scheduler (a noise schedule and a ``prediction_type``, epsilon or v_prediction).

    Attributes:
        alphas: how much of the clean latents' power is left, float32 [timesteps].
        kind: ``epsilon`` or ``v_prediction``.
    """

    def __init__(self, config: Mapping[str, Any]):
        scheduler: Any = DDIMScheduler.from_config(dict(config), clip_sample=False, thresholding=False)
        self.config = dict(scheduler.config)
        self.alphas: Tensor = scheduler.alphas_cumprod
        self.kind = str(self.config["prediction_type"])
        if self.kind not in ("epsilon", "v_prediction"):
            raise BadInput(
                f"bases that predict {self.kind} cannot be trained on: epsilon or v_prediction can"
            )

    @property
    def timesteps(self) -> int:
        """How many there are, 1000 as a rule."""
        return len(self.alphas)

    def alpha(self, timesteps: Tensor) -> Tensor:
        """At int64 [B], float32 [B, 1, 1, 1]."""
        return self.alphas.to(timesteps.device)[timesteps].view(-1, 1, 1, 1)

    def sampler(self, steps: int) -> DDIMScheduler:
        """DDIM of so many steps."""
        sampler: Any = DDIMScheduler.from_config(self.config)
        sampler.set_timesteps(steps)
        return sampler


MINI = Schedule(SCHEDULE)
"""That of the embedded model."""

Predict = Callable[[Tensor, Tensor], Tensor]
"""(noisy latents [B, C, h, w], timesteps int64 [B]) -> v, float32 [B, C, h, w]."""


def loss_weight(snr: Tensor, gamma: float) -> Tensor:
    """Weight of the squared v error at signal-to-noise ratio ``snr``: 1 up to ``gamma``, beyond as 1/snr.

    In terms of the clean latents that is min(snr, gamma) + 1. min-SNR itself, min(snr, gamma), gives almost
    nothing to the noisiest steps, which decide where the face is, whose it is and what the prompt asked for:
    measured, neither was followed after a thousand steps.
    """
    return (snr.clamp(max=gamma) + 1) / (snr + 1)


@dataclass(frozen=True)
class Drawn:
    """One prediction of ``kind`` at ``timesteps`` int64 [B]; ``noisy`` and ``prediction`` [B, C, h, w],
    ``alpha`` [B, 1, 1, 1].
    """

    noisy: Tensor
    timesteps: Tensor
    prediction: Tensor
    alpha: Tensor
    kind: str

    def estimate(self) -> Tensor:
        """The clean latents that the prediction means."""
        if self.kind == "epsilon":
            return (self.noisy - (1 - self.alpha).sqrt() * self.prediction) / self.alpha.sqrt()
        return self.alpha.sqrt() * self.noisy - (1 - self.alpha).sqrt() * self.prediction

    def signal(self) -> Tensor:
        """How far the noisy latents of each row are made of the clean ones, [B]: what its estimate counts."""
        return self.alpha.sqrt().view(-1)


@dataclass(frozen=True)
class Denoised(Drawn):
    """A prediction for a photo made noisy; ``target`` is what was to be predicted."""

    target: Tensor

    def error(self) -> Tensor:
        """Mean squared error of each row, [B]."""
        return (self.prediction - self.target).square().mean(dim=(1, 2, 3))

    def weighted(self, gamma: float) -> Tensor:
        """Error of each row [B], weighted by :func:`loss_weight`; of epsilon by min-SNR itself."""
        snr = (self.alpha / (1 - self.alpha)).view(-1)
        weight = snr.clamp(max=gamma) / snr if self.kind == "epsilon" else loss_weight(snr, gamma)
        return weight * self.error()

    def loss(self, gamma: float) -> Tensor:
        """Mean of :meth:`weighted` over the rows."""
        return self.weighted(gamma).mean()


def denoise(
    predict: Predict,
    latents: Tensor,
    timesteps: Tensor,
    key: StepKey,
    schedule: Schedule = MINI,
    *,
    noise_offset: float = 0.0,
) -> Denoised:
    """Add each row's keyed noise to ``latents`` at its timestep, and let the model predict.

    ``noise_offset`` is the spread of a constant that is added to each channel of the noise, so that a base
    without a noise-only last step learns darkness and light (0.05 to 0.1 are usual).
    """
    noise = key.normal(tuple(latents.shape[1:]), NOISE).to(latents.device)
    if noise_offset:
        noise = noise + noise_offset * key.normal((latents.shape[1], 1, 1), OFFSET).to(latents.device)
    alpha = schedule.alpha(timesteps)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    return Denoised(
        noisy=noisy,
        timesteps=timesteps,
        target=noise if schedule.kind == "epsilon" else velocity,
        prediction=predict(noisy, timesteps),
        alpha=alpha,
        kind=schedule.kind,
    )


def draw(
    predict: Predict,
    shape: tuple[int, ...],
    key: StepKey,
    device: torch.device,
    schedule: Schedule = MINI,
    *,
    steps: int = DRAWING_STEPS,
    first: int = 1,
) -> Drawn:
    """Draw latents of ``shape`` [C, h, w] for each row of ``key``, from noise up to a random step of the way.

    Only the prediction at that step records gradients. It is the same step for all rows and processes, of the
    numbers from ``first`` up to ``steps - 1``.
    """
    sampler = schedule.sampler(steps)
    last = int(key.shared().integers(first, steps))
    noisy = key.normal(shape, DRAWING).to(device)

    def at(timestep: Tensor) -> Tensor:
        return torch.full((len(noisy),), int(timestep), device=device)

    with torch.no_grad():
        for timestep in sampler.timesteps[:last]:
            prediction = predict(noisy, at(timestep))
            noisy = sampler.step(prediction, int(timestep), noisy, return_dict=False)[0]
    # Autocast keeps the weights it has cast; those cast here would pass no gradient.
    torch.clear_autocast_cache()
    timesteps = at(sampler.timesteps[last])
    return Drawn(
        noisy=noisy,
        timesteps=timesteps,
        prediction=predict(noisy, timesteps),
        alpha=schedule.alpha(timesteps),
        kind=schedule.kind,
    )
