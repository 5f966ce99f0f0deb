"""The one training loop: accelerate, exact resuming, EMA, progress. Everything else is an objective.

A step is a function of the weights and of (seed, step, sample index) only, see ``keyed.py``; there is no data
loader with a state. A run that was stopped anywhere goes on as if it had not been, and several processes that
share a batch take the steps that one would (up to rounding, and up to batch normalisation, whose statistics
each process takes of its own share).
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from idpersona.errors import BadInput
from idpersona.training.checkpoints import (
    checkpoint_folder,
    latest_checkpoint,
    refuse_existing,
    restore,
    save,
)
from idpersona.training.config import LoopConfig, OptimiserConfig, Recipe
from idpersona.training.ema import Ema
from idpersona.training.keyed import StepKey, seed_modules
from idpersona.training.optimisers import build_optimisers
from idpersona.training.parallel import average_gradients, share_weights
from idpersona.training.progress import Progress


class Objective(ABC):
    """What is trained, and by which loss.

    ``trained``, an ``nn.Module``, holds all trained parts (an ``nn.ModuleDict`` where there are several).
    """

    trained: Any

    @abstractmethod
    def loss(self, key: StepKey) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Loss of the samples of ``key`` (mean over them), and figures for the log."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write ``trained`` as it is used; it holds the averaged weights by now, in evaluation mode."""

    def begin(self, folder: Path) -> None:  # noqa: B027 - most have nothing to keep
        """Write what a resumption needs beside the checkpoints; called once, before the first step."""


def learning_rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """Linear warm-up, constant, cosine fall to 1 % over the last ``cooldown`` share of the run."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    start = steps * (1 - config.cooldown)
    if step < start:
        return config.lr
    share = min((step - start) / max(steps - start, 1), 1.0)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def train(
    recipe: Recipe, objective: Objective, *, resume: bool = False, stop_at: float | None = None
) -> Path:
    """Run ``recipe`` and return its output folder; checkpoints lie in ``<output>/checkpoints``.

    ``stop_at`` (``time.time()`` seconds) ends the run early with a checkpoint, so that a later call resumes
    it; a time in the past exports what the newest checkpoint holds. Either way the averaged weights are
    exported.

    Raises:
        BadInput: the output holds another run's checkpoints and ``resume`` was not asked for; the loop's
            configuration does not suit this machine; the loss is no number any more.
        CheckpointError: the checkpoint is of another model.
    """
    loop, output = recipe.loop, Path(recipe.output)
    checkpoints = checkpoint_folder(output)
    if not resume:
        refuse_existing(output)
    if loop.threads:
        torch.set_num_threads(loop.threads)
    accelerator = _accelerator(loop)
    main = accelerator.is_main_process
    share = loop.batch_size // accelerator.num_processes
    indices = range(accelerator.process_index * share, (accelerator.process_index + 1) * share)

    module = objective.trained.to(accelerator.device).train()
    share_weights(module)
    parameters = [p for p in module.parameters() if p.requires_grad]
    config = recipe.optimiser
    optimiser = build_optimisers(module, config, accelerator.prepare_optimizer)
    ema = Ema(module, loop.ema_decay)
    scaler = accelerator.scaler
    step = restore(checkpoints, recipe, module, optimiser, ema, scaler, tell=main) if resume else 0
    if main:
        output.mkdir(parents=True, exist_ok=True)
        (output / "recipe.json").write_text(recipe.model_dump_json(indent=2))
        if step == 0:
            objective.begin(output)

    saved = step
    with Progress(recipe.name, loop.steps, loop.batch_size, step, enabled=main) as progress:
        while step < loop.steps and not _time_is_up(accelerator, stop_at):
            optimiser.set_learning_rate(learning_rate(config, step, loop.steps))
            key = StepKey(loop.seed, step, indices, loop.batch_size)
            seed_modules(key)
            with accelerator.autocast():
                loss, figures = objective.loss(key)
            # Over all processes, so that they agree on whether to go on.
            value = float(accelerator.reduce(loss.detach(), "mean"))  # type: ignore[arg-type]
            if not math.isfinite(value):
                last = latest_checkpoint(checkpoints)
                raise BadInput(
                    f"loss is {value} at step {step}: the last good checkpoint is {last}; lower optimiser.lr"
                )
            accelerator.backward(loss)
            average_gradients(parameters)
            accelerator.clip_grad_norm_(parameters, config.clip)
            optimiser.step()
            optimiser.zero_grad()
            ema.update(module, step)
            step += 1
            progress.update(step, {"loss": value, **figures}, every=loop.log_every)
            if main and step % loop.save_every == 0:
                save(checkpoints, step, recipe, module, optimiser, ema, scaler)
                saved = step
    if main:
        if saved != step:
            save(checkpoints, step, recipe, module, optimiser, ema, scaler)
        _export(objective, ema, output)
    accelerator.wait_for_everyone()
    return output


def _accelerator(loop: LoopConfig) -> Accelerator:
    try:
        accelerator = Accelerator(mixed_precision=loop.precision)
    except ValueError as error:  # a precision that this device does not have
        raise BadInput(f"loop.precision {loop.precision}: {error}") from error
    if loop.batch_size % accelerator.num_processes:
        raise BadInput(
            f"loop.batch_size {loop.batch_size} does not divide by {accelerator.num_processes} processes"
        )
    return accelerator


def _export(objective: Objective, ema: Ema, output: Path) -> None:
    """Export the averaged weights, and put the trained ones back."""
    module = objective.trained
    kept = {k: v.clone() for k, v in module.state_dict().items()}
    module.load_state_dict(ema.state_dict())
    module.eval()
    objective.export(output)
    module.load_state_dict(kept)


def _time_is_up(accelerator: Accelerator, stop_at: float | None) -> bool:
    """Decided by the main process for all, or they would wait for each other for ever."""
    if stop_at is None:
        return False
    decision = [time.time() >= stop_at]
    if accelerator.num_processes > 1:
        broadcast_object_list(decision)
    return decision[0]
