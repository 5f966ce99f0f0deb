"""Several processes as one, by accelerate: each computes its share of a batch, and all take the same step.

A step of an objective is one forward pass of one module, whatever parts of its model the objective calls, and
how often. That is what DistributedDataParallel, FSDP 2 and DeepSpeed wrap.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, DynamoBackend
from torch import Tensor, nn

from idpersona.errors import BadInput, CheckpointError
from idpersona.training.config import LoopConfig, Recipe
from idpersona.training.keyed import StepKey
from idpersona.training.optimisers import Optimisers

Loss = Callable[[StepKey], tuple[Tensor, Mapping[str, float]]]


class Step(nn.Module):
    """An objective's loss as a module whose parameters are what is trained.

    Args:
        loss: the objective's.
        trained: its module.
        autocast: torch.bfloat16 for DeepSpeed, which is told nothing of precision; None where accelerate
            sees to it.
    """

    def __init__(self, loss: Loss, trained: nn.Module, autocast: torch.dtype | None = None):
        super().__init__()
        self.trained = trained
        self._loss, self._autocast = loss, autocast

    def forward(self, key: StepKey) -> tuple[Tensor, dict[str, float]]:
        """Loss of the samples of ``key``, and figures."""
        device = next(self.trained.parameters()).device.type
        with torch.autocast(device, dtype=self._autocast) if self._autocast else nullcontext():
            loss, figures = self._loss(key)
        return loss, dict(figures)


def prepare(
    accelerator: Accelerator, recipe: Recipe, loss: Loss, trained: nn.Module, optimiser: Optimisers
) -> nn.Module:
    """The step as accelerate's configuration wants it, a module to be called with a StepKey.

    The optimisers in ``optimiser`` are prepared in their place. :func:`check` comes before.
    """
    kind, loop = accelerator.distributed_type, recipe.loop
    state: Any = accelerator.state
    autocast = None
    if kind == DistributedType.FSDP:
        # Every process has read the weights already.
        state.fsdp_plugin.cpu_ram_efficient_loading = False
    if kind == DistributedType.DEEPSPEED:
        autocast = _set_up_deepspeed(accelerator, recipe)
    step = Step(loss, trained, autocast)
    step, *prepared = accelerator.prepare(step, *optimiser.each)
    optimiser.each = list(prepared)
    if loop.compile:
        for network in _networks(trained):
            network.compile(backend=loop.compile)
    return step


def check(accelerator: Accelerator, recipe: Recipe, *, writes_only: bool, looks: bool) -> None:
    """Raise BadInput where the recipe or accelerate's configuration asks for what cannot be done together.

    Args:
        writes_only: the objective runs nothing of its weights when it saves and exports.
        looks: it looks at its own pictures to say when the run ends.
    """
    kind, loop = accelerator.distributed_type, recipe.loop
    state: Any = accelerator.state
    if state.dynamo_plugin.backend != DynamoBackend.NO:
        raise BadInput("accelerate's dynamo would compile the whole step: name the backend in loop.compile")
    if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise BadInput("FSDP 1 is not supported: set fsdp_version: 2 in accelerate's configuration")
    if kind == DistributedType.FSDP:
        if not writes_only:
            raise BadInput(
                "FSDP: the weights of this objective cannot be sharded, it runs them when it exports"
            )
        if looks or recipe.samples:
            what = "stop_on" if looks else "samples"
            raise BadInput(
                f"{what}: pictures are drawn by one process, and FSDP leaves it a part of the weights: leave "
                "it out"
            )
    if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        if recipe.optimiser.muon:
            raise BadInput(
                "optimiser.muon moves whole matrices, which FSDP and DeepSpeed cut: leave it empty"
            )
        if recipe.optimiser.eight_bit:
            raise BadInput(
                "optimiser.eight_bit keeps states that FSDP and DeepSpeed cannot cut: leave it out"
            )
    if kind == DistributedType.DEEPSPEED:
        _check_deepspeed(state.deepspeed_plugin.deepspeed_config, loop)
    if loop.compile:
        known = torch.compiler.list_backends(exclude_tags=())
        if loop.compile not in known:
            raise BadInput(f"loop.compile: there is no backend {loop.compile}, only {', '.join(known)}")


def _networks(module: nn.Module) -> Iterator[nn.Module]:
    """Itself, or the networks inside where it only holds others, and is never called."""
    if type(module).forward is not nn.Module.forward:
        yield module
        return
    for part in module.children():
        yield from _networks(part)


def _check_deepspeed(config: Mapping[str, Any], loop: LoopConfig) -> None:
    if config.get("zero_optimization", {}).get("stage", 0) == 3:
        raise BadInput("DeepSpeed's ZeRO 3 is not supported: take ZeRO 2, or FSDP 2 to cut weights as well")
    if loop.precision == "fp16":
        raise BadInput("loop.precision fp16 is not supported with DeepSpeed: take bf16")


def _set_up_deepspeed(accelerator: Accelerator, recipe: Recipe) -> torch.dtype | None:
    """Tell DeepSpeed what it wants to know of the recipe, and return the type of autocast."""
    state: Any = accelerator.state
    config, loop = state.deepspeed_plugin.deepspeed_config, recipe.loop
    config["train_micro_batch_size_per_gpu"] = loop.batch_size // accelerator.num_processes // loop.accumulate
    config["gradient_clipping"] = recipe.optimiser.clip
    config["zero_allow_untested_optimizer"] = True
    return torch.bfloat16 if loop.precision == "bf16" else None


class DeepSpeedStates:
    """What DeepSpeed keeps of the optimiser, in files of its own beside the checkpoints.

    Every process writes its part before the checkpoint of the same step gets its name: a checkpoint that is
    whole has them all.
    """

    def __init__(self, engine: Any, folder: Path):
        self.engine, self.folder = engine, folder / "deepspeed"

    @classmethod
    def of(cls, accelerator: Accelerator, folder: Path) -> DeepSpeedStates | None:
        """None where DeepSpeed has no part in the run."""
        wrapped = getattr(accelerator, "deepspeed_engine_wrapped", None)
        return None if wrapped is None else cls(wrapped.engine, folder)

    def save(self, step: int) -> None:
        """Write those of ``step``, and let go of all but the two before it."""
        self.engine.save_checkpoint(str(self.folder), tag=f"step-{step}")
        if self.engine.global_rank == 0:
            whole = sorted(self.folder.glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
            for old in whole[:-3]:
                shutil.rmtree(old)

    def load(self, step: int) -> None:
        """Go on from those of ``step``; raises CheckpointError where they are not there."""
        found, _ = self.engine.load_checkpoint(
            str(self.folder), tag=f"step-{step}", load_module_strict=False, load_lr_scheduler_states=False
        )
        if found is None:
            raise CheckpointError(f"{self.folder} holds nothing of step {step}: it was not made by DeepSpeed")
