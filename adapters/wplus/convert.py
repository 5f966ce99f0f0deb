"""Published W+ adapter checkpoints, in and out.

| layout | content |
| --- | --- |
| ``wplus_adapter.bin`` (and ``wplus_adapter_stage1.bin``) | {w_proj, wplus_adapter}, layers by odd numbers |
| ``pytorch_model.bin`` of its training | the same tensors under ``w_proj_model.`` and ``adapter_modules.`` |
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from idpersona.adapters.layer_numbers import numbered, sd15_layers
from idpersona.adapters.wplus.modules import WPlusCrossAttention, WPlusMapper
from idpersona.checkpoint import State, build, fill, only_tensors, portable, read_tensors
from idpersona.errors import CheckpointError

FILES = ("wplus_adapter.bin", "wplus_adapter_stage1.bin", "pytorch_model.bin")
"""Files that are looked for in a folder; the first is the one that is written."""
_PARTS = ("w_proj", "wplus_adapter")
_KINDS = ("to_k_wplus.weight", "to_v_wplus.weight", "to_q_wplus.weight")
ROW_DIM = 512
"""Length of a row of StyleGAN2's W+ codes, which the tensors of the mapper do not show."""
_NUMBERED = re.compile(rf"(\d+)\.({'|'.join(map(re.escape, _KINDS))})")


def split_parts(content: Mapping[str, Any], where: str) -> tuple[State, State]:
    """(mapper's tensors, cross-attention's tensors) of a file's content.

    Raises:
        CheckpointError: one of them is not there.
    """
    mapper, attention = (content.get(name) for name in _PARTS)
    if mapper is None and attention is None:
        flat = only_tensors(content, where)
        mapper = {k[13:]: v for k, v in flat.items() if k.startswith("w_proj_model.")}
        attention = {k[16:]: v for k, v in flat.items() if k.startswith("adapter_modules.")}
        if not mapper and not attention:
            raise CheckpointError.from_keys(where, _PARTS, flat)
    missing = [name for name, part in zip(_PARTS, (mapper, attention), strict=True) if not part]
    if missing:
        raise CheckpointError.from_keys(where, missing)
    return only_tensors(mapper, f"{_PARTS[0]} in {where}"), only_tensors(attention, f"{_PARTS[1]} in {where}")


def mapper_from(state: Mapping[str, Tensor], where: str, *, dim: int = ROW_DIM) -> WPlusMapper:
    """The mapper whose tensors these are; ``dim`` is the one size that they do not show.

    Raises:
        CheckpointError: keys or shapes do not fit; the first three are named.
    """
    weights = [state.get(f"proj_{n}.weight") for n in range(len(state))]
    found = [weight for weight in weights if weight is not None]
    if not found or any(weight.ndim != 2 or weight.shape[1] % dim for weight in found):
        raise CheckpointError.from_keys(where, misshapen=[f"proj_0.weight is no multiple of {dim} wide"])
    sizes = {
        "dim": dim,
        "groups": [weight.shape[1] // dim for weight in found],
        "output_dim": found[0].shape[0],
    }
    return fill(build(WPlusMapper, sizes, where), state, where)


def cross_attention_from(
    state: Mapping[str, Tensor], where: str, *, layers: Iterable[str] | None = None
) -> WPlusCrossAttention:
    """The cross-attention whose numbered tensors these are.

    Args:
        layers: names of the base's cross-attention layers; None for SD1.5.

    Raises:
        CheckpointError: a key is of another kind, a number stands for no layer, or a part is missing.
    """
    names = sd15_layers() if layers is None else numbered(layers)
    renamed: dict[str, Tensor] = {}
    strange: list[str] = []
    for key, value in state.items():
        match = _NUMBERED.fullmatch(key)
        name = names.get(int(match[1])) if match else None
        if match is None or name is None or value.ndim != 2:
            strange.append(key)
        else:
            renamed[f"{name}.{match[2]}"] = value
    missing = [
        f"{number}.{kind}"
        for number, name in names.items()
        for kind in _KINDS
        if f"{name}.{kind}" not in renamed
    ]
    if strange or missing:
        raise CheckpointError.from_keys(where, missing, strange)
    geometry = {name: tuple(renamed[f"{name}.{_KINDS[0]}"].shape) for name in names.values()}
    return fill(build(WPlusCrossAttention, {"geometry": geometry}, where), renamed, where)


def published_file(path: str | os.PathLike[str]) -> Path:
    """The file itself, or the one of a known name in a folder. Raises CheckpointError when there is none."""
    path = Path(path)
    if not path.is_dir():
        return path
    file = next((path / name for name in FILES if (path / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{path} holds no W+ adapter: there is no {', '.join(FILES)} in it")
    return file


def read_published(
    path: str | os.PathLike[str], *, layers: Iterable[str] | None = None, dim: int = ROW_DIM
) -> tuple[WPlusMapper, WPlusCrossAttention]:
    """Read a published checkpoint: the file, or the folder that holds it.

    Raises:
        CheckpointError: nothing known is in it, or keys or shapes do not fit.
    """
    path = published_file(path)
    mapper, attention = split_parts(read_tensors(path), str(path))
    return (
        mapper_from(mapper, f"{path} (w_proj)", dim=dim),
        cross_attention_from(attention, f"{path} (wplus_adapter)", layers=layers),
    )


def write_published(
    mapper: WPlusMapper, attention: WPlusCrossAttention, file: str | os.PathLike[str]
) -> None:
    """Write ``wplus_adapter.bin`` for tools that know the published layout only (a pickle of tensors)."""
    state = portable(attention)
    layers = {
        f"{number}.{kind}": state[f"{name}.{kind}"]
        for number, name in numbered(attention.layers).items()
        for kind in _KINDS
    }
    torch.save(dict(zip(_PARTS, (portable(mapper), layers), strict=True)), file)
