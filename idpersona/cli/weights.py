"""Which registered weights an adapter on a base stands for; without loading anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from idpersona.adapters import METHODS
from idpersona.errors import MissingWeights, UnknownName
from idpersona.registry import WEIGHTS, Weight, weight_names


def check_base(base: str) -> None:
    """Refuse what is neither a base's name, nor a folder, nor the form of a hub id.

    Raises:
        UnknownName, MissingWeights: as said.
    """
    known = weight_names("base")
    if base in known or Path(base).is_dir():
        return
    if base.startswith(("/", ".", "~")) or base.count("/") > 1:
        raise MissingWeights(f"no folder {base}: a base is {', '.join(known)}, a folder, or a hub id")
    if "/" not in base:
        raise UnknownName("base", base, known)


def adapter_weight(name: str, base: str) -> Weight | None:
    """Registry entry of adapter ``name`` on ``base``; None when either is a folder or a hub id.

    Raises:
        UnknownName: neither an adapter's name, nor a folder, nor the form of a hub id.
        MissingWeights: there are no registered weights of this adapter for this base.
    """
    # As in load_adapter: a registered name means its weights, whatever folders lie around.
    if Path(name).is_dir() and name not in METHODS and name not in WEIGHTS:
        return None
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise MissingWeights(f"no folder {name}: an adapter is {', '.join(METHODS)}, a folder, or a hub id")
    if name in WEIGHTS and WEIGHTS[name].kind == "adapter" and name not in METHODS:
        return WEIGHTS[name]
    if name not in METHODS:
        if "/" in name:
            return None
        raise UnknownName("adapter", name, METHODS)
    if base not in WEIGHTS:
        return None
    for weight in WEIGHTS.values():
        if weight.name in (name, f"{name}-{base}") and base in weight.needs:
            return weight
    raise MissingWeights(f"no weights of '{name}' are registered for base '{base}': give --adapter a folder")


def adapter_encoders(name: str, base: str) -> Sequence[str]:
    """Encoders that adapter ``name`` needs on ``base``.

    Raises:
        UnknownName: no such adapter.
        CheckpointError: a folder that holds none.
    """
    weight = adapter_weight(name, base)
    if weight is not None:
        return weight.reads or [need for need in weight.needs if WEIGHTS[need].kind == "encoder"]
    # A folder of ours says it in a line of JSON; only a published layout has to be loaded to know.
    from idpersona.silence import quiet_libraries

    quiet_libraries()
    if (Path(name) / "adapter.json").is_file():
        from idpersona.adapters.base import read_head

        encoder = read_head(name)["config"].get("encoder")
        if isinstance(encoder, str):
            return [encoder]
    from idpersona.adapters import load_adapter

    return load_adapter(name, base=base).encoders


def needed_weights(base: str, adapters: Sequence[str]) -> list[str]:
    """All names whose licence matters for a picture: base, adapters, and what they need."""
    names = [base]
    for adapter in adapters:
        weight = adapter_weight(adapter, base)
        if weight is None:
            names.append(adapter)
        else:
            names += [weight.name, *(need for need in weight.needs if WEIGHTS[need].kind != "base")]
    return list(dict.fromkeys(names))
