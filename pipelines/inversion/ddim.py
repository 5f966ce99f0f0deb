"""DDIM inversion: the deterministic way from a photo's latents to noise (arXiv:2010.02502)."""

from __future__ import annotations

import torch
from torch import Tensor

from idpersona.pipelines.inversion.method import Task
from idpersona.pipelines.inversion.schedule import ascend


@torch.no_grad()
def pivots(task: Task) -> Tensor:
    """The latents on the way: [T + 1, B, C, h, w], the photo's first.

    The model sees each latents at the timestep that it is brought to, without guidance.
    """
    way = [task.photo]
    for timestep in reversed(task.scheduler.timesteps.tolist()):
        prediction = task.denoise(way[-1], timestep, task.source)
        way.append(ascend(task.scheduler, prediction, way[-1], way[-1], timestep))
        task.on_step()
    return torch.stack(way)
