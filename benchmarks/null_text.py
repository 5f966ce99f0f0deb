"""Null-text inversion against a plain implementation of the published algorithm: passes, seconds, PSNR.

``python benchmarks/null_text.py [PHOTO=PROMPT …] [--steps 50] [--guidance 7.5]``.

PSNR is between the photo as the autoencoder brings it back and what guided drawing does, in dB. A pass is
one run of the U-Net for one row, a backward pass counts two; those of the DDIM inversion, which both share,
are in it. All in one run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from idpersona.pipelines import load_base
from idpersona.pipelines.editing.edit import edit
from idpersona.pipelines.inversion import methods
from idpersona.pipelines.inversion.ddim import pivots
from idpersona.pipelines.inversion.method import Task
from idpersona.pipelines.inversion.null_text import STOP, STOP_GROWTH, NullText
from idpersona.seams.latent import Told

PHOTOS = ("sample:person-1=a photo of a woman", "sample:person-2=a photo of a woman")


@dataclass(frozen=True)
class PlainNullText(NullText):
    """As published (arXiv:2211.09794), for one photo: up to ten steps of a fresh Adam at every timestep."""

    inner: int = 10

    def invert(self, task: Task) -> Mapping[str, Tensor]:
        way, scheduler, w = pivots(task), task.scheduler, task.guidance
        latents, embedding, found = way[-1], task.empty.text, []

        def stepped(free: Tensor, told: Tensor, timestep: int) -> Tensor:
            return scheduler.step(free + w * (told - free), timestep, latents, return_dict=False)[0]

        for i, timestep in enumerate(scheduler.timesteps.tolist()):
            pivot = way[len(way) - 2 - i]
            embedding = embedding.detach().clone().requires_grad_()
            adam = torch.optim.Adam([embedding], lr=1e-2 * (1 - i / 100))
            with torch.no_grad():
                told = task.denoise(latents, timestep, task.source)
            for _ in range(self.inner):
                with torch.enable_grad():
                    free = task.denoise(latents, timestep, Told(embedding, task.empty.pooled))
                    error = (stepped(free, told, timestep) - pivot).square().mean()
                    (embedding.grad,) = torch.autograd.grad(error, embedding)
                task.denoise.passes += 2
                adam.step()
                if self.stop and float(error.detach()) < STOP + i * STOP_GROWTH:
                    break
            with torch.no_grad():
                embedding = embedding.detach()
                found.append(embedding)
                # The published code draws both rows once more.
                told = task.denoise(latents, timestep, task.source)
                free = task.denoise(latents, timestep, Told(embedding, task.empty.pooled))
                latents = stepped(free, told, timestep)
        return {"latents": way, "unconditional": torch.stack(found)}


@torch.no_grad()
def psnr(pipe: Any, drawn: Tensor, photo: Tensor) -> float:
    """Between two decoded latents [1, C, h, w], in dB."""
    one, other = (
        pipe.vae.decode(z.to(pipe.dtype) / pipe.vae.config.scaling_factor).sample for z in (drawn, photo)
    )
    error = ((one.clamp(-1, 1) - other.clamp(-1, 1)) / 2).square().mean()
    return float(-10 * torch.log10(error))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="*", default=PHOTOS, metavar="PHOTO=PROMPT")
    parser.add_argument("--base", default="mini")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--only", choices=["plain", "null-text"], help="one of the two algorithms")
    parser.add_argument("--inner", type=int, nargs="*", default=[NullText().inner], help="of ours")
    arguments = parser.parse_args()
    pipe: Any = load_base(arguments.base)
    pipe.set_progress_bar_config(disable=True)
    methods.METHODS["plain"] = PlainNullText
    ways = ["plain", "null-text"] if arguments.only is None else [arguments.only]
    stopped = True
    for stop in (True, False):
        for name, options in (
            ("plain", {}),
            *(("null-text", {"inner": inner}) for inner in arguments.inner),
        ):
            if name not in ways:
                continue
            if name == "plain" and not stop and not stopped:
                print("plain never stopped early above: without the early stop it does the same", flush=True)
                continue
            passes, seconds, near = [], 0.0, []
            for photo, _, prompt in (text.partition("=") for text in arguments.photos):
                started = time.perf_counter()
                record = methods.invert(
                    pipe,
                    photo,
                    prompt,
                    method=name,
                    steps=arguments.steps,
                    guidance=arguments.guidance,
                    stop=stop,
                    **options,
                )
                seconds += time.perf_counter() - started
                passes.append(record.passes)
                drawn = edit(pipe, record, prompt, control=None, output_type="latent")
                near.append(psnr(pipe, drawn.sources, record.latents[0]))
            count = len(passes)
            if name == "plain":
                most = arguments.steps * (1 + 1 + 3 * PlainNullText().inner + 2)
                stopped = any(each < most for each in passes)
            row = {
                "method": name,
                **options,
                "early stop": stop,
                "passes": sum(passes) / count,
                "seconds": round(seconds / count, 1),
                "psnr": round(sum(near) / count, 2),
            }
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
