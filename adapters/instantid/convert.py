"""Published InstantID checkpoints, in and out.

| layout | projector, cross-attention | IdentityNet |
| --- | --- | --- |
| InstantX (SDXL) | ``ip-adapter.bin`` {image_proj, ip_adapter} | ``ControlNetModel/`` |
| MFaceTech training | ``pytorch_model.bin`` with the same two | ``controlnet/`` |
| SD1.5 community | ``image_proj.ckpt``, ``ip-state.ckpt`` {…, state_dict} | ``controlnet.ckpt`` |

The same two parts are also found as one safetensors file with the prefixes ``image_proj.`` and
``ip_adapter.``, and a file may hold one part only. Sizes are inferred from the tensors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from torch import Tensor

from idpersona.adapters.instantid.controlnet_sizes import controlnet_config
from idpersona.adapters.instantid.modules import IdentityCrossAttention, InstantIDProjector
from idpersona.adapters.layer_numbers import numbered, sdxl_layers
from idpersona.checkpoint import (
    State,
    build,
    fill,
    load_component,
    only_tensors,
    portable,
    read_tensors,
)
from idpersona.errors import CheckpointError

_PARTS = ("image_proj", "ip_adapter")
_KINDS = ("to_k_ip.weight", "to_v_ip.weight")
_NUMBERED = re.compile(rf"(\d+)\.({'|'.join(map(re.escape, _KINDS))})")
_NAMED = re.compile(rf"(.+?)(?:\.processor)?\.({'|'.join(map(re.escape, _KINDS))})")
FILE = "ip-adapter.bin"
"""The file that is written, and the first that is looked for."""
_ADAPTER_FILES = (
    FILE,
    "pytorch_model.bin",
    "ip-adapter.safetensors",
    "adapter_instant_id_sdxl.bin",
)
_NET_FOLDERS = ("ControlNetModel", "controlnet")


@dataclass(frozen=True)
class Published:
    """What was found in a published checkpoint; a part that it does not hold is None."""

    projector: InstantIDProjector | None = None
    cross_attention: IdentityCrossAttention | None = None
    identitynet: ControlNetModel | None = None


DIM_HEAD = 64
"""Width of a projector's heads in all published checkpoints, whose tensors do not show it."""


def split_parts(content: Mapping[str, Any], where: str) -> tuple[State | None, State | None]:
    """(projector's tensors, cross-attention's tensors) of one file's content.

    Raises:
        CheckpointError: neither part is in it.
    """
    if isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    image_proj, ip_adapter = (content.get(name) for name in _PARTS)
    if image_proj is None and ip_adapter is None:
        flat = only_tensors(content, where)
        image_proj, ip_adapter = (
            {k.removeprefix(f"{name}."): v for k, v in flat.items() if k.startswith(f"{name}.")}
            for name in _PARTS
        )
        if not image_proj and not ip_adapter:
            if "latents" in flat:
                image_proj = flat
            elif any("_ip.weight" in key for key in flat):
                ip_adapter = flat
            else:
                raise CheckpointError.from_keys(where, _PARTS, flat)
    parts = [
        None if part is None or part == {} else only_tensors(part, f"{name} in {where}")
        for name, part in zip(_PARTS, (image_proj, ip_adapter), strict=True)
    ]
    return parts[0], parts[1]


