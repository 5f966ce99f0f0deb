"""Reading the models of a stock pipeline folder strictly.

diffusers and transformers only warn when a checkpoint and its configuration do not belong together: what is
missing gets random numbers, what is too much is dropped, and a picture is drawn all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.modeling_utils import ModelMixin
from packaging.version import Version

from idpersona.checkpoint import read_json
from idpersona.errors import CheckpointError

DTYPE_KEYWORD = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"


def load_models(folder: Path, variant: str | None, dtype: torch.dtype) -> dict[str, Any]:
    """The models that ``model_index.json`` of a pipeline folder names, each by its own library.

    Raises:
        CheckpointError: keys are missing, unexpected or misshapen; the first three of each are named.
    """
    models: dict[str, Any] = {}
    for name, kind in _model_classes(read_json(folder / "model_index.json")):
        models[name], found = kind.from_pretrained(
            folder / name,
            variant=variant,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that all of them are listed, not the first alone
            **{DTYPE_KEYWORD if issubclass(kind, ModelMixin) else "dtype": dtype},
        )
        # Checkpoints saved by older transformers hold this buffer; the models of today compute it.
        extra = [key for key in found["unexpected_keys"] if not key.endswith("position_ids")]
        missing = sorted(found["missing_keys"])
        misshapen = sorted(
            f"{key} {list(there)} instead of {list(wanted)}"
            for key, there, wanted in found["mismatched_keys"]
        )
        if missing or extra or misshapen:
            raise CheckpointError.from_keys(str(folder / name), missing, sorted(extra), misshapen)
    return models


def _model_classes(index: Mapping[str, Any]) -> Iterator[tuple[str, type[Any]]]:
    """Name and class of each component that has weights; the others the pipeline itself loads."""
    for name, entry in index.items():
        if not isinstance(entry, list) or len(entry) != 2 or entry[0] is None:
            continue
        library, kind = entry
        if library not in ("diffusers", "transformers"):
            # A folder of diffusers' own pipelines, as that of the safety checker.
            library = f"diffusers.pipelines.{library}"
        try:
            found = getattr(import_module(library), kind)
        except (ImportError, AttributeError):
            continue
        if isinstance(found, type) and issubclass(found, torch.nn.Module):
            yield name, found
