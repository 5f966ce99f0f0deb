"""ReNoise (arXiv:2403.14602): every step up is looked at again from where it led; the way down meets it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.pipelines.inversion.method import Method, Task
from idpersona.pipelines.inversion.record import Inversion
from idpersona.pipelines.inversion.schedule import ascend_noise, levels, split
from idpersona.pipelines.inversion.steering import Plain
from idpersona.seams.latent import Steering, Told

_CLIP, _ROLLS, _PATCH = 100.0, 5, 4


@dataclass(frozen=True)
class ReNoise(Method):
    """Fixed-point iterations; the last estimates of the noise are averaged and, if asked, kept like noise.

    Attributes:
        renoise: times that a step is looked at again; published for DDIM: 1.
        average: of how many of the last estimates the mean is taken.
        like_noise: weight of the divergence of its patches from those of the noise that the model reads in
            the photo, noised at random; published: 0.065. It costs one more pass for each step.
        uncorrelated: weight of its correlation with itself, shifted; published: 20.
        rounds: of both; published: 4. 0, the default, leaves the estimates as they are.
        seed: of the noise that the photo gets.
    """

    renoise: int = 1
    average: int = 1
    like_noise: float = 0.065
    uncorrelated: float = 20.0
    rounds: int = 0
    seed: int = 0
    name: ClassVar[str] = "renoise"
    paper: ClassVar[str] = "arXiv:2403.14602"
    free_negative: ClassVar[bool] = True
    free_guidance: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.renoise < 0 or self.rounds < 0 or not 1 <= self.average <= self.renoise + 1:
            raise BadInput(
                "renoise takes renoise and rounds of at least 0 and an average of 1 to renoise + 1, got "
                f"{self.renoise}, {self.rounds} and {self.average}"
            )

    @torch.no_grad()
    def invert(self, task: Task) -> Mapping[str, Tensor]:
        scheduler, way = task.scheduler, [task.photo]
        # Every photo gets the same noise, alone or in a batch.
        generator = torch.Generator("cpu").manual_seed(self.seed)
        for timestep in reversed(scheduler.timesteps.tolist()):
            above, _ = levels(scheduler, timestep)

            def noise(latents: Tensor, t: int = timestep, level: Tensor = above) -> Tensor:
                return split(scheduler, task.denoise(latents, t, task.source), latents, level)[1]

            latents, estimates = way[-1], []
            for _ in range(self.renoise + 1):
                estimates.append(noise(latents))
                latents = ascend_noise(scheduler, estimates[-1], way[-1], timestep)
            mean = torch.stack(estimates[-self.average :]).mean(dim=0)
            if self.rounds:
                random = torch.randn(task.photo.shape[1:], generator=generator).to(task.photo)
                noised = above**0.5 * task.photo + (1 - above) ** 0.5 * random
                mean = self._kept_like(mean, noise(noised))
            way.append(ascend_noise(scheduler, mean, way[-1], timestep))
            task.on_step()
        return {"latents": torch.stack(way)}

    def _kept_like(self, noise: Tensor, model: Tensor) -> Tensor:
        for _ in range(self.rounds):
            noise = noise - self.like_noise * _gradient(lambda x: patch_divergence(x, model), noise)
            noise = noise - self.uncorrelated * _gradient(self_correlation, noise)
        return noise

    def steering(self, record: Inversion, source: Callable[[], Told]) -> Steering:
        return Plain()


def _gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    with torch.enable_grad():
        x = at.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x), x)
    return gradient.clamp(-_CLIP, _CLIP)


def patch_divergence(noise: Tensor, model: Tensor) -> Tensor:
    """Sum over patches and channels of KL(N(mean, var of ``noise``) || N(mean, var of ``model``)).

    Patches are squares of 4; both [B, C, h, w].
    """

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        patches = torch.nn.functional.unfold(x.flatten(0, 1)[:, None], _PATCH, stride=_PATCH)
        return patches.mean(dim=1), patches.var(dim=1) + 1e-10

    (mean, var), (other_mean, other_var) = moments(noise), moments(model)
    return 0.5 * ((var + (mean - other_mean) ** 2) / other_var - 1 + (other_var / var).log()).sum()


def self_correlation(noise: Tensor) -> Tensor:
    """Squared correlation with itself, shifted by 1, 2, 4 … cells: mean over channels, sum over photos."""
    total = noise.new_zeros(())
    for roll in range(_ROLLS):
        shift = 2**roll
        if shift >= min(noise.shape[-2:]):
            break
        for axis in (2, 3):
            total = total + (noise * noise.roll(shift, axis)).mean(dim=(2, 3)).square().mean(dim=1).sum()
    return total
