"""What a run is set up with: accelerate's processes and trackers, and a record of it beside the results."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, ProjectConfiguration
from pydantic import BaseModel, ConfigDict

from idpersona.errors import BadInput
from idpersona.installed import package_versions
from idpersona.training.config import LoopConfig, Recipe

_PACKAGES = ("idpersona", "torch", "accelerate", "diffusers", "transformers", "peft")


class Resolved(BaseModel):
    """``resolved.json``: everything that a run was made with, also what its recipe left to defaults.

    Attributes:
        recipe: with all defaults of the loop and the optimiser.
        objective: the objective's own configuration, with all defaults.
        processes: that shared every batch; ``rows`` is what one of them computes at once.
        device: kind of the main process's.
        trained: part of the model -> number of trained parameters.
        versions: of what can change a number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Recipe
    objective: dict[str, Any]
    processes: int
    rows: int
    device: str
    trained: dict[str, int]
    versions: dict[str, str]


def start_accelerator(loop: LoopConfig, output: Path) -> Accelerator:
    """Accelerate for ``loop``; BadInput where the loop does not suit the machine, or a tracker is unknown."""
    place = ProjectConfiguration(project_dir=str(output), logging_dir=str(output / "logs"))
    # DeepSpeed would keep the weights themselves in half precision; autocast is left to the step.
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    # Which parameters a sample reaches differs: not every process draws faces, not every step.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    # The others wait while one draws: pictures of a class, samples.
    patient = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    try:
        return Accelerator(
            mixed_precision="no" if deepspeed else loop.precision,
            gradient_accumulation_steps=loop.accumulate,
            log_with=list(_trackers(loop)) or None,
            project_config=place,
            kwargs_handlers=[unused, patient],
        )
    except ValueError as error:  # a precision that this device does not have
        raise BadInput(f"loop: {error}") from error


def start_trackers(accelerator: Accelerator, recipe: Recipe) -> None:
    """Begin the log of this run; nothing where no tracker is wanted."""
    if accelerator.log_with:
        accelerator.init_trackers(recipe.name)


def share_of(loop: LoopConfig, accelerator: Accelerator) -> list[Sequence[int]]:
    """Sample indices of this process, in as many parts as gradients are accumulated over.

    Raises BadInput when the batch cannot be shared out evenly.
    """
    share, left = divmod(loop.batch_size, accelerator.num_processes)
    rows, rest = divmod(share, loop.accumulate)
    if left or rest or not rows:
        raise BadInput(
            f"loop.batch_size {loop.batch_size} does not divide by {accelerator.num_processes} processes "
            f"times loop.accumulate {loop.accumulate}"
        )
    first = accelerator.process_index * share
    return [range(first + n * rows, first + (n + 1) * rows) for n in range(loop.accumulate)]


def keep_recipe(
    output: Path, recipe: Recipe, objective: Any, accelerator: Accelerator, given: str | None
) -> None:
    """Write ``recipe.json`` and ``resolved.json``, and ``given.yaml`` where the recipe's text is known."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "recipe.json").write_text(recipe.model_dump_json(indent=2))
    if given is not None:
        (output / "given.yaml").write_text(given, encoding="utf-8")
    config = getattr(objective, "config", None)
    trained: dict[str, int] = {}
    for name, parameter in objective.trained.named_parameters():
        if parameter.requires_grad:
            part = name.split(".")[0]
            trained[part] = trained.get(part, 0) + parameter.numel()
    resolved = Resolved(
        recipe=recipe,
        objective=config.model_dump(mode="json") if isinstance(config, BaseModel) else recipe.objective,
        processes=accelerator.num_processes,
        rows=recipe.loop.batch_size // accelerator.num_processes // recipe.loop.accumulate,
        device=accelerator.device.type,
        trained=trained,
        versions=package_versions(_PACKAGES),
    )
    (output / "resolved.json").write_text(resolved.model_dump_json(indent=2))


def _trackers(loop: LoopConfig) -> Sequence[str]:
    """Those that can be had. One that the recipe names must be there; the usual one is left out aloud."""
    absent = [name for name in loop.trackers if find_spec(name) is None]
    if absent and "trackers" in loop.model_fields_set:
        raise BadInput(f"loop.trackers: {', '.join(absent)} is not installed (pip install {absent[0]})")
    for name in absent:
        print(f"no {name} here: figures are printed only (pip install {name})", file=sys.stderr)
    return [name for name in loop.trackers if name not in absent]
