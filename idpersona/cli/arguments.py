"""Reading and checking what was typed."""

from __future__ import annotations

from pathlib import Path

from idpersona.errors import BadInput
from idpersona.jobs.limits import SCALE, number

LISTS = {
    "generate": ("--photo", "--adapter", "--lora", "--set", "--person"),
    "identify": ("--encoder",),
    "edit": ("--words", "--emphasis", "--adapter", "--set"),
}


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


def variation(text: str) -> tuple[int, float]:
    """``SEED:AMOUNT`` -> (seed, amount); further ones are mixed in after it.

    Raises:
        BadInput: of another form.
    """
    seed, colon, amount = text.partition(":")
    try:
        return int(seed), float(amount if colon else "none")
    except ValueError as error:
        raise BadInput(f"--vary is SEED:AMOUNT, as 7:0.3, got '{text}'") from error


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
