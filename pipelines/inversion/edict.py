"""EDICT (arXiv:2211.12446): two coupled latents are denoised in turns; each step can be undone exactly.

Denoising, from (x, y) at one level to the next, p being how much of itself each keeps in the mixing:
``x <- a x + b eps(y)``, ``y <- a y + b eps(x)``, ``x <- p x + (1 - p) y``, ``y <- p y + (1 - p) x``; the two
change roles after every step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.pipelines.inversion.method import Method, Task
from idpersona.pipelines.inversion.record import Inversion, InversionError
from idpersona.pipelines.inversion.schedule import ddim, levels, split
from idpersona.pipelines.inversion.steering import Plain
from idpersona.seams.latent import Steering, Told


def _factors(scheduler: DDIMScheduler, timestep: int) -> tuple[float, float]:
    above, below = (float(level.double()) for level in levels(scheduler, timestep))
    a = (below / above) ** 0.5
    return a, (1 - below) ** 0.5 - a * (1 - above) ** 0.5


def _noise(scheduler: DDIMScheduler, prediction: Tensor, latents: Tensor, timestep: int) -> Tensor:
    above, _ = levels(scheduler, timestep)
    return split(scheduler, prediction.double(), latents, above.double())[1]


class EdictScheduler:
    """Steps one of two coupled latents at each pass of the model; a pipeline sees twice the timesteps.

    The exact state stays here in float64. Where a pipeline, or a steering, hands back other latents than it
    was given, the difference is added to the state.

    Args:
        scheduler: DDIM, its timesteps set.
        first, second: float64 [rows, C, h, w], the two latents; the pipeline is started with the second.
        mixing: p.
    """

    order = 2
    init_noise_sigma = 1.0

    def __init__(self, scheduler: DDIMScheduler, first: Tensor, second: Tensor, mixing: float):
        self.inner, self.mixing = scheduler, mixing
        self.config = scheduler.config
        self._start = (first, second)
        self.timesteps = scheduler.timesteps.repeat_interleave(2)

    def set_timesteps(self, steps: int, device: Any = None) -> None:
        self.inner.set_timesteps(steps, device)
        self.timesteps = self.inner.timesteps.repeat_interleave(2)
        x, y = self._start
        self.num_inference_steps = steps
        self._state = [x.to(device, torch.float64), y.to(device, torch.float64)]
        self._done, self._given = 0, None

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True) -> Any:
        """``model_output`` was made of ``sample``, which stands for the latents that are not stepped now."""
        step, second = divmod(self._done, 2)
        stepped, seen = (1, 0) if second else (0, 1)
        if step % 2:
            stepped, seen = seen, stepped
        state = self._state
        if self._given is not None:
            state[seen] = state[seen] + (sample.double() - self._given.double())
        a, b = _factors(self.inner, int(timestep))
        noise = _noise(self.inner, model_output, state[seen], int(timestep))
        state[stepped] = a * state[stepped] + b * noise
        following = stepped
        if second:
            p = self.mixing
            state[seen] = p * state[seen] + (1 - p) * state[stepped]
            state[stepped] = p * state[stepped] + (1 - p) * state[seen]
            # Roles change: the model looks at the one that has just looked.
            following = seen
        self._done += 1
        self._given = state[following].to(sample.dtype)
        return (self._given,)


@dataclass(frozen=True)
class Edict(Method):
    """Exact up to rounding, which the mixing makes grow: exact in float64, and worse the higher the guidance.

    It takes two passes for each of two rows, and is drawn with the guidance that the photo was inverted with.

    Attributes:
        mixing: p; published: 0.93 for 50 steps, and nearer to 1 for fewer.
    """

    mixing: float = 0.93
    name: ClassVar[str] = "edict"
    paper: ClassVar[str] = "arXiv:2211.12446"
    calls: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0.5 < self.mixing <= 1:
            raise BadInput(f"mixing of edict lies above 0.5 and up to 1, got {self.mixing}")

    def refuse(self, pipe: Any) -> None:
        if pipe.unet.dtype in (torch.float16, torch.bfloat16):
            raise BadInput(
                "edict undoes steps exactly, which half precision cannot: load the base in float32 "
                "(--dtype fp32)"
            )
        if pipe.device.type == "mps":
            raise BadInput("edict computes in float64, which this device cannot: give --device cpu")

    def check(self, record: Inversion) -> None:
        if record.latents.shape[1] != 2 * record.photos:
            raise InversionError(
                f"an inversion by edict has two latents for each photo, not {record.latents.shape[1]} for "
                f"{record.photos}"
            )

    @torch.no_grad()
    def invert(self, task: Task) -> Mapping[str, Tensor]:
        scheduler, p = task.scheduler, self.mixing
        state = [task.photo.double(), task.photo.double()]
        way = [torch.cat(state)]
        timesteps = scheduler.timesteps.tolist()
        for step in reversed(range(len(timesteps))):
            timestep = timesteps[step]
            i, j = (1, 0) if step % 2 else (0, 1)
            a, b = _factors(scheduler, timestep)
            state[j] = (state[j] - (1 - p) * state[i]) / p
            state[i] = (state[i] - (1 - p) * state[j]) / p
            state[j] = (state[j] - b * self._guided(task, state[i], timestep)) / a
            state[i] = (state[i] - b * self._guided(task, state[j], timestep)) / a
            way.append(torch.cat(state))
            task.on_step()
        return {"latents": torch.stack(way)}

    def _guided(self, task: Task, latents: Tensor, timestep: int) -> Tensor:
        seen = latents.to(task.denoise.unet.dtype)
        told = task.denoise(seen, timestep, task.source)
        if task.guidance > 1:
            free = task.denoise(seen, timestep, task.empty)
            told = free + task.guidance * (told - free)
        return _noise(task.scheduler, told, latents, timestep)

    def steering(self, record: Inversion, source: Callable[[], Told]) -> Steering:
        return Plain()

    def scheduler(self, record: Inversion, device: Any, each: int) -> Any:
        first, second = record.latents[-1].repeat_interleave(each, dim=0).chunk(2)
        return EdictScheduler(ddim(record.scheduler, record.steps, device), first, second, self.mixing)

    def start(self, record: Inversion) -> Tensor:
        return record.latents[-1].chunk(2)[1]
