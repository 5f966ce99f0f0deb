"""Names of the cross-attention layers that the published files call by odd numbers.

They number a base's attention layers in the order that diffusers listed them in when it was
trained: down blocks, up blocks, middle block last; self-attention even, cross-attention odd. That order is
kept here as a rule of our own, and for SDXL as a recorded list, so that no later diffusers can change it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from importlib import resources

_SECTIONS = {"down_blocks": 0, "up_blocks": 1, "mid_block": 2}


def place_of(name: str) -> tuple[int | str, ...]:
    """Where a layer comes in the published order."""
    parts = [int(part) if part.isdigit() else part for part in re.split(r"\.", name)]
    return (_SECTIONS.get(str(parts[0]), 3), *(part for part in parts if isinstance(part, int)))


def numbered(layers: Iterable[str]) -> dict[int, str]:
    """{odd number: layer name} for the cross-attention layers of a base."""
    return {2 * i + 1: name for i, name in enumerate(sorted(layers, key=place_of))}


@cache
def sdxl_layers() -> dict[int, str]:
    """The recorded numbers of SDXL's 70 cross-attention layers."""
    text = resources.files("idpersona.adapters").joinpath("sdxl_layers.json").read_text("utf-8")
    return {int(number): name for number, name in json.loads(text).items()}


def sd15_layers() -> dict[int, str]:
    """The numbers of SD1.5's 16 cross-attention layers."""
    down = [f"down_blocks.{block}.attentions.{n}" for block in (0, 1, 2) for n in (0, 1)]
    up = [f"up_blocks.{block}.attentions.{n}" for block in (1, 2, 3) for n in (0, 1, 2)]
    names = [*down, *up, "mid_block.attentions.0"]
    return numbered(f"{name}.transformer_blocks.0.attn2" for name in names)
