"""Ranges of what can be asked for, and errors that name the option, its limits and the value."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from idpersona.errors import BadInput, UnknownName

STEPS = (1, 1000)
SCALE = (0.0, 2.0)
GUIDANCE = (0.0, 50.0)
SEED = (0, 2**63 - 1)
SIDE = (64, 4096)
COUNT = (1, 100)
TEXT = 20_000


def number(name: str, value: float, limits: tuple[float, float]) -> float:
    """``value`` when it is a number within ``limits``, both included.

    Raises:
        BadInput: it is not; says the limits.
    """
    if math.isnan(value) or not limits[0] <= value <= limits[1]:
        raise BadInput(f"{name} must lie between {limits[0]:g} and {limits[1]:g}, got {value:g}")
    return value


def whole(name: str, value: int, limits: tuple[int, int]) -> int:
    """As :func:`number`, for whole numbers of any length."""
    if not limits[0] <= value <= limits[1]:
        raise BadInput(f"{name} must lie between {limits[0]} and {limits[1]}, got {value}")
    return value


def own_scales(
    adapters: Iterable[tuple[str, float | None]], loras: Iterable[tuple[str, float | None]]
) -> None:
    """Raise BadInput where the own strength of an adapter or a LoRA file is out of range."""
    for option, pairs in (("--adapter", adapters), ("--lora", loras)):
        for name, scale in pairs:
            if scale is not None:
                number(f"the scale of {option} {name}", scale, SCALE)


def strengths(scale: float | None, steps: int | None, guidance: float | None) -> None:
    """Raise BadInput where ``--scale``, ``--steps`` or ``--guidance`` is given and out of range."""
    if scale is not None:
        number("--scale", scale, SCALE)
    if steps is not None:
        whole("--steps", steps, STEPS)
    if guidance is not None:
        number("--guidance", guidance, GUIDANCE)


def device(name: str | None) -> None:
    """Raise BadInput for a device that computes nothing."""
    if name is not None and name.partition(":")[0] == "meta":
        raise BadInput("--device meta computes nothing: choose cpu, cuda or mps")


def size(text: str) -> tuple[int, int]:
    """``WxH`` -> (width, height), multiples of 8.

    Raises:
        BadInput: of another form, or out of range.
    """
    match = re.fullmatch(r"(\d{1,6})[xX×](\d{1,6})", text.strip())
    if not match:
        raise BadInput(f"--size is WIDTHxHEIGHT, as 128x128, got '{text[:40]}'")
    width, height = int(match[1]), int(match[2])
    for side in (width, height):
        if side % 8 or not SIDE[0] <= side <= SIDE[1]:
            raise BadInput(f"--size takes multiples of 8 between {SIDE[0]} and {SIDE[1]}, got {text}")
    return width, height


def text(option: str, value: str) -> str:
    """A prompt of sensible length, without control characters other than white space."""
    if len(value) > TEXT:
        raise BadInput(f"{option} has {len(value)} characters, more than {TEXT}")
    if any(not (c.isprintable() or c.isspace()) for c in value):
        raise BadInput(f"{option} holds control characters")
    return value


def one_of(kind: str, value: str, known: Sequence[str]) -> str:
    """``value`` when it is known; otherwise the nearest names are offered."""
    if value not in known:
        raise UnknownName(kind, value, known)
    return value
