"""Null-text inversion at the size of SD1.5: what the passes that ``null_text.py`` counts would cost.

``python benchmarks/null_text_cost.py [--side 32] [--steps 5] [--inner-plain 10] [--inner 1]``.

A U-Net of SD1.5's widths with random weights, latents of ``--side`` squared, a few timesteps of both
algorithms, each with a fixed number of inner steps: what mini was measured to take. Random weights say
nothing of quality; seconds and their ratio are all that is read here. Both run in this process, in turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

sys.path.insert(0, str(Path(__file__).parent))
from null_text import PlainNullText

from idpersona.pipelines.inversion.denoiser import Denoiser
from idpersona.pipelines.inversion.method import Task
from idpersona.pipelines.inversion.null_text import NullText
from idpersona.pipelines.inversion.schedule import ddim
from idpersona.seams.latent import Told

SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def task(unet: Any, side: int, steps: int) -> Task:
    """One photo's task, of random numbers."""
    pipe = SimpleNamespace(unet=unet, vae=SimpleNamespace(config={"latent_channels": 4}))
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Task(
        denoise=Denoiser(pipe, (side, side)),
        scheduler=ddim(SD15, steps),
        photo=noise(1, 4, side, side),
        source=Told(noise(1, 77, 768)),
        empty=Told(noise(1, 77, 768)),
        guidance=7.5,
        on_step=lambda: None,
        pictures=list,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--inner-plain", type=int, default=10)
    parser.add_argument("--inner", type=int, default=NullText().inner)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8).eval().requires_grad_(False)
    ways = {
        "plain": PlainNullText(inner=arguments.inner_plain, stop=False),
        "null-text": NullText(inner=arguments.inner, stop=False),
    }
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            work = task(unet, arguments.side, arguments.steps)
            started = time.perf_counter()
            way.invert(work)
            row = {
                "method": name,
                "steps": arguments.steps,
                "passes": work.denoise.passes,
                "seconds": round(time.perf_counter() - started, 1),
            }
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
