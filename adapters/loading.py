"""From a name and a base to a loaded adapter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from idpersona.adapters import METHODS, adapter_class
from idpersona.adapters.base import Adapter, read_head
from idpersona.errors import BadInput, MissingWeights, UnknownName

_DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "fp16": torch.float16,
    "float16": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}


def load(
    name: str | os.PathLike[str],
    base: Any,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    **options: Any,
) -> Adapter:
    """See :func:`idpersona.adapters.load_adapter`."""
    unet = getattr(base, "unet", None)
    folder, method = _find(name, base)
    kind = adapter_class(method)
    if not (folder / "adapter.json").is_file() and isinstance(unet, nn.Module):
        from idpersona.seams.cross import cross_layers

        options.setdefault("layers", list(cross_layers(unet)))
    adapter = kind.from_pretrained(folder, **options)
    if isinstance(unet, nn.Module):
        adapter.check_fits(unet)
        device = device or unet.device  # type: ignore[assignment]
        dtype = dtype or unet.dtype  # type: ignore[assignment]
    return adapter.to(_device(device), _dtype(dtype))


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    if isinstance(dtype, str):
        if dtype not in _DTYPES:
            raise UnknownName("dtype", dtype, _DTYPES)
        return _DTYPES[dtype]
    return dtype or torch.float32


def _device(device: str | torch.device | None) -> torch.device:
    try:
        place = torch.device(device or "cpu")
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadInput(f"device '{device}' cannot be used: {str(error).splitlines()[0]}") from error
    return place


def _find(name: str | os.PathLike[str], base: Any) -> tuple[Path, str]:
    """Folder of the weights, and the method they are of."""
    from idpersona.registry import WEIGHTS, locate

    text = os.fspath(name)
    folder = Path(name)
    if folder.is_dir():
        method = read_head(folder)["method"] if (folder / "adapter.json").is_file() else "instantid"
        return folder, method
    if text in METHODS:
        family = base_family(base)
        entry = text if family == "sdxl" else f"{text}-{family}"
        if entry not in WEIGHTS:
            raise MissingWeights(
                f"no weights of '{text}' for bases like {family} are registered: "
                "give the folder of a checkpoint instead of the name"
            )
        return locate(entry), text
    if text in WEIGHTS and WEIGHTS[text].kind == "adapter":
        found = locate(text)
        own = (found / "adapter.json").is_file()
        return found, read_head(found)["method"] if own else text.split("-")[0]
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        return _snapshot(text), "instantid"
    if isinstance(name, os.PathLike) or "/" in text:
        raise MissingWeights(
            f"there is no folder {text}: give an adapter name ({', '.join(METHODS)}) or a hub id"
        )
    raise UnknownName("adapter", text, METHODS)


def _snapshot(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = ["adapter.json", "*/config.json", "*.safetensors", "ip-adapter.bin", "*.ckpt"]
    try:
        return Path(snapshot_download(repository, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MissingWeights(
            f"adapter '{repository}' is no folder, is not in the hub's cache, and cannot be fetched: {reason}"
        ) from error


def base_family(base: Any) -> str:
    """``sdxl``, ``sd15`` or ``mini``, by the shape of the base's U-Net.

    Raises:
        BadInput: the base has no U-Net, or one of none of these shapes.
    """
    if base in ("mini", "sd15", "sdxl"):
        return base
    unet = getattr(base, "unet", None)
    if unet is not None:
        config = dict(unet.config)
    else:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        from idpersona.registry import WEIGHTS, locate

        text = os.fspath(base)
        try:
            config: dict[str, Any] = UNet2DConditionModel.load_config(  # type: ignore[assignment]
                locate(text) if text in WEIGHTS else text, subfolder="unet"
            )
        except (OSError, ValueError) as error:
            raise BadInput(f"base '{text}' has no readable unet/config.json") from error
    if config.get("addition_embed_type") == "text_time":
        return "sdxl"
    families = {768: "sd15", 192: "mini"}
    width = config.get("cross_attention_dim")
    if width not in families:
        raise BadInput(f"no adapter is registered for a base with text width {width}: give a folder")
    return families[width]
