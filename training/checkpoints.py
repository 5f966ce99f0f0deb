"""Checkpoints of a run: all that a bit-equal continuation needs, each whole or absent, two of them kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from idpersona.errors import BadInput, CheckpointError
from idpersona.training.ema import Ema


def checkpoint_folder(output: str | Path) -> Path:
    """Where the run that writes to ``output`` keeps its checkpoints."""
    return Path(output) / "checkpoints"


def refuse_existing(output: str | Path) -> None:
    """Raises BadInput when ``output`` holds a run already."""
    folder = checkpoint_folder(output)
    if latest_checkpoint(folder):
        raise BadInput(
            f"{folder} holds a run already: add --resume to go on with it, or choose another --output"
        )


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    found = [p for p in folder.glob("step-*") if p.suffix != ".partial" and (p / "state.json").is_file()]
    return max(found, key=lambda p: int(p.name.split("-")[1]), default=None)


def save(folder: Path, step: int, module: nn.Module, optimiser: Any, ema: Ema) -> None:
    """Written beside its place and renamed, so that a checkpoint is whole or absent."""
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


def restore(folder: Path, module: nn.Module, optimiser: Any, ema: Ema) -> int:
    """Load the newest checkpoint and return its step; 0 when there is none yet.

    Raises CheckpointError when it is of another model than the recipe's.
    """
    path = latest_checkpoint(folder)
    if path is None:
        return 0
    try:
        module.load_state_dict(load_file(path / "weights.safetensors"))
        ema.load_state_dict(load_file(path / "ema.safetensors"))
        optimiser.load_state_dict(torch.load(path / "optimiser.pt", weights_only=True, map_location="cpu"))
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path} does not fit the recipe's model: {reason}") from error
    return int(json.loads((path / "state.json").read_text())["step"])
