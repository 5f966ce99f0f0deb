"""An adapter's own options as command lines write them: ``[ADAPTER.]NAME=VALUE``."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from idpersona.errors import BadInput

OptionValue = float | bool | str
MAX_TEXT = 400
_FORM = "NAME=NUMBER, NAME=true, NAME=false or NAME=TEXT"
_ELSEWHERE = {
    "identity": "identity and photos have options of their own",
    "mask": "a region can only be given in Python",
    "pipe": "use --base",
    "pose": "use --pose",
    "scale": "use --scale",
    "self": "it is no option",
}


@dataclass(frozen=True)
class AdapterOption:
    """A keyword argument of ``adapter.attach``; ``adapter`` is empty where there is only one.

    Raises:
        BadInput: no name of an argument, one that is given in another way, or a value without a meaning.
    """

    adapter: str
    name: str
    value: OptionValue

    def __post_init__(self) -> None:
        if self.name in _ELSEWHERE:
            raise BadInput(f"--set cannot give '{self.name}': {_ELSEWHERE[self.name]}")
        if isinstance(self.value, str):
            sound = 0 < len(self.value) <= MAX_TEXT and self.value.isprintable()
        else:
            sound = isinstance(self.value, (bool, int, float)) and math.isfinite(self.value)
        if not self.name.isidentifier() or not sound:
            raise BadInput(f"--set takes {_FORM}, got {self.name}={self.value!r}")


def parse_options(texts: Iterable[str]) -> tuple[AdapterOption, ...]:
    """Each ``[ADAPTER.]NAME=VALUE``, where VALUE is a number, ``true``, ``false`` or else a text.

    Raises:
        BadInput: of another form, an argument that is given in another way, or one that is given twice.
    """
    options: dict[tuple[str, str], AdapterOption] = {}
    for option in map(_parse, texts):
        if (option.adapter, option.name) in options:
            raise BadInput(f"--set {option.name} is given twice")
        options[option.adapter, option.name] = option
    return tuple(options.values())


def _parse(text: str) -> AdapterOption:
    key, equals, word = text.partition("=")
    adapter, dot, name = key.rpartition(".")
    if not equals or (dot and not adapter):
        raise BadInput(f"--set takes {_FORM}, as net_end=0.5, got '{text}'")
    value: OptionValue = word
    if word in ("true", "false"):
        value = word == "true"
    else:
        with contextlib.suppress(ValueError):
            value = float(word)
    return AdapterOption(adapter, name, value)
