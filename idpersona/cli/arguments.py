"""Reading and checking what was typed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from idpersona.errors import BadInput, UnknownName

LISTS = {
    "generate": ("--photo", "--adapter", "--lora", "--set", "--person"),
    "identify": ("--encoder",),
    "edit": ("--words", "--emphasis", "--adapter", "--set"),
}
STEPS = (1, 1000)
SCALE = (0.0, 2.0)
GUIDANCE = (0.0, 50.0)
SEED = (0, 2**63 - 1)
SIDE = (64, 4096)
COUNT = (1, 100)
TEXT = 20_000


def spread(words: list[str]) -> list[str]:
    """Let list options take several values at once: ``--photo a b`` becomes ``--photo a --photo b``.

    ``identify`` has photos of its own after the options, so there only names of encoders are taken along.
    """
    options = LISTS.get(words[0], ()) if words else ()
    if words[:1] == ["edit"] and (len(words) < 2 or words[1].startswith("-")):
        options = ()  # its photo is still to come, and would be taken for one value more
    known = _encoder_names() if "--encoder" in options and "--encoder" in words else ()
    result: list[str] = []
    current = ""
    for index, word in enumerate(words):
        if word == "--":
            return result + words[index:]
        if word.startswith("-"):
            current = word if word in options else ""
            result.append(word)
            continue
        first = index > 0 and words[index - 1] == current
        if current and not first:
            if current == "--encoder" and word not in known:
                current = ""
            else:
                result.append(current)
        result.append(word)
    return result


def _encoder_names() -> tuple[str, ...]:
    from idpersona.registry import weight_names

    return weight_names("encoder")


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
        raise BadInput(f"--size is WIDTHxHEIGHT, as 128x128, got '{text}'")
    width, height = int(match[1]), int(match[2])
    for side in (width, height):
        if side % 8 or not SIDE[0] <= side <= SIDE[1]:
            raise BadInput(f"--size takes multiples of 8 between {SIDE[0]} and {SIDE[1]}, got {text}")
    return width, height


def scaled(text: str, option: str) -> tuple[str, float | None]:
    """``NAME[:SCALE]`` -> (name, scale or None). A colon inside a path belongs to the path.

    Raises:
        BadInput: the scale is no number or out of range.
    """
    name, colon, tail = text.rpartition(":")
    if not colon or Path(text).exists() or "/" in tail or "\\" in tail:
        return text, None
    try:
        value = float(tail)
    except ValueError as error:
        raise BadInput(f"{option} is NAME or NAME:SCALE; '{tail}' in '{text}' is no number") from error
    if not name:
        raise BadInput(f"{option} is NAME or NAME:SCALE, got '{text}'")
    return name, number(f"the scale of {option} {name}", value, SCALE)


def factor(text: str, option: str) -> tuple[str, float]:
    """``WORD=FACTOR`` -> (word, factor).

    Raises:
        BadInput: of another form, or the factor is no number from -100 to 100.
    """
    word, equals, tail = text.rpartition("=")
    try:
        value = float(tail)
    except ValueError:
        equals = ""
        value = 0.0
    if not equals or not word.strip():
        raise BadInput(f"{option} is WORD=FACTOR, as smiling=2, got '{text}'")
    return word, number(f"the factor of {option} {word}", value, (-100.0, 100.0))


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
