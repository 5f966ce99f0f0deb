"""Scales per layer name pattern."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from idpersona.errors import BadInput


def check_scale(value: object, what: str = "scale") -> float:
    """``value`` as a float.

    Raises:
        BadInput: it is not a finite number of at least 0.
    """
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise BadInput(f"{what} must be a number, got {value!r}") from None
    if not math.isfinite(number) or number < 0:
        raise BadInput(f"{what} must be a finite number of at least 0, got {number}")
    return number


def check_window(start: float, end: float, names: str = "start and end") -> None:
    """Raises BadInput unless 0 <= start < end <= 1 (fractions of the steps)."""
    try:
        valid = 0.0 <= start < end <= 1.0
    except TypeError:
        valid = False
    if not valid:
        raise BadInput(f"{names} must satisfy 0 <= start < end <= 1, got {start} and {end}")


def resolve_scales(
    layers: Sequence[str], scale: float, patterns: Mapping[str, float] | None = None
) -> dict[str, float]:
    """A scale for each layer: that of the last pattern that matches its name, else ``scale``.

    A pattern is a shell pattern over the whole name (``up_blocks.*``) or a leading part of it
    (``up_blocks.0``).

    Raises:
        BadInput: a scale is no finite number of at least 0, or a pattern matches no layer.
    """
    scales = dict.fromkeys(layers, check_scale(scale))
    for pattern, value in (patterns or {}).items():
        number = check_scale(value, f"scale of {pattern}")
        scales.update(dict.fromkeys(matching(layers, pattern, "scale key"), number))
    return scales


def matching(layers: Sequence[str], pattern: str, what: str) -> list[str]:
    """The layers that a pattern (as for :func:`resolve_scales`) matches; BadInput if it matches none."""
    hits = matches(layers, pattern)
    if not hits:
        raise BadInput(f"{what} '{pattern}' matches no attention layer, e.g. {', '.join(layers[:2])}")
    return hits


def matches(layers: Sequence[str], pattern: str) -> list[str]:
    """The layers that a pattern matches, perhaps none."""
    return [n for n in layers if n == pattern or n.startswith(pattern + ".") or fnmatchcase(n, pattern)]
