"""What prompt, person and pose are worth to a model in training.

``python -m idpersona.training.conditions mini`` prints, for each noise level, by how much the error of the
prediction grows when every sample gets another sample's caption, person or keypoints. What a model does not
listen to costs nothing to exchange; a loss curve does not show that. Photos are training photos, the weights
are the averaged ones of the newest checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from idpersona.errors import BadInput
from idpersona.training.checkpoints import checkpoint_folder, latest_checkpoint, load_average
from idpersona.training.command import exit_status
from idpersona.training.config import Recipe
from idpersona.training.keyed import StepKey
from idpersona.training.objectives import build_objective
from idpersona.training.objectives.diffusion import DiffusionObjective
from idpersona.training.objectives.diffusion_data import DiffusionBatch
from idpersona.training.run import find_recipe

TIMESTEPS = (999, 950, 900, 800, 600, 400, 200)
_STEP = 2**31 - 1
"""A step that no run reaches, so that these samples are drawn for this alone."""


@dataclass(frozen=True)
class Worth:
    """At one timestep: the mean squared error of v, and what it gains by exchanging each condition."""

    timestep: int
    error: float
    prompt: float
    person: float
    pose: float


@torch.no_grad()
def conditions(
    objective: DiffusionObjective, samples: int = 64, timesteps: Sequence[int] = TIMESTEPS
) -> Iterator[Worth]:
    """Measure ``objective``, whose samples must all have a person and whose conditions are never dropped.

    Raises BadInput for fewer than two samples, which have nobody to exchange with, or without an adapter.
    """
    if samples < 2 or objective.adapter is None:
        raise BadInput("conditions are exchanged between two or more samples of a model with identity")
    device = objective.base.unet.device
    batch = objective.data.batch(StepKey(0, _STEP, range(samples), samples)).to(device)
    latents = objective.latents(batch.pictures)
    other = torch.arange(samples, device=device).roll(1)
    changed = {
        "prompt": replace(batch, token_ids=batch.token_ids[other]),
        "person": replace(batch, descriptors=batch.descriptors[other]),
        "pose": replace(batch, drawings=batch.drawings[other]),
    }
    for timestep in timesteps:
        at = torch.full_like(batch.timesteps, timestep)
        right = _error(objective, replace(batch, timesteps=at), latents)
        added = {
            name: _error(objective, replace(exchanged, timesteps=at), latents) - right
            for name, exchanged in changed.items()
        }
        yield Worth(timestep, right, **added)


def _error(objective: DiffusionObjective, batch: DiffusionBatch, latents: Tensor) -> float:
    return float(objective.denoise(batch, latents).error().mean())


def load_for_measuring(recipe: Recipe) -> tuple[DiffusionObjective, Path]:
    """The recipe's objective with the averaged weights of its newest checkpoint, and that checkpoint.

    Raises BadInput when it is no text-to-image recipe, or there is no checkpoint yet.
    """
    always = {"identity": 1.0, "caption_drop": 0.0, "identity_drop": 0.0, "both_drop": 0.0}
    always |= {"latent_descriptor": None, "drawn": 0.0}  # losses are not measured here
    if recipe.objective.get("kind") != "diffusion" or recipe.objective.get("identity") == 0:
        raise BadInput(f"recipe {recipe.name} trains no text-to-image model with identity")
    checkpoint = latest_checkpoint(checkpoint_folder(recipe.output))
    if checkpoint is None:
        raise BadInput(f"no checkpoint in {recipe.output} yet")
    objective = build_objective(recipe.model_copy(update={"objective": recipe.objective | always}))
    assert isinstance(objective, DiffusionObjective)
    load_average(checkpoint, objective.trained)
    objective.trained.eval()
    return objective, checkpoint


def main() -> int:
    """Command line of this module; 2 on bad input, with one line on standard error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", help="YAML file, or the name of a built-in recipe")
    parser.add_argument("--output", help="folder of the run (default: the recipe's)")
    parser.add_argument("--samples", type=int, default=64)
    arguments = parser.parse_args()
    return exit_status(lambda: _print(arguments.recipe, arguments.output, arguments.samples))


def _print(name: str, output: str | None, samples: int) -> None:
    objective, checkpoint = load_for_measuring(find_recipe(name, output=output))
    print(f"{checkpoint}, {samples} samples: error, and what an exchange adds in percent of it")
    print(f"{'timestep':>8} {'error':>7} {'prompt':>7} {'person':>7} {'pose':>7}")
    for row in conditions(objective, samples):
        share = [100 * part / row.error for part in (row.prompt, row.person, row.pose)]
        shown = " ".join(f"{part:7.2f}" for part in share)
        print(f"{row.timestep:8} {row.error:7.4f} {shown}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
