"""idpersona: read who is in a photo once, keep it as a small safe file, put it into any diffusion pipeline.

Names are resolved on first use, so that ``import idpersona`` costs milliseconds and loads neither torch nor
diffusers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from idpersona.encoders import read_identity
    from idpersona.identity import Identity

__version__ = "0.1.0"
__all__ = ["Identity", "__version__", "read_identity"]

_HOMES = {"Identity": "idpersona.identity", "read_identity": "idpersona.encoders"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'idpersona' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
