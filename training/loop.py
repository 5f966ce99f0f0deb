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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from idpersona.errors import BadInput, IdPersonaError, Interrupted
from idpersona.training.checkpoints import (
    State,
    checkpoint_folder,
    latest_checkpoint,
    refuse_existing,
    restore,
    save,
)
from idpersona.training.config import LoopConfig, OptimiserConfig, Recipe
from idpersona.training.ema import Ema
from idpersona.training.interruption import Interruption
from idpersona.training.keyed import StepKey, seed_modules
from idpersona.training.optimisers import build_optimisers
from idpersona.training.parallel import DeepSpeedStates, check, prepare
from idpersona.training.progress import Progress
from idpersona.training.samples.drawing import Drawing
from idpersona.training.samples.sheet import Samples
from idpersona.training.setting import keep_recipe, share_of, start_accelerator, start_trackers
from idpersona.training.sharding import is_sharded, whole, whole_weights


class Objective(ABC):
    """What is trained, and by which loss.

    ``trained``, an ``nn.Module``, holds all trained parts (an ``nn.ModuleDict`` where there are several).
    ``writes_only``: :meth:`save` and :meth:`export` run nothing of it, so that its weights may be sharded.
    """

    trained: Any
    writes_only = False
    check_every: int = 0
    """Steps between two calls of :meth:`enough`; 0 for no call."""

    @abstractmethod
    def loss(self, key: StepKey) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Loss of the samples of ``key`` (mean over them), and figures for the log."""

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write ``trained`` as it is used; it holds the averaged weights by now, in evaluation mode."""

    def save(self, folder: Path) -> None:  # noqa: B027 - most are of use when they are finished only
        """Write into a checkpoint's folder what is loaded from there as it is, of the averaged weights."""

    def checkpoint_activations(self) -> None:
        """Keep no activations inside the large networks but compute them again in the backward pass.

        Raises BadInput where the objective has none that can.
        """
        raise BadInput("loop.checkpointing: this objective has no network that can do it, leave it out")

    def begin(self, folder: Path) -> None:  # noqa: B027 - most have nothing to keep
        """Write what a resumption needs beside the checkpoints; called once, before the first step."""

    def drawing(self) -> AbstractContextManager[Drawing]:
        """A scope in which the model, as it is then, draws as users draw with it; for samples.

        What it changes of the model for that, it puts back. Raises BadInput where nothing can be drawn.
        """
        raise BadInput(f"samples: {type(self).__name__} draws no pictures: take samples out of the recipe")

    def resumed(self, checkpoint: Path) -> None:  # noqa: B027 - most have nothing to read
        """Read what :meth:`save` wrote for a resumption; called before its first step."""

    def enough(self, step: int) -> bool:
        """Whether the run ends after ``step`` steps; asked of the main process, also before the first step
        and after the last. ``trained`` holds the averaged weights, in evaluation mode."""
        return False


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
    recipe: Recipe,
    objective: Objective,
    *,
    resume: bool = False,
    stop_at: float | None = None,
    given: str | None = None,
) -> Path:
    """Run ``recipe`` and return its output folder; checkpoints lie in ``<output>/checkpoints``.

    ``stop_at`` (``time.time()`` seconds) or the objective ends the run early, with a checkpoint, so that a
    later call resumes it; a time in the past exports what the newest checkpoint holds. Either way the
    averaged weights are exported. ``given`` is the recipe as it was written, kept beside the resolved one.

    Raises:
        BadInput: the output holds another run's checkpoints and ``resume`` was not asked for; the loop's
            configuration does not suit this machine; the loss is no number any more.
        CheckpointError: the checkpoint is of another model.
        OutputError: a checkpoint cannot be written.
        Interrupted: by Ctrl-C or SIGTERM; there is a checkpoint of the last step.
    """
    loop, output = recipe.loop, Path(recipe.output)
    checkpoints = checkpoint_folder(output)
    if not resume:
        refuse_existing(output)
    if loop.threads:
        torch.set_num_threads(loop.threads)
    accelerator = start_accelerator(loop, output)
    main = accelerator.is_main_process
    parts = share_of(loop, accelerator)

    check(accelerator, recipe, writes_only=objective.writes_only, looks=objective.check_every > 0)

    module = objective.trained.to(accelerator.device).train()
    if loop.checkpointing:
        objective.checkpoint_activations()
    samples = Samples.open(recipe, objective, accelerator)
    fresh = not (resume and latest_checkpoint(checkpoints))
    if main and fresh:
        keep_recipe(output, recipe, objective, accelerator, given)
        # While the weights are whole in this process.
        objective.begin(output)
    accelerator.wait_for_everyone()
    config = recipe.optimiser
    optimiser = build_optimisers(module, config, exact=loop.precision == "no")
    run = prepare(accelerator, recipe, objective.loss, module, optimiser)
    sharded, states = is_sharded(module), DeepSpeedStates.of(accelerator, checkpoints)
    ema = Ema(module, loop.ema_decay)
    scaler = accelerator.scaler
    step = 0
    if resume:
        step = restore(checkpoints, recipe, module, None if states else optimiser, ema, scaler, tell=main)
        if states and step:
            states.load(step)
    if step and (last := latest_checkpoint(checkpoints)):
        objective.resumed(last)
    if main and not fresh:
        keep_recipe(output, recipe, objective, accelerator, given)
    start_trackers(accelerator, recipe)

    def averaged(write: Callable[[Path], None], folder: Path) -> None:
        """Let the main process write into ``folder`` with the averaged weights in the model."""
        with _averaged(objective, ema), whole_weights(module, hold=main):
            if main:
                write(folder)

    def keep() -> None:
        """All processes have a part in it; the main one writes."""
        if states:
            states.save(step)
        if not (main or sharded):
            return
        state = State(
            whole(module.state_dict(), hold=main),
            whole(ema.state_dict(), hold=main),
            None if states else whole(optimiser.state_dict(), hold=main),
            scaler and scaler.state_dict(),
        )
        if main:
            save(checkpoints, step, recipe, state, usable=lambda folder: averaged(objective.save, folder))
        else:
            averaged(objective.save, output)

    def look() -> None:
        if samples and samples.wanted(step):
            with _averaged(objective, ema), progress.aside():
                samples.draw(step, stop=lambda: interruption.received > 0, say=progress.say)

    def ended() -> bool:
        every = objective.check_every if main else 0
        if not every or (step % every and step != loop.steps):
            return False
        with _averaged(objective, ema), progress.aside():
            return objective.enough(step)

    saved, signal = step, 0
    with (
        Interruption() as interruption,
        Progress(recipe.name, loop.steps, loop.batch_size, step, enabled=main) as progress,
    ):
        look()
        over = ended()
        while step < loop.steps and not (signal := _stop(accelerator, stop_at, interruption, over)):
            optimiser.set_learning_rate(rate := learning_rate(config, step, loop.steps))
            try:
                figures = _gradients(accelerator, run, loop, step, parts)
            except IdPersonaError:
                # A photo that cannot be read any more, for instance. Others may be in the middle of a step.
                if accelerator.num_processes == 1 and saved != step:
                    keep()
                raise
            if not math.isfinite(figures["loss"]):
                last = latest_checkpoint(checkpoints)
                raise BadInput(
                    f"loss is {figures['loss']} at step {step}: the last good checkpoint is {last}; lower "
                    "optimiser.lr"
                )
            accelerator.clip_grad_norm_(run.parameters(), config.clip)
            optimiser.step()
            optimiser.zero_grad()
            ema.update(module, step)
            step += 1
            over = ended()
            means = progress.update(step, figures, every=loop.log_every)
            if means:
                accelerator.log({**means, "lr": rate}, step=step)
            if step % loop.save_every == 0:
                keep()
                saved = step
            look()
        if saved != step:
            keep()
    accelerator.wait_for_everyone()
    if step < loop.steps and signal > 0:
        raise Interrupted(
            f"{latest_checkpoint(checkpoints)} holds step {step} of {loop.steps}: go on with --resume", signal
        )
    if main or sharded:
        averaged(objective.export, output)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return output


