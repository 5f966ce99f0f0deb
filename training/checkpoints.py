"""Checkpoints of a run: all that a bit-equal continuation needs, each whole or absent, two of them kept."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from idpersona.errors import BadInput, CheckpointError, OutputError, first_line
from idpersona.training.config import Recipe
from idpersona.training.ema import Ema
from idpersona.training.sharding import parts_of


def checkpoint_folder(output: str | Path) -> Path:
    """Where the run that writes to ``output`` keeps its checkpoints."""
    return Path(output) / "checkpoints"


def check_folder(output: str | Path) -> None:
    """Raises BadInput when ``output`` cannot be a folder to write to."""
    place = Path(output).absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise BadInput(
            f"{output} cannot be written to: {place} is no writable folder; choose another --output"
        )


def refuse_existing(output: str | Path) -> None:
    """Raises BadInput when ``output`` holds a run already, or what is no run and would be overwritten."""
    folder = checkpoint_folder(output)
    if latest_checkpoint(folder):
        raise BadInput(
            f"{folder} holds a run already: add --resume to go on with it, or choose another --output"
        )
    place = Path(output)
    if place.is_dir() and any(place.iterdir()) and not (place / "recipe.json").is_file():
        raise BadInput(f"{output} is not empty and holds no run: choose another --output")


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    found = [p for p in folder.glob("step-*") if p.suffix != ".partial" and (p / "state.json").is_file()]
    return max(found, key=lambda p: int(p.name.split("-")[1]), default=None)


@dataclass(frozen=True)
class State:
    """What a checkpoint holds, with whole tensors.

    Attributes:
        weights, average: entries of the trained module, and their averages.
        optimiser: states of the optimisers; None where DeepSpeed keeps them.
        scaler: that of fp16, where there is one.
    """

    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimiser: list[dict[str, Any]] | None
    scaler: dict[str, Any] | None


def save(
    folder: Path,
    step: int,
    recipe: Recipe,
    state: State,
    *,
    usable: Callable[[Path], None] = lambda _: None,
) -> Path:
    """Written beside its place and renamed, so that a checkpoint is whole or absent; returns its folder.

    Args:
        recipe: kept for whoever asks later how the weights were made; a run may be resumed with another.
        usable: writes into the folder what others load without the recipe; it may change what ``state`` is
            of, which is written by then.

    Raises:
        OutputError: it cannot be written (a full disk); nothing is left of it, and the last one is named.
    """
    partial = folder / f"step-{step}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _write(partial, step, recipe, state)
        usable(partial)
        final = folder / f"step-{step}"
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    except (
        OSError,
        RuntimeError,
        SafetensorError,
        OutputError,
    ) as error:  # torch and safetensors have their own
        shutil.rmtree(partial, ignore_errors=True)
        last = latest_checkpoint(folder)
        raise OutputError(
            f"cannot write the checkpoint of step {step}: {first_line(error)}; the last good one is {last}: "
            "make room, and go on with --resume"
        ) from error
    whole = sorted(folder.glob("step-*[0-9]"), key=lambda p: int(p.name.split("-")[1]))
    for old in whole[:-2]:
        shutil.rmtree(old)
    return final


def _write(partial: Path, step: int, recipe: Recipe, state: State) -> None:
    save_file({k: v.contiguous() for k, v in state.weights.items()}, partial / "weights.safetensors")
    save_file({k: v.contiguous() for k, v in state.average.items()}, partial / "ema.safetensors")
    if state.optimiser is not None:
        torch.save(state.optimiser, partial / "optimiser.pt")
    about = {"step": step, "recipe": recipe.model_dump(mode="json"), "scaler": state.scaler}
    (partial / "state.json").write_text(json.dumps(about, indent=2))


def restore(
    folder: Path,
    recipe: Recipe,
    module: nn.Module,
    optimiser: Any,
    ema: Ema,
    scaler: Any = None,
    *,
    tell: bool = True,
) -> int:
    """Load the newest checkpoint and return its step; 0 when there is none yet.

    Args:
        optimiser: None where DeepSpeed keeps its state.
        scaler: that of fp16, where there is one.
        tell: print what the recipe says otherwise than the run did so far.

    Raises:
        BadInput: the seed or the batch size is another one, so that samples would repeat or be left out.
        CheckpointError: the checkpoint is of another model than the recipe's.
    """
    path = latest_checkpoint(folder)
    if path is None:
        return 0
    state = json.loads((path / "state.json").read_text())
    if "recipe" in state:
        _compare(path, state["recipe"], recipe, tell=tell)
    moments = path / "optimiser.pt"
    with _fitting(path):
        module.load_state_dict(parts_of(load_file(path / "weights.safetensors"), module.state_dict()))
        ema.load_state_dict(load_file(path / "ema.safetensors"))
        if optimiser is not None:
            if not moments.is_file():
                raise CheckpointError(f"{path} was made with DeepSpeed: go on with it, or begin anew")
            optimiser.load_state_dict(torch.load(moments, weights_only=True, map_location="cpu"))
        if scaler is not None and state.get("scaler"):
            scaler.load_state_dict(state["scaler"])
    return int(state["step"])


def load_average(checkpoint: Path, module: nn.Module) -> None:
    """Put a checkpoint's averaged weights into ``module``; CheckpointError when it is of another model."""
    with _fitting(checkpoint):
        module.load_state_dict(load_file(checkpoint / "ema.safetensors"))


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} does not fit the recipe's model: {reason}") from error


def _compare(path: Path, before: dict[str, Any], recipe: Recipe, *, tell: bool) -> None:
    was, now = _flat(before), _flat(recipe.model_dump(mode="json"))
    changed = [name for name in {**was, **now} if was.get(name) != now.get(name)]
    for name in ("loop.seed", "loop.batch_size"):
        if name in changed:
            raise BadInput(f"{path} was made with {name} {was.get(name)}, the recipe says {now[name]}")
    for name in changed if tell else ():
        old, new = (values.get(name, "not set") for values in (was, now))
        print(f"{recipe.name}: {name} was {old}, is {new} from here on", file=sys.stderr)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
