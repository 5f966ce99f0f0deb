"""Published networks of ``transformers`` from folders, strictly: a key that is missing is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from idpersona.errors import CheckpointError, MissingWeights, first_line


def load_strictly(
    kind: Any, folder: str | Path, *, unread: tuple[str, ...] = ("position_ids",), **options: Any
) -> Any:
    """``kind.from_pretrained`` of a folder, in float32 and evaluation mode; nothing is fetched.

    Args:
        kind: a class of transformers.
        folder: with ``config.json`` and the weights.
        unread: parts of keys that the file may hold beside those that are read.
        options: of the class.

    Raises:
        MissingWeights: the folder holds no model.
        CheckpointError: it is damaged, or keys are missing, unexpected or misshapen; they are named.
    """
    if not (Path(folder) / "config.json").is_file():
        raise MissingWeights(f"{folder} holds no {kind.__name__}: there is no config.json")
    try:
        model, found = kind.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that all of them are listed, not the first alone
            **options,
        )
    except Exception as error:  # transformers and safetensors share no error type for a damaged folder
        raise CheckpointError(f"{folder} holds no {kind.__name__}: {first_line(error)}") from error
    missing = sorted(found["missing_keys"])
    extra = sorted(k for k in found["unexpected_keys"] if not any(part in k for part in unread))
    misshapen = sorted(
        f"{key} {list(there)} instead of {list(wanted)}" for key, there, wanted in found["mismatched_keys"]
    )
    if missing or extra or misshapen:
        raise CheckpointError.from_keys(str(folder), missing, extra, misshapen)
    return model.eval().requires_grad_(False)
