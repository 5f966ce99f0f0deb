"""Which registered weights an adapter on a base stands for; without loading anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from idpersona.adapters import METHODS
from idpersona.errors import BadInput, MissingWeights, UnknownName
from idpersona.registry import WEIGHTS, Weight


def adapter_weight(name: str, base: str) -> Weight | None:
    """Registry entry of adapter ``name`` on ``base``; None when either is a folder or a hub id.

    Raises:
        UnknownName: neither an adapter's name, nor a folder, nor the form of a hub id.
        MissingWeights: there are no registered weights of this adapter for this base.
    """
    if Path(name).is_dir():
        return None
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
        BadInput: a folder that does not say so.
    """
    weight = adapter_weight(name, base)
    if weight is not None:
        return [need for need in weight.needs if WEIGHTS[need].kind == "encoder"]
    from idpersona.adapters import load_adapter

    encoders = tuple(load_adapter(name, base=base).encoders)
    if not encoders:
        raise BadInput(f"adapter '{name}' does not say which encoders it needs: use --encoder")
    return encoders


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
