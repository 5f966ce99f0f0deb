"""What all denoising objectives share: the noise schedule, the weighted error, drawings from pure noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from idpersona.training.keyed import StepKey

NOISE, DRAWING = 1, 2
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
_ALPHAS: Tensor = DDIMScheduler(**SCHEDULE).alphas_cumprod

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
    """One prediction of v; ``noisy`` and ``prediction`` [B, C, h, w], ``alpha`` [B, 1, 1, 1]."""

    noisy: Tensor
    prediction: Tensor
    alpha: Tensor

    def estimate(self) -> Tensor:
        """The clean latents that the prediction means."""
        return self.alpha.sqrt() * self.noisy - (1 - self.alpha).sqrt() * self.prediction

    def signal(self) -> Tensor:
        """How far the noisy latents of each row are made of the clean ones, [B]: what its estimate counts."""
        return self.alpha.sqrt().view(-1)


@dataclass(frozen=True)
class Denoised(Drawn):
    """A prediction for a photo made noisy; ``target`` is the true v."""

    target: Tensor

    def error(self) -> Tensor:
        """Mean squared error of each row, [B]."""
        return (self.prediction - self.target).square().mean(dim=(1, 2, 3))

    def loss(self, gamma: float) -> Tensor:
        """Mean error over the rows, each weighted by :func:`loss_weight`."""
        snr = (self.alpha / (1 - self.alpha)).view(-1)
        return (loss_weight(snr, gamma) * self.error()).mean()


def denoise(predict: Predict, latents: Tensor, timesteps: Tensor, key: StepKey) -> Denoised:
    """Add each row's keyed noise to ``latents`` at its timestep, and let the model predict."""
    noise = key.normal(tuple(latents.shape[1:]), NOISE).to(latents.device)
    alpha = _alpha(timesteps)
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    return Denoised(
        noisy=noisy,
        target=alpha.sqrt() * noise - (1 - alpha).sqrt() * latents,
        prediction=predict(noisy, timesteps),
        alpha=alpha,
    )


def draw(predict: Predict, shape: tuple[int, ...], key: StepKey, device: torch.device) -> Drawn:
    """Draw latents of ``shape`` [C, h, w] for each row of ``key``, from noise up to a random step of the way.

    Only the prediction at that step records gradients. It is the same step for all rows and processes.
    """
    sampler = DDIMScheduler(**SCHEDULE)
    sampler.set_timesteps(DRAWING_STEPS)
    last = int(key.shared().integers(1, DRAWING_STEPS))
    noisy = key.normal(shape, DRAWING).to(device)

    def at(timestep: Tensor) -> Tensor:
        return torch.full((len(noisy),), int(timestep), device=device)

    with torch.no_grad():
        for timestep in sampler.timesteps[:last]:
            velocity = predict(noisy, at(timestep))
            noisy = sampler.step(velocity, int(timestep), noisy, return_dict=False)[0]
    # Autocast keeps the weights it has cast; those cast here would pass no gradient.
    torch.clear_autocast_cache()
    timesteps = at(sampler.timesteps[last])
    return Drawn(noisy=noisy, prediction=predict(noisy, timesteps), alpha=_alpha(timesteps))


def _alpha(timesteps: Tensor) -> Tensor:
    return _ALPHAS.to(timesteps.device)[timesteps].view(-1, 1, 1, 1)
