"""Published IP-Adapter files, in and out.

``{image_proj, ip_adapter}`` as a pickle, or one safetensors file with these prefixes, which is the one that
is written. Attention layers are numbered as in InstantID's files; FaceID's files hold low-rank changes of
*all* attention layers beside them (even numbers: self-attention).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from idpersona.adapters.ip_adapter.modules import (
    PROJECTIONS,
    IPAdapterCrossAttention,
    IPAdapterProjector,
    LowRank,
)
from idpersona.adapters.layer_numbers import place_of
from idpersona.checkpoint import State, build, fill, only_tensors, portable, read_tensors
from idpersona.errors import BadInput, CheckpointError, first_line

_KINDS = ("to_k_ip", "to_v_ip")
_KEY = re.compile(rf"(\d+)\.(?:({'|'.join(_KINDS)})|({'|'.join(PROJECTIONS)})_lora\.(down|up))\.weight")
_PARTS = ("image_proj", "ip_adapter")
WEIGHT_FILES = ("*.safetensors", "*.bin")
DIM_HEAD = 64
"""Width of a resampler's heads in all published files, whose tensors do not show it."""


@dataclass(frozen=True)
class Published:
    """What was found in a file; ``lora`` is None except for FaceID."""

    projector: IPAdapterProjector
    cross_attention: IPAdapterCrossAttention
    lora: LowRank | None


def kind_of(state: Mapping[str, Tensor]) -> str:
    """Which kind a file's ``image_proj`` is of, by its keys."""
    if "proj.weight" in state:
        return "base"
    if "proj.3.weight" in state:
        return "full"
    if "perceiver_resampler.proj_in.weight" in state:
        return "faceid-plus"
    return "faceid" if "norm.weight" in state else "plus"


def _modules(kind: str, depth: int) -> dict[str, tuple[str, ...]]:
    """Published names of modules -> those of diffusers' class, where they differ.

    Where there are two, the published tensor is both, one below the other.
    """
    if kind == "base":
        return {"proj": ("image_embeds",)}
    if kind in ("full", "faceid"):
        ends = {"proj.0": ("ff.net.0.proj",), "proj.2": ("ff.net.2",)}
        return ends | ({"proj.3": ("norm",)} if kind == "full" else {})
    plus = kind == "plus"
    prefix = "" if plus else "perceiver_resampler."
    names: dict[str, tuple[str, ...]] = {
        f"{prefix}{name}": (name,) for name in ("proj_in", "proj_out", "norm_out")
    }
    for layer in (f"layers.{n}" for n in range(depth)):
        names |= {
            f"{prefix}{layer}.{published}": tuple(f"{layer}.{own}" for own in owns)
            for published, owns in _LAYER.items()
        }
    return names if plus else names | {"proj.0": ("proj.net.0.proj",), "proj.2": ("proj.net.2",)}


_LAYER = {
    "0.norm1": ("ln0",),
    "0.norm2": ("ln1",),
    "0.to_q": ("attn.to_q",),
    "0.to_kv": ("attn.to_k", "attn.to_v"),
    "0.to_out": ("attn.to_out.0",),
    "1.0": ("ff.0",),
    "1.1": ("ff.1.net.0.proj",),
    "1.3": ("ff.1.net.2",),
}
"""Modules of a resampler's layer, as in :func:`_modules`."""


def _depth(state: Mapping[str, Tensor]) -> int:
    return len({found[1] for key in state if (found := re.search(r"(?:^|\.)layers\.(\d+)\.", key))})


