"""Run a recipe: what ``idpersona train`` and ``accelerate launch -m idpersona.training`` both call."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch

from idpersona.errors import BadInput
from idpersona.training.checkpoints import check_folder, refuse_existing
from idpersona.training.config import Recipe, builtin_recipes, load_recipe
from idpersona.training.loop import train
from idpersona.training.objectives import build_objective


def find_recipe(recipe: str | Path, *, output: str | Path | None = None) -> Recipe:
    """The recipe of a YAML file, or the built-in one of that name; ``output`` replaces its folder."""
    loaded = load_recipe(recipe_file(recipe))
    return loaded if output is None else loaded.model_copy(update={"output": str(output)})


def recipe_file(recipe: str | Path) -> Path:
    """The file of a recipe, which is given by its path or by a built-in name."""
    return {p.stem: p for p in builtin_recipes()}.get(str(recipe), Path(recipe))


def run_recipe(
    recipe: str | Path,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    minutes: float | None = None,
) -> Path:
    """Train as ``recipe`` says (a YAML file, or the name of a built-in one) and return the output folder.

    ``output`` replaces the recipe's folder; ``minutes`` stops early with a checkpoint that ``resume`` goes on
    from. Raises BadInput for a faulty recipe, MissingWeights when data or weights it needs are not there.
    """
    if minutes is not None and not 0 <= minutes < math.inf:
        raise BadInput(f"--minutes must be a number of 0 or more, got {minutes}")
    loaded = find_recipe(recipe, output=output)
    check_folder(loaded.output)
    stop_at = None if minutes is None else time.time() + 60 * minutes
    if not resume:
        refuse_existing(loaded.output)
    # Fresh weights are drawn from torch's own generator; everything later is keyed by the step.
    torch.manual_seed(loaded.loop.seed)
    given = recipe_file(recipe).read_text(encoding="utf-8")
    return train(loaded, build_objective(loaded), resume=resume, stop_at=stop_at, given=given)
