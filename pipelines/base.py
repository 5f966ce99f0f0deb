"""``load_base``: a name, a folder or a hub id becomes a stock diffusers pipeline."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from idpersona.devices import as_device, as_dtype
from idpersona.errors import BadInput, CheckpointError, MissingWeights, UnknownName, first_line
from idpersona.pipelines.components import DTYPE_KEYWORD, load_models
from idpersona.registry import get_weight, locate, weight_names
from idpersona.registry.hub import unreachable_base
from idpersona.seams.call import is_attached

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def load_base(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> DiffusionPipeline:
    """Load the diffusion model underneath: a stock diffusers pipeline object, untouched by idpersona.

    Components are loaded as their repository says: the safety checker of a hub model stays on, and code in
    a repository is never run.

    Args:
        name: a base of the registry (``mini`` is shipped; ``sd15`` and ``sdxl`` are fetched by
            ``idpersona models pull``), a folder (``./mini``) with a ``model_index.json``, or a hub id
            ``owner/name``.
        device: where to put it; None leaves it on the CPU.
        dtype: of the weights (``fp32``, ``fp16``, ``bf16`` or a torch type); None is float32 on the CPU and
            float16 on an accelerator.

    Raises:
        UnknownName: neither a registry name, nor a folder, nor the form of a hub id.
        MissingWeights: the weights are not on this machine and cannot be fetched.
        CheckpointError: no stock diffusers pipeline, or a damaged one: keys that are missing, unexpected
            or misshapen are named.
        BadInput: the device or the dtype does not exist.
    """
    place = as_device(device)
    kind = as_dtype(dtype) or (torch.float32 if place.type == "cpu" else torch.float16)
    source, variant = _find(name)
    folder = source if isinstance(source, Path) else _fetch(source)
    return _load(folder, variant, kind).to(place)


def native_size(pipe: Any) -> tuple[int, int]:
    """Width and height in pixels of the pictures that a pipeline's U-Net was made for."""
    sample = pipe.unet.config.sample_size
    height, width = (sample, sample) if isinstance(sample, int) else sample
    return width * pipe.vae_scale_factor, height * pipe.vae_scale_factor


def require_text_to_image(pipe: Any) -> None:
    """Refuse pipelines that take a picture or a mask themselves.

    Raises:
        BadInput: naming the argument, and what to do.
    """
    taken = inspect.signature(type(pipe).__call__).parameters
    for name in ("image", "mask_image", "control_image"):
        if name in taken:
            raise BadInput(
                f"{type(pipe).__name__} takes a picture of its own ({name}): invert and edit with the plain "
                "text-to-image pipeline of the same components"
            )


def encodes_otherwise(pipe: Any) -> bool:
    """Whether ``pipe`` encodes prompts in another way than its own: weighted, or edited by an adapter."""
    return "encode_prompt" in vars(pipe)


def is_changed(pipe: Any) -> bool:
    """Whether something is attached to ``pipe``: to its U-Net, or to how it encodes prompts."""
    return is_attached(pipe.unet) or encodes_otherwise(pipe)


def _find(name: str | os.PathLike[str]) -> tuple[str | Path, str | None]:
    """Folder or hub id, and the file variant to load."""
    folder, text, bases = Path(name), os.fspath(name), weight_names("base")
    # A name of the registry means its weights and their licence, whatever folders lie around.
    if isinstance(name, str) and name in bases:
        return locate(name), get_weight(name).variant
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise CheckpointError(f"{folder} is no diffusers pipeline: it holds no model_index.json")
        return folder, None
    if folder.is_file():
        raise CheckpointError(
            f"{folder} is a single file: a base is a folder (save it with DiffusionPipeline.save_pretrained)"
        )
    if _HUB_ID.fullmatch(text):
        return text, None
    if isinstance(name, os.PathLike) or text.startswith(("/", ".", "~")) or text.count("/") > 1:
        raise MissingWeights(f"there is no folder {text}: give a base name ({', '.join(bases)}) or a hub id")
    raise UnknownName("base", text, bases)


def _fetch(repository: str) -> Path:
    """Folder in the hub's cache with what a pipeline needs of a repository."""
    try:
        return Path(DiffusionPipeline.download(repository))
    except Exception as error:  # the client of the hub raises what its HTTP library raises
        raise unreachable_base(repository, error) from error


def _load(folder: Path, variant: str | None, dtype: torch.dtype) -> DiffusionPipeline:
    options: dict[str, Any] = {DTYPE_KEYWORD: dtype, "variant": variant, "local_files_only": True}
    try:
        models = load_models(folder, variant, dtype)
        return DiffusionPipeline.from_pretrained(os.fspath(folder), **options, **models)
    except (torch.OutOfMemoryError, CheckpointError):
        raise
    # diffusers, transformers and safetensors share no error type for a bad checkpoint.
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be loaded as a base: {first_line(error)}") from error
