"""From a name and a base to a loaded adapter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from torch import nn

from idpersona.adapters import METHODS, WEIGHT_FILES, adapter_class, is_place
from idpersona.adapters.base import Adapter, read_head
from idpersona.devices import as_device, as_dtype
from idpersona.errors import BadInput, CheckpointError, MissingWeights, UnknownName, first_line
from idpersona.registry.hub import hub_client, unreachable_base

FAMILIES = {"mini": 192, "sd15": 768, "sdxl": None}
"""Bases that adapters are registered for -> width of the text; SDXL is known by its other inputs."""
INSTANTID_FILES = {
    "ip-adapter.bin",
    "pytorch_model.bin",
    "ip-adapter.safetensors",
    "adapter_instant_id_sdxl.bin",
    "image_proj.ckpt",
    "ip-state.ckpt",
}
"""Names of files by which a folder is taken for InstantID's."""


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
    adapter = load_as_stored(name, base, **options)
    if adapter.parts and isinstance(unet, nn.Module):
        adapter.check_fits(unet)
        # While the U-Net is offloaded piece by piece it has no device; attach brings the adapter to the
        # pipeline's own.
        offloaded = unet.device == torch.device("meta")
        device = device or ("cpu" if offloaded else unet.device)  # type: ignore[assignment]
        dtype = dtype or unet.dtype  # type: ignore[assignment]
    return adapter.to(as_device(device), as_dtype(dtype) or torch.float32)


def load_as_stored(name: str | os.PathLike[str], base: Any, **options: Any) -> Adapter:
    """As :func:`load`, but on the CPU, in the dtype of its files, and not compared with ``base``.

    Of ``base`` nothing is asked where ``name`` is a folder of ours.
    """
    if name in METHODS and METHODS[str(name)].weightless:
        if options:
            raise BadInput(f"{name} has nothing to load: give {', '.join(options)} to attach")
        return adapter_class(str(name))()
    place, method = _find(name, base)
    kind = adapter_class(method)
    if not (place / "adapter.json").is_file():
        unet = getattr(base, "unet", None)
        known = unet if isinstance(unet, nn.Module) else _unet_without_weights(base)
        options = {**kind.published_options(known), **options}
    return kind.from_pretrained(place, **options)


def known_method(name: str) -> str | None:
    """The method of adapter ``name`` where that is known without fetching or loading weights."""
    from idpersona.registry import WEIGHTS, locate

    if name in METHODS:
        return name
    if name in WEIGHTS:
        return _method_of(locate(name)) if WEIGHTS[name].kind == "adapter" else None
    return _method_of(Path(name)) if is_place(name) else None


def _find(name: str | os.PathLike[str], base: Any) -> tuple[Path, str]:
    """Folder or file of the weights, and the method they are of."""
    from idpersona.registry import WEIGHTS

    text = os.fspath(name)
    folder = Path(name)
    # A name of the registry means its weights and their licence, whatever folders lie around.
    registered = isinstance(name, str) and (name in METHODS or name in WEIGHTS)
    if is_place(folder) and not registered:
        return folder, _method_of(folder)
    if text in METHODS:
        family = base_family(base)
        entry = text if family == "sdxl" else f"{text}-{family}"
        if entry not in WEIGHTS:
            raise MissingWeights(
                f"no weights of '{text}' for bases like {family} are registered: "
                "give the folder of a checkpoint instead of the name"
            )
        return _registered(entry), text
    if text in WEIGHTS and WEIGHTS[text].kind == "adapter":
        found = _registered(text)
        return found, _method_of(found)
    if text.count("/") == 1 and not text.startswith((".", "/", "~")):
        found = _snapshot(text)
        return found, _method_of(found)
    if isinstance(name, os.PathLike) or "/" in text:
        raise MissingWeights(
            f"there is no folder and no file {text}: give an adapter name ({', '.join(METHODS)}) or a hub id"
        )
    raise UnknownName("adapter", text, METHODS)


def _registered(name: str) -> Path:
    """Where registered weights lie: their folder, or the one file that they are."""
    from idpersona.registry import get_weight, locate

    files = [file for file in get_weight(name).files if Path(file).suffix in WEIGHT_FILES]
    folder = locate(name)
    # A snapshot of the hub may hold other adapters' files in the same folder.
    return folder / files[0] if len(get_weight(name).files) == 1 == len(files) else folder