def _gradients(
    accelerator: Accelerator,
    run: nn.Module,
    loop: LoopConfig,
    step: int,
    parts: Sequence[Sequence[int]],
) -> dict[str, float]:
    """Add up the gradients of this process's share of a step, part by part; its figures, ``loss`` first.

    The loss is the mean over all processes, so that they agree on whether to go on.
    """
    sums: dict[str, list[tuple[float, int]]] = {}
    total = torch.zeros((), device=accelerator.device)
    for part in parts:
        key = StepKey(loop.seed, step, part, loop.batch_size)
        seed_modules(key)
        with accelerator.accumulate(run):
            loss, figures = run(key)
            accelerator.backward(loss)
        total += loss.detach().float() / len(parts)
        for name, value in figures.items():
            sums.setdefault(name, []).append((value, len(part)))
    mean: Any = accelerator.reduce(total, "mean")
    averages = {
        name: sum(value * count for value, count in found) / sum(count for _, count in found)
        for name, found in sums.items()
    }
    return {"loss": float(mean), **averages}


@contextmanager
def _averaged(objective: Objective, ema: Ema) -> Iterator[None]:
    """The averaged weights in the objective's model, in evaluation mode; then the trained ones again."""
    module = objective.trained
    kept = {k: v.clone() for k, v in module.state_dict().items()}
    try:
        module.load_state_dict(ema.state_dict())
        module.eval()
        yield
    finally:
        module.load_state_dict(kept)
        module.train()


def _stop(accelerator: Accelerator, stop_at: float | None, interruption: Interruption, ended: bool) -> int:
    """0: go on; -1: the time is up, or the objective has ``ended`` the run; else the number of a signal that
    any process received.

    Decided for all, or they would wait for each other for ever.
    """
    up = ended or (stop_at is not None and time.time() >= stop_at)
    own = interruption.received or (-1 if up and accelerator.is_main_process else 0)
    if accelerator.num_processes == 1:
        return own
    # A signal's number is above the -1 of the time, which only the main process looks at.
    values: Any = accelerator.gather(torch.tensor([own], device=accelerator.device))
    numbers = values.tolist()
    return max(numbers) or min(numbers)