def _from_published(kind: str, state: Mapping[str, Tensor]) -> State:
    names, own = _modules(kind, _depth(state)), {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        if module not in names:
            own[key] = value.clone()
            continue
        parts = value.chunk(len(names[module])) if len(names[module]) > 1 else [value]
        own |= {f"{name}.{leaf}": part.clone() for name, part in zip(names[module], parts, strict=True)}
    return own


def _to_published(kind: str, own: Mapping[str, Tensor]) -> State:
    state = dict(own)
    for module, names in _modules(kind, _depth(own)).items():
        for leaf in ("weight", "bias"):
            parts = [state.pop(f"{name}.{leaf}") for name in names if f"{name}.{leaf}" in own]
            if parts:
                state[f"{module}.{leaf}"] = torch.cat(parts)
    return state


def projector_from(state: Mapping[str, Tensor], where: str) -> IPAdapterProjector:
    """The projector whose published tensors these are.

    Raises:
        CheckpointError: keys or shapes are of no known kind.
    """
    kind = kind_of(state)
    try:
        own = _from_published(kind, state)
        sizes = _sizes(kind, own)
    except (KeyError, RuntimeError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{where} is no IP-Adapter projection of kind '{kind}': {first_line(error)}"
        ) from error
    named = {f"projection.{key}": value for key, value in own.items()}
    return fill(build(IPAdapterProjector, {"kind": kind, "sizes": sizes}, where), named, where)


def _sizes(kind: str, own: Mapping[str, Tensor]) -> dict[str, int]:
    """Keyword arguments of diffusers' class, whose tensors these are."""
    if kind in ("base", "full", "faceid"):
        first = own["image_embeds.weight" if kind == "base" else "ff.net.0.proj.weight"]
        outer, wide = first.shape
        width = own["norm.weight"].shape[0]
        sizes = {"image_embed_dim": wide, "cross_attention_dim": width}
        if kind == "base":
            sizes["num_image_text_embeds"] = outer // width
        elif kind == "faceid":
            sizes |= {"mult": outer // wide, "num_tokens": own["ff.net.2.weight"].shape[0] // width}
        return sizes
    inner, wide = own["proj_in.weight"].shape
    sizes = {
        "output_dims": own["proj_out.weight"].shape[0],
        "depth": _depth(own),
        "heads": own["layers.0.attn.to_q.weight"].shape[0] // DIM_HEAD,
        "dim_head": DIM_HEAD,
    }
    if kind == "plus":
        return sizes | {"embed_dims": wide, "hidden_dims": inner, "num_queries": own["latents"].shape[1]}
    return sizes | {
        "embed_dims": inner,
        "hidden_dims": wide,
        "id_embeddings_dim": own["proj.net.0.proj.weight"].shape[1],
        "num_tokens": own["proj.net.2.weight"].shape[0] // inner,
    }


def _numbers(layers: Iterable[str]) -> dict[int, str]:
    """{number in a file: name} for attention layers: even are self-attention, odd cross-attention."""
    ordered = sorted(layers, key=place_of)
    names = {2 * n: name for n, name in enumerate(name for name in ordered if name.endswith("attn1"))}
    return names | {
        2 * n + 1: name for n, name in enumerate(name for name in ordered if not name.endswith("attn1"))
    }


def attention_from(
    state: Mapping[str, Tensor], where: str, layers: Iterable[str]
) -> tuple[IPAdapterCrossAttention, LowRank | None]:
    """Keys, values and low-rank changes of a file's ``ip_adapter``.

    Args:
        layers: *all* attention layers of the base, self-attention too.

    Raises:
        CheckpointError: a key is of another kind, a number stands for no layer, or a part is missing.
    """
    names = _numbers(layers)
    keys: dict[str, Tensor] = {}
    low: dict[str, dict[str, dict[str, Tensor]]] = {}
    strange = []
    for key, value in state.items():
        match = _KEY.fullmatch(key)
        name = names.get(int(match[1])) if match else None
        if match is None or name is None or value.ndim != 2:
            strange.append(key)
        elif match[2]:
            keys[f"{name}.{match[2]}.weight"] = value
        else:
            low.setdefault(name, {}).setdefault(match[3], {})[match[4]] = value
    wanted = {
        f"{number}.{kind}.weight": f"{name}.{kind}.weight"
        for number, name in names.items()
        if number % 2
        for kind in _KINDS
    }
    missing = [published for published, own in wanted.items() if own not in keys]
    missing += [
        f"{name}.{projection}_lora"
        for name, projections in low.items()
        for projection in PROJECTIONS
        if set(projections.get(projection, ())) != {"down", "up"}
    ]
    if strange or missing:
        raise CheckpointError.from_keys(where, missing, strange)
    crossing = [name for number, name in sorted(names.items()) if number % 2]
    geometry = {name: tuple(keys[f"{name}.to_k_ip.weight"].shape) for name in crossing}
    attention = fill(build(IPAdapterCrossAttention, {"geometry": geometry}, where), keys, where)
    return attention, _low_rank(low, where) if low else None


def _low_rank(low: Mapping[str, Mapping[str, Mapping[str, Tensor]]], where: str) -> LowRank:
    geometry = {
        name: {
            projection: (pair["down"].shape[1], pair["up"].shape[0], pair["down"].shape[0])
            for projection, pair in projections.items()
        }
        for name, projections in low.items()
    }
    state = {
        f"{name}.{projection}.{half}.weight": value
        for name, projections in low.items()
        for projection, pair in projections.items()
        for half, value in pair.items()
    }
    return fill(build(LowRank, {"geometry": geometry}, where), state, where)


def published_file(path: str | os.PathLike[str]) -> Path:
    """The file itself, or the only one of weights in a folder; CheckpointError when there is not one."""
    path = Path(path)
    if not path.is_dir():
        return path
    files = sorted(file for pattern in WEIGHT_FILES for file in path.glob(pattern))
    if len(files) != 1:
        found = ", ".join(file.name for file in files[:4]) or "no file"
        raise CheckpointError(f"{path} holds {found}: give the one IP-Adapter file that is meant")
    return files[0]


def read_published(path: str | os.PathLike[str], layers: Iterable[str]) -> Published:
    """Read a published file, or the only one in a folder; ``layers`` as for :func:`attention_from`.

    Raises:
        CheckpointError: nothing known is in it, several files are in the folder, or something does not fit.
    """
    path = published_file(path)
    content = read_tensors(path)
    parts = []
    for name in _PARTS:
        part = content.get(name)
        if part is None:
            flat = {k[len(name) + 1 :]: v for k, v in content.items() if k.startswith(f"{name}.")}
            part = flat or None
        if not part:
            raise CheckpointError.from_keys(str(path), [name], list(content))
        parts.append(only_tensors(part, f"{name} in {path}"))
    projector = projector_from(parts[0], f"{path} (image_proj)")
    attention, low = attention_from(parts[1], f"{path} (ip_adapter)", layers)
    return Published(projector, attention, low)


def write_published(parts: Published, file: Path) -> None:
    """Write one safetensors file, which ``load_ip_adapter`` of diffusers reads too.

    Raises:
        BadInput: the layout does not show a size, and readers would take another one.
    """
    kind, projection = parts.projector.config["kind"], parts.projector.projection
    own = portable(projection)
    if kind in ("plus", "faceid-plus"):
        heads = projection.layers[0].attn.heads
        if heads * DIM_HEAD != own["layers.0.attn.to_q.weight"].shape[0]:
            raise BadInput(
                f"IP-Adapter's layout shows no width of heads, and its readers take {DIM_HEAD}: this "
                f"projector's {heads} heads are {own['layers.0.attn.to_q.weight'].shape[0] // heads} wide"
            )
    content = {_PARTS[0]: _to_published(kind, own), _PARTS[1]: _layers_published(parts)}
    flat = {f"{part}.{key}": value for part, state in content.items() for key, value in state.items()}
    save_file(flat, file, metadata={"format": "pt"})


def _layers_published(parts: Published) -> State:
    crossings = parts.cross_attention.layers
    # Every cross-attention layer stands beside one of self-attention.
    selves = [f"{name.removesuffix('attn2')}attn1" for name in crossings]
    numbers = {name: number for number, name in _numbers([*selves, *crossings]).items()}
    state = portable(parts.cross_attention)
    layers = {
        f"{numbers[name]}.{kind}.weight": state[f"{name}.{kind}.weight"]
        for name in crossings
        for kind in _KINDS
    }
    if parts.lora is None:
        return layers
    unknown = [name for name in parts.lora.layers if name not in numbers]
    if unknown:
        raise BadInput(f"IP-Adapter's layout has no number for {', '.join(unknown[:3])} of this LoRA")
    low = portable(parts.lora)
    return layers | {
        f"{numbers[name]}.{projection}_lora.{half}.weight": low[f"{name}.{projection}.{half}.weight"]
        for name in parts.lora.layers
        for projection in PROJECTIONS
        for half in ("down", "up")
    }