def _method_of(place: Path) -> str:
    """What an adapter of ours says it is; published layouts are known by the names of their files.

    Raises CheckpointError when there is no file of a known name.
    """
    if (place / "adapter.json").is_file():
        return read_head(place)["method"]
    names = [file.name.lower() for file in ([place] if place.is_file() else sorted(place.iterdir()))]
    if LORA_WEIGHT_NAME_SAFE in names:
        raise CheckpointError(
            f"{place} is a LoRA in diffusers' own layout, which every tool reads as it is: "
            "pipe.load_lora_weights(...), or --lora"
        )
    if any(name.startswith("wplus_adapter") for name in names):
        return "wplus"
    own = [
        name
        for name in names
        if name.startswith(("ip-adapter-", "ip-adapter_")) and Path(name).suffix in WEIGHT_FILES
    ]
    if own:
        return "faceid" if "faceid" in own[0] else "ip-adapter"
    if INSTANTID_FILES & set(names) or place.is_file():
        return "instantid"
    below = sorted(
        path.relative_to(place).parent.as_posix()
        for pattern in ("*/adapter.json", "checkpoints/*/adapter.json")
        for path in place.glob(pattern)
    )
    below += sorted(
        f"{path.parent.name}/{path.name}" for path in place.glob("*/*") if path.suffix in WEIGHT_FILES
    )
    hint = f"; further down there are {', '.join(below[:4])}: give one of these" if below else ""
    raise CheckpointError(
        f"{place} is no adapter: it holds neither adapter.json nor a published file (ip-adapter.bin, "
        f"ip-adapter*.safetensors, wplus_adapter*.bin, image_proj.ckpt and ip-state.ckpt){hint}"
    )


def _snapshot(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    # Weights and configurations, and no demo pictures. In these patterns * goes through folders as well.
    wanted = ["adapter.json", "*/*.json", *(f"*{suffix}" for suffix in WEIGHT_FILES)]
    with hub_client(f"adapter '{repository}' is no folder, is not in the hub's cache, and cannot be fetched"):
        return Path(snapshot_download(repository, allow_patterns=wanted))


def base_family(base: Any) -> str:
    """``sdxl``, ``sd15`` or ``mini``, by the shape of the base's U-Net.

    Raises:
        BadInput: the base has no U-Net, or one of none of these shapes.
        UnknownName: neither a registry name, nor a folder, nor the form of a hub id.
        MissingWeights: a hub id whose U-Net's configuration is not on this machine and cannot be fetched.
    """
    if isinstance(base, str) and base in FAMILIES:
        return base
    unet = getattr(base, "unet", None)
    if unet is not None:
        config = dict(unet.config)
    elif isinstance(base, (str, os.PathLike)):
        config = _unet_config(os.fspath(base))
    else:
        raise BadInput(f"base must be a name, a folder or a pipeline with a unet, got {type(base).__name__}")
    if config.get("addition_embed_type") == "text_time":
        return "sdxl"
    width = config.get("cross_attention_dim")
    for family, own in FAMILIES.items():
        if own is not None and width == own:
            return family
    raise BadInput(f"no adapter is registered for a base with text width {width}: give a folder")


def _unet_without_weights(base: Any) -> nn.Module:
    """The base's U-Net on the meta device: its layers and their widths."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    if not isinstance(base, (str, os.PathLike)):
        raise BadInput(f"base must be a name, a folder or a pipeline with a unet, got {type(base).__name__}")
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(_unet_config(os.fspath(base)))  # type: ignore[return-value]


def _unet_config(base: str) -> dict[str, Any]:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from idpersona.registry import locate

    if base in FAMILIES:
        base = os.fspath(locate(base))
    local = Path(base).is_dir()
    if not local and "/" not in base:
        raise UnknownName("base", base, FAMILIES)
    try:
        config: dict[str, Any] = UNet2DConditionModel.load_config(base, subfolder="unet")  # type: ignore[assignment]
        return config
    except Exception as error:  # the client of the hub raises what its HTTP library raises
        if local:
            raise BadInput(f"base '{base}' has no readable unet/config.json: {first_line(error)}") from error
        raise unreachable_base(base, error) from error
