"""Names -> weights: source, size, sha256, licence, preprocessing, and where they lie on this machine."""

from __future__ import annotations

from collections.abc import Iterable

from idpersona.errors import LicenceRefused, UnknownName
from idpersona.registry.locate import installed, locate, models_home
from idpersona.registry.pull import pull
from idpersona.registry.table import WEIGHTS
from idpersona.registry.verify import FileCheck, verify
from idpersona.registry.weight import Kind, Weight

__all__ = [
    "WEIGHTS",
    "FileCheck",
    "Kind",
    "Weight",
    "get_weight",
    "installed",
    "locate",
    "models_home",
    "pull",
    "require_commercial",
    "verify",
    "weight_names",
]


def get_weight(name: str) -> Weight:
    """The entry ``name``.

    Raises:
        UnknownName: no such entry; the nearest names are offered.
    """
    if name not in WEIGHTS:
        raise UnknownName("weights", name, WEIGHTS)
    return WEIGHTS[name]


def weight_names(kind: Kind | None = None) -> tuple[str, ...]:
    """Names of all weights, or of those of one kind, in the order of the table."""
    return tuple(name for name, weight in WEIGHTS.items() if kind in (None, weight.kind))


def require_commercial(names: Iterable[str]) -> None:
    """Refuse weights whose licence does not allow commercial use.

    Names that are in no registry (a folder, a hub id) are refused too: their licence is not known.

    Raises:
        LicenceRefused: naming the first such weights and their licence.
    """
    for name in names:
        weight = WEIGHTS.get(name)
        if weight is None:
            raise LicenceRefused(f"--commercial: the licence of '{name}' is not known to the registry")
        if not weight.commercial:
            raise LicenceRefused(f"--commercial: '{name}' may not be used commercially ({weight.licence})")
