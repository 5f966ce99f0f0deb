"""An adapter's own options as command lines write them: ``[ADAPTER.]NAME=VALUE``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from idpersona.errors import BadInput

OptionValue = float | bool
_ELSEWHERE = {
    "identity": "identity and photos have options of their own",
    "mask": "a region can only be given in Python",
    "pipe": "use --base",
    "pose": "use --pose",
    "scale": "use --scale",
}


@dataclass(frozen=True)
class AdapterOption:
    """A keyword argument of ``adapter.attach``; ``adapter`` is empty where there is only one."""

    adapter: str
    name: str
    value: OptionValue


def parse_option(text: str) -> AdapterOption:
    """``[ADAPTER.]NAME=VALUE``, where VALUE is a number, ``true`` or ``false``.

    Raises:
        BadInput: of another form, or an argument that is given in another way.
    """
    key, equals, word = text.partition("=")
    adapter, dot, name = key.rpartition(".")
    value = _value(word)
    if not equals or not name.isidentifier() or (dot and not adapter) or value is None:
        raise BadInput(f"--set is NAME=NUMBER, NAME=true or NAME=false, as net_end=0.5, got '{text}'")
    if name in _ELSEWHERE:
        raise BadInput(f"--set cannot give '{name}': {_ELSEWHERE[name]}")
    return AdapterOption(adapter, name, value)


def _value(word: str) -> OptionValue | None:
    if word in ("true", "false"):
        return word == "true"
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
