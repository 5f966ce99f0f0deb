"""An adapter's own options as command lines write them: ``[ADAPTER.]NAME=VALUE``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from idpersona.errors import BadInput

OptionValue = float | bool
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
        BadInput: no name of an argument, one that is given in another way, or no number or truth value.
    """

    adapter: str
    name: str
    value: OptionValue

    def __post_init__(self) -> None:
        if self.name in _ELSEWHERE:
            raise BadInput(f"--set cannot give '{self.name}': {_ELSEWHERE[self.name]}")
        number = isinstance(self.value, (bool, int, float)) and math.isfinite(self.value)
        if not self.name.isidentifier() or not number:
            raise BadInput(f"--set takes NAME=NUMBER, NAME=true or NAME=false, got {self.name}={self.value}")


def parse_options(texts: Iterable[str]) -> tuple[AdapterOption, ...]:
    """Each ``[ADAPTER.]NAME=VALUE``, where VALUE is a number, ``true`` or ``false``.

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
    key, _, word = text.partition("=")
    adapter, dot, name = key.rpartition(".")
    try:
        value: OptionValue = word == "true" if word in ("true", "false") else float(word)
        if dot and not adapter:
            raise ValueError
    except ValueError:
        raise BadInput(
            f"--set takes NAME=NUMBER, NAME=true or NAME=false, as net_end=0.5, got '{text}'"
        ) from None
    return AdapterOption(adapter, name, value)
