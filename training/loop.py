"""The one training loop: accelerate, exact resuming, EMA, progress. Everything else is an objective.

A step is a function of the weights and of (seed, step, sample index) only, see ``keyed.py``; there is no data
loader with a state. A run that was stopped anywhere goes on as if it had not been.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from torch import nn

from idpersona.errors import BadInput
from idpersona.training.config import OptimiserConfig, Recipe
from idpersona.training.ema import Ema
from idpersona.training.keyed import StepKey
from idpersona.training.progress import Progress


class Objective(Protocol):
    """What is trained, and by which loss."""

    trained: nn.Module
    """All trained parts as one module (an ``nn.ModuleDict`` where there are several)."""

    def loss(self, module: nn.Module, key: StepKey) -> tuple[torch.Tensor, Mapping[str, float]]:
        """Loss of the samples of ``key`` (mean over them), and figures for the log."""
        ...

    def export(self, folder: Path) -> None:
        """Write ``trained`` (holding the averaged weights by now) as it is shipped."""
        ...


def learning_rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """Linear warm-up, constant, cosine fall to 1 % over the last ``cooldown`` share of the run."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    start = steps * (1 - config.cooldown)
    if step < start:
        return config.lr
    share = min((step - start) / max(steps - start, 1), 1.0)
    return config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def train(recipe: Recipe, objective: Objective, *, resume: bool = False, stop_at: float | None = None) -> Path:
    """Run ``recipe`` and return its output folder; checkpoints lie in ``<output>/checkpoints``.

    ``stop_at`` (``time.time()`` seconds) ends the run early with a checkpoint, so that a later call resumes it; a
    time in the past exports what the newest checkpoint holds. Either way the averaged weights are exported.
    Raises BadInput when the output holds another run's checkpoints and ``resume`` was not asked for.
    """
    loop = recipe.loop
    if loop.threads:
        torch.set_num_threads(loop.threads)
    accelerator = Accelerator(mixed_precision=loop.precision)
    output = Path(recipe.output)
    checkpoints = output / "checkpoints"
    if latest_checkpoint(checkpoints) and not resume:
        raise BadInput(f"{checkpoints} holds a run already: add --resume to go on with it, or choose another --output")
    if loop.batch_size % accelerator.num_processes:
        raise BadInput(f"loop.batch_size {loop.batch_size} does not divide by {accelerator.num_processes} processes")
    share = loop.batch_size // accelerator.num_processes
    indices = range(accelerator.process_index * share, (accelerator.process_index + 1) * share)

    parameters = [p for p in objective.trained.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        parameters, lr=recipe.optimiser.lr, betas=recipe.optimiser.betas, weight_decay=recipe.optimiser.weight_decay,
        fused=True,
    )
    module, optimiser = accelerator.prepare(objective.trained, optimiser)
    ema = Ema(accelerator.unwrap_model(module), loop.ema_decay)
    step = _restore(checkpoints, accelerator.unwrap_model(module), optimiser, ema) if resume else 0
    if accelerator.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        (output / "recipe.json").write_text(recipe.model_dump_json(indent=2))

    progress = Progress(recipe.name, loop.steps, loop.batch_size, step, enabled=accelerator.is_main_process)
    saved = step
    while step < loop.steps and not _time_is_up(accelerator, stop_at):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(recipe.optimiser, step, loop.steps)
        key = StepKey(loop.seed, step, indices, loop.batch_size)
        with accelerator.autocast():
            loss, figures = objective.loss(module, key)
        if not torch.isfinite(loss):
            last = latest_checkpoint(checkpoints)
            raise BadInput(f"loss is {float(loss.detach())} at step {step}: the last good checkpoint is {last}; lower optimiser.lr")
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, recipe.optimiser.clip)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        ema.update(accelerator.unwrap_model(module), step)
        step += 1
        progress.update(step, {"loss": float(loss.detach()), **figures}, every=loop.log_every)
        if accelerator.is_main_process and step % loop.save_every == 0:
            _save(checkpoints, step, accelerator.unwrap_model(module), optimiser, ema)
            saved = step
    progress.close()
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if saved != step:
            _save(checkpoints, step, accelerator.unwrap_model(module), optimiser, ema)
        trained = accelerator.unwrap_model(module)
        kept = {k: v.clone() for k, v in trained.state_dict().items()}
        trained.load_state_dict(ema.state_dict())
        objective.export(output)
        trained.load_state_dict(kept)
    return output


def _time_is_up(accelerator: Accelerator, stop_at: float | None) -> bool:
    """Decided by the main process for all, or they would wait for each other for ever."""
    if stop_at is None:
        return False
    decision = [time.time() >= stop_at]
    if accelerator.num_processes > 1:
        broadcast_object_list(decision)
    return decision[0]


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    found = [p for p in folder.glob("step-*") if p.suffix != ".partial" and (p / "state.json").is_file()]
    return max(found, key=lambda p: int(p.name.split("-")[1]), default=None)


def _save(folder: Path, step: int, module: nn.Module, optimiser: Any, ema: Ema) -> None:
    """Written beside its place and renamed, so that a checkpoint is whole or absent; the two newest are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"step-{step}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, partial / "weights.safetensors")
    save_file({k: v.contiguous() for k, v in ema.state_dict().items()}, partial / "ema.safetensors")
    torch.save(optimiser.state_dict(), partial / "optimiser.pt")
    (partial / "state.json").write_text(json.dumps({"step": step}))
    final = folder / f"step-{step}"
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
    whole = sorted(folder.glob("step-*[0-9]"), key=lambda p: int(p.name.split("-")[1]))
    for old in whole[:-2]:
        shutil.rmtree(old)


def _restore(folder: Path, module: nn.Module, optimiser: Any, ema: Ema) -> int:
    path = latest_checkpoint(folder)
    if path is None:
        return 0
    module.load_state_dict(load_file(path / "weights.safetensors"))
    ema.load_state_dict(load_file(path / "ema.safetensors"))
    optimiser.load_state_dict(torch.load(path / "optimiser.pt", weights_only=True, map_location="cpu"))
    return int(json.loads((path / "state.json").read_text())["step"])