def projector_from(
    state: Mapping[str, Tensor], where: str, *, dim_head: int = DIM_HEAD
) -> InstantIDProjector:
    """The projector whose tensors these are; ``dim_head`` is the one size they do not show.

    Raises:
        CheckpointError: keys or shapes do not fit; the first three are named.
    """
    needed = ("latents", "proj_in.weight", "proj_out.weight", "layers.0.0.to_q.weight", "layers.0.1.1.weight")
    missing = [key for key in needed if key not in state]
    if missing:
        raise CheckpointError.from_keys(where, missing)
    flat = [key for key in needed if state[key].ndim != (3 if key == "latents" else 2)]
    if flat:
        raise CheckpointError.from_keys(where, misshapen=[f"{k} {list(state[k].shape)}" for k in flat])
    dim, embedding_dim = state["proj_in.weight"].shape
    inner, hidden = state["layers.0.0.to_q.weight"].shape[0], state["layers.0.1.1.weight"].shape[0]
    if dim_head < 1 or inner % dim_head:
        raise CheckpointError(
            f"{where}: {inner} channels of the projector's attention are no multiple of dim_head {dim_head}, "
            "which its tensors do not show: give the right dim_head"
        )
    sizes = {
        "embedding_dim": embedding_dim,
        "dim": dim,
        "depth": len({key.split(".")[1] for key in state if key.startswith("layers.")}),
        "dim_head": dim_head,
        "heads": inner // dim_head,
        "num_tokens": state["latents"].shape[1],
        "output_dim": state["proj_out.weight"].shape[0],
        "ff_mult": max(hidden // dim, 1),
    }
    return fill(build(InstantIDProjector, sizes, where), state, where)


def cross_attention_from(
    state: Mapping[str, Tensor], where: str, *, layers: Iterable[str] | None = None
) -> IdentityCrossAttention:
    """The cross-attention whose tensors these are, numbered or named.

    Args:
        layers: names of the base's cross-attention layers, for numbered tensors of a base that is not SDXL.

    Raises:
        CheckpointError: a key is of neither kind, a number stands for no layer, or a layer's pair is broken.
    """
    names = numbered(layers) if layers is not None else sdxl_layers()
    renamed: dict[str, Tensor] = {}
    strange: list[str] = []
    for key, value in state.items():
        if match := _NUMBERED.fullmatch(key):
            name = names.get(int(match[1]))
        else:
            match = _NAMED.fullmatch(key)
            name = match[1] if match else None
        if match is None or name is None or value.ndim != 2:
            strange.append(key)
        else:
            renamed[f"{name}.{match[2]}"] = value
    if strange:
        raise CheckpointError.from_keys(where, extra=strange)
    present = {key.rsplit(".", 2)[0] for key in renamed}
    pairs = [f"{name}.{kind}" for name in present for kind in _KINDS]
    missing = sorted(key for key in pairs if key not in renamed)
    if layers is not None or all(_NUMBERED.fullmatch(key) for key in state):
        wanted = list(layers) if layers is not None else list(sdxl_layers().values())
        missing += [f"{name}.{_KINDS[0]}" for name in wanted if name not in present]
        strange = [f"{name}.{_KINDS[0]}" for name in sorted(present.difference(wanted))]
    if missing or strange:
        raise CheckpointError.from_keys(where, missing, strange)
    order = numbered(present).values()
    geometry = {name: tuple(renamed[f"{name}.{_KINDS[0]}"].shape) for name in order}
    return fill(build(IdentityCrossAttention, {"geometry": geometry}, where), renamed, where)


def read_published(
    path: str | os.PathLike[str], *, layers: Iterable[str] | None = None, dim_head: int | None = None
) -> Published:
    """Read a published checkpoint: one file (either or both parts) or a folder of a layout named above.

    Args:
        layers: names of the base's cross-attention layers; None for SDXL and for files that name theirs.
        dim_head: of the projector; None takes what the file says (``write_published`` records it), else 64.

    Raises:
        CheckpointError: nothing known is in it, or keys or shapes do not fit.
    """
    path = Path(path)
    layers = None if layers is None else list(layers)
    files = _adapter_files(path) if path.is_dir() else [path]
    projector = cross_attention = None
    for file in files:
        content = read_tensors(file)
        image_proj, ip_adapter = split_parts(content, str(file))
        if image_proj is not None:
            heads = _recorded_dim_head(content, str(file)) if dim_head is None else dim_head
            projector = projector_from(image_proj, f"{file} (projector)", dim_head=heads)
        if ip_adapter is not None:
            cross_attention = cross_attention_from(ip_adapter, f"{file} (cross-attention)", layers=layers)
    return Published(projector, cross_attention, _read_net(path) if path.is_dir() else None)


def _recorded_dim_head(content: Mapping[str, Any], where: str) -> int:
    value = content.get("dim_head", DIM_HEAD)
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta:
        value = value.item()
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"{where}: dim_head must be a whole number")
    return value


def _adapter_files(folder: Path) -> list[Path]:
    single = [folder / name for name in _ADAPTER_FILES if (folder / name).is_file()]
    files = single[:1] or [f for f in (folder / "image_proj.ckpt", folder / "ip-state.ckpt") if f.is_file()]
    if not files:
        raise CheckpointError(
            f"{folder} holds no InstantID: there is no {', '.join(_ADAPTER_FILES)}, image_proj.ckpt or "
            "ip-state.ckpt in it"
        )
    return files


def _read_net(folder: Path) -> ControlNetModel | None:
    for name in _NET_FOLDERS:
        if (folder / name / "config.json").is_file():
            return load_component(ControlNetModel, folder / name)
    file = folder / "controlnet.ckpt"
    if not file.is_file():
        return None
    content = read_tensors(file)
    state = only_tensors(content.get("state_dict", content), str(file))
    return fill(build(ControlNetModel, controlnet_config(state, str(file)), str(file)), state, str(file))


def write_published(parts: Published, folder: str | os.PathLike[str]) -> None:
    """Write ``ip-adapter.bin`` and ``ControlNetModel/`` for tools that know the published layout only.

    The first is a pickle of tensors, as that layout wants it; our own layout is safetensors. A ``dim_head``
    that is not the published 64 is recorded beside them; other tools do not read it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {}
    if parts.projector is not None:
        content[_PARTS[0]] = portable(parts.projector)
        if parts.projector.config["dim_head"] != DIM_HEAD:
            content["dim_head"] = torch.tensor(parts.projector.config["dim_head"])
    if parts.cross_attention is not None:
        state = portable(parts.cross_attention)
        content[_PARTS[1]] = {
            f"{number}.{kind}": state[f"{name}.{kind}"]
            for number, name in numbered(parts.cross_attention.layers).items()
            for kind in _KINDS
        }
    torch.save(content, folder / FILE)
    if parts.identitynet is not None:
        parts.identitynet.save_pretrained(folder / _NET_FOLDERS[0])
