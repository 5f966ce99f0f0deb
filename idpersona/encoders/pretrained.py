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


def load_tokenizer(folder: str | Path, tokens: int) -> Any:
    """CLIP's tokenizer of a folder, which knows as many ``tokens`` as its model.

    Raises:
        CheckpointError: there is none, or it is another model's.
    """
    from transformers import CLIPTokenizer

    try:
        tokenizer: Any = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever its parsers raise
        raise CheckpointError(f"{folder} holds no tokenizer of CLIP: {first_line(error)}") from error
    # Without its files transformers makes one that knows three tokens.
    known = len(tokenizer)
    if known != tokens:
        raise CheckpointError(
            f"{folder}: its tokenizer knows {known} tokens and its model {tokens}; fetch both of one model"
        )
    return tokenizer
