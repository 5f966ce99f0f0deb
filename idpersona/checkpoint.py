"""Reading tensors from files and putting them into modules, strictly: every key and shape is checked."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from idpersona.errors import CheckpointError, first_line

ModuleT = TypeVar("ModuleT", bound=nn.Module)
State = dict[str, Tensor]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: the file is missing, unreadable or holds no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return values


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a safetensors file or of a published pickle that holds nothing but tensors.

    Pickles are read with ``weights_only=True``: code in them is never run.

    Raises:
        CheckpointError: missing, damaged, or a pickle that wants more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint file {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is damaged or holds more than tensors; it was not loaded, because a pickle can run code"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # hostile bytes break torch's unpickler in many ways
        raise CheckpointError(f"{path} is not a readable checkpoint: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not tensors by name")
    return content


def only_tensors(values: object, where: str) -> State:
    """``values`` as tensors by name, a leading ``module.`` taken off.

    Raises:
        CheckpointError: it is no mapping, or something in it is no tensor; that is named.
    """
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{where} is a {type(values).__name__}, not tensors by name")
    wrong = [str(key) for key, value in values.items() if not isinstance(value, Tensor)]
    if wrong or not values:
        raise CheckpointError(f"{where} holds no tensors at: {', '.join(wrong[:3]) or '(it is empty)'}")
    return {str(key).removeprefix("module."): value for key, value in values.items()}


def portable(module: nn.Module) -> State:
    """The tensors of ``module`` as every tool can read them: on the CPU, each whole in its own memory."""
    return {key: value.cpu().contiguous() for key, value in module.state_dict().items()}


def fill(module: ModuleT, state: Mapping[str, Tensor], where: str) -> ModuleT:
    """Put ``state`` into ``module`` (which may lie on the meta device), in evaluation mode.

    Raises:
        CheckpointError: missing, unexpected or misshapen keys, or tensors of another kind of number, or
            with values that are not finite; the first three of each are named.
    """
    wanted = module.state_dict()
    missing = [key for key in wanted if key not in state]
    extra = [key for key in state if key not in wanted]
    misshapen = [
        f"{key} {list(state[key].shape)} instead of {list(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    if missing or extra or misshapen:
        raise CheckpointError.from_keys(where, missing, extra, misshapen)
    strange = [
        f"{key} holds {str(state[key].dtype).removeprefix('torch.')}"
        for key, value in wanted.items()
        if state[key].is_floating_point() != value.is_floating_point()
    ]
    strange += [
        f"{key} holds values that are not finite"
        for key, value in state.items()
        if value.is_floating_point() and not value.is_meta and not bool(torch.isfinite(value).all())
    ]
    if strange:
        raise CheckpointError(f"{where} does not fit: {', '.join(strange[:3])}")
    module.load_state_dict(dict(state), strict=True, assign=True)
    return module.eval()


def _weight_files(folder: Path) -> Iterator[Path]:
    stem = "diffusion_pytorch_model"
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors", f"{stem}.bin"):
        if (folder / name).is_file():
            yield folder / name


def load_component(kind: type[Any], folder: Path) -> Any:
    """A diffusers component saved with ``save_pretrained``, in the dtype it was saved in.

    diffusers itself only warns of missing keys and fills them with random numbers; this refuses.

    Raises:
        CheckpointError: configuration or weights are missing or do not belong together.
    """
    config = read_json(folder / "config.json")
    file = next(_weight_files(folder), None)
    if file is None:
        raise CheckpointError(f"{folder} holds no diffusion_pytorch_model.safetensors")
    # In memory of their own: kernels choose their order of summing by where in memory a tensor begins, and a
    # tensor of a mapped file begins anywhere.
    state = {key: value.clone() for key, value in only_tensors(read_tensors(file), str(file)).items()}
    return fill(build(kind, config, str(folder)), state, str(file))


def build(kind: type[Any], config: Mapping[str, Any], where: str) -> Any:
    """An instance on the meta device from its configuration; CheckpointError if that does not make sense."""
    try:
        with torch.device("meta"):
            return kind.from_config(dict(config))
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"{where}: the configuration of {kind.__name__} is not valid: {error}"
        ) from error
