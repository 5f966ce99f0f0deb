"""Sizes of a base's pictures, without loading it."""

from __future__ import annotations

import json
from pathlib import Path

from idpersona.errors import BadInput
from idpersona.registry import WEIGHTS, locate


def native_size(base: str) -> tuple[int, int]:
    """Width and height in pixels of the pictures that a base (name or folder) was made for.

    Raises:
        BadInput: it is on the hub, or its configuration does not say it.
    """
    folder = locate(base) if base in WEIGHTS else Path(base)
    try:
        sample = json.loads((folder / "unet" / "config.json").read_text("utf-8"))["sample_size"]
        blocks = json.loads((folder / "vae" / "config.json").read_text("utf-8"))
        channels = blocks.get("block_out_channels") or blocks["encoder_block_out_channels"]
    except (OSError, KeyError, ValueError) as error:
        raise BadInput("give --size: this model does not say the size of its pictures") from error
    height, width = (sample, sample) if isinstance(sample, int) else sample
    factor = 2 ** (len(channels) - 1)
    return int(width) * factor, int(height) * factor
