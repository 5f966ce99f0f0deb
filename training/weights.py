"""Weights that a training starts from, and how it holds and writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from idpersona.errors import MissingWeights

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def require_folder(path: str | Path, what: str, recipe: str) -> Path:
    """``path`` as a Path if saved weights lie there; asked before the long work begins.

    Raises MissingWeights naming ``what`` is missing and the built-in ``recipe`` that makes it.
    """
    folder = Path(path)
    if not any((folder / name).is_file() for name in ("config.json", "model_index.json", "adapter.json")):
        raise MissingWeights(f"no {what} in {folder.absolute()}: train it first, `idpersona train {recipe}`")
    return folder


def channels_last(module: ModuleT) -> ModuleT:
    """The module itself, its convolutions laid out as they run fastest on CPUs and tensor cores."""
    anything: Any = module
    return anything.to(memory_format=torch.channels_last)


def mend_vae_config(folder: Path) -> None:
    """Take the key out of a saved AutoencoderTiny that diffusers writes and warns about at every load."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("block_out_channels", None)
    path.write_text(json.dumps(config, indent=2) + "\n")
