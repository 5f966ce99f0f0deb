"""Published IP-Adapter files in.

``{image_proj, ip_adapter}`` as a pickle, or one safetensors file with these prefixes. Attention layers are
numbered as in InstantID's files; FaceID's files hold low-rank changes of *all* attention layers beside them
(even numbers: self-attention). The projections are converted by diffusers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.loaders.unet import UNet2DConditionLoadersMixin
from torch import Tensor

from idpersona.adapters.ip_adapter.modules import (
    KINDS,
    IPAdapterCrossAttention,
    IPAdapterProjector,
    LowRank,
)
from idpersona.adapters.layer_numbers import place_of
from idpersona.checkpoint import build, fill, only_tensors, read_tensors
from idpersona.errors import CheckpointError, first_line

_KEY = re.compile(r"(\d+)\.(?:(to_[kv]_ip)|(to_q|to_k|to_v|to_out)_lora\.(down|up))\.weight")
WEIGHT_FILES = ("*.safetensors", "*.bin")


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


def projector_from(state: Mapping[str, Tensor], where: str) -> IPAdapterProjector:
    """The projector whose published tensors these are.

    Raises:
        CheckpointError: keys or shapes are of no known kind.
    """
    kind = kind_of(state)
    # Not public, but the only part of diffusers' loading that changes nothing in a model.
    convert: Any = getattr(UNet2DConditionLoadersMixin, "_convert_ip_adapter_image_proj_to_diffusers")  # noqa: B009
    try:
        converted: Any = convert(None, dict(state), low_cpu_mem_usage=False)
        sizes = _sizes(kind, converted)
    except (KeyError, RuntimeError, IndexError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where} is no IP-Adapter projection of kind '{kind}': {first_line(error)}"
        ) from error
    assert isinstance(converted, KINDS[kind])
    named = {f"projection.{key}": value for key, value in converted.state_dict().items()}
    return fill(build(IPAdapterProjector, {"kind": kind, "sizes": sizes}, where), named, where)


def _sizes(kind: str, module: Any) -> dict[str, int]:
    """Keyword arguments by which diffusers' class is built again."""
    if kind == "base":
        return {
            "image_embed_dim": module.image_embeds.in_features,
            "cross_attention_dim": module.norm.normalized_shape[0],
            "num_image_text_embeds": module.num_image_text_embeds,
        }
    if kind == "full":
        return {
            "image_embed_dim": module.ff.net[0].proj.in_features,
            "cross_attention_dim": module.norm.normalized_shape[0],
        }
    if kind == "faceid":
        wide, inner = module.ff.net[0].proj.in_features, module.ff.net[0].proj.out_features
        return {
            "image_embed_dim": wide,
            "cross_attention_dim": module.cross_attention_dim,
            "mult": inner // wide,
            "num_tokens": module.num_tokens,
        }
    attention = module.layers[0].attn
    sizes = {
        "embed_dims": module.proj_in.in_features,
        "output_dims": module.proj_out.out_features,
        "hidden_dims": module.proj_in.out_features,
        "depth": len(module.layers),
        "heads": attention.heads,
        "dim_head": attention.inner_dim // attention.heads,
    }
    if kind == "plus":
        return sizes | {"num_queries": module.latents.shape[1]}
    return sizes | {
        "embed_dims": module.proj_in.out_features,
        "hidden_dims": module.proj_in.in_features,
        "id_embeddings_dim": module.proj.net[0].proj.in_features,
        "num_tokens": module.num_tokens,
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
    ordered = sorted(layers, key=place_of)
    selves = [name for name in ordered if name.endswith("attn1")]
    names = {2 * n: name for n, name in enumerate(selves)}
    names |= {2 * n + 1: name for n, name in enumerate(n for n in ordered if not n.endswith("attn1"))}
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
        for kind in ("to_k_ip", "to_v_ip")
    }
    missing = [published for published, own in wanted.items() if own not in keys]
    missing += [
        f"{name}.{projection}_lora"
        for name, projections in low.items()
        for projection in ("to_q", "to_k", "to_v", "to_out")
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
    for name in ("image_proj", "ip_adapter"):
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
