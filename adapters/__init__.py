"""Adapters: trained (or training-free) methods that put an identity into a diffusion model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import torch

    from idpersona.adapters.base import Adapter

Subject = Literal["face", "object"]


class Method(NamedTuple):
    """What is known of a method before it is imported.

    Attributes:
        module, attribute: where its class is.
        subject: what it reads an identity of, where nothing else is asked for.
        weightless: nothing of it is trained: it is loaded by its name for every base.
    """

    module: str
    attribute: str
    subject: Subject = "face"
    weightless: bool = False


METHODS = {
    "instantid": Method("idpersona.adapters.instantid.adapter", "InstantID"),
    "infinite-id": Method("idpersona.adapters.infinite_id.adapter", "InfiniteID"),
    "wplus": Method("idpersona.adapters.wplus.adapter", "WPlus"),
    "anymaker": Method("idpersona.adapters.anymaker.adapter", "AnyMaker", subject="object"),
    "ip-adapter": Method("idpersona.adapters.ip_adapter.adapter", "IPAdapter", subject="object"),
    "faceid": Method("idpersona.adapters.ip_adapter.adapter", "FaceID"),
    "decor": Method("idpersona.adapters.decor.adapter", "Decor", weightless=True),
}
"""Methods by registry name, imported when they are asked for."""
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".ckpt")
"""Suffixes of single files that published adapters come in."""

__all__ = [
    "METHODS",
    "WEIGHT_FILES",
    "Method",
    "adapter_class",
    "adapter_names",
    "check_options",
    "is_place",
    "load_adapter",
]


def is_place(name: str | os.PathLike[str]) -> bool:
    """Whether ``name`` is a folder, or a file of weights."""
    path = Path(name)
    return path.is_dir() or (path.suffix in WEIGHT_FILES and path.is_file())


def adapter_names() -> tuple[str, ...]:
    """Registry names of all methods."""
    return tuple(METHODS)


def adapter_class(name: str) -> type[Adapter]:
    """The class of a method.

    Raises:
        UnknownName: no such method; the nearest names are offered.
    """
    from importlib import import_module

    from idpersona.errors import UnknownName

    if name not in METHODS:
        raise UnknownName("adapter", name, METHODS)
    return getattr(import_module(METHODS[name].module), METHODS[name].attribute)


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that adapter ``name`` (as for :func:`load_adapter`) would refuse when it is attached.

    Loads no weights; those of a hub id that is not here yet are checked when it is attached.

    Raises:
        BadInput: an option is unknown to it, or has no meaning.
    """
    from idpersona.adapters.loading import known_method

    method = known_method(name)
    if method is not None:
        adapter_class(method).check_options(options)


def load_adapter(
    name: str | os.PathLike[str],
    base: Any = "mini",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    **options: Any,
) -> Adapter:
    """Load an adapter by registry name, folder or hub id.

    Args:
        name: ``instantid``, a folder (``./instantid``) of ours (``adapter.json``) or of a
            published layout, or a hub id.
        base: what it will be attached to: a registry name, a folder, a hub id or a pipeline object.
        device: None takes that of ``base`` if it is a pipeline, else the CPU.
        dtype: None takes that of ``base`` if it is a pipeline, else float32.
        options: given to the adapter's ``from_pretrained``.

    Raises:
        UnknownName: no such adapter.
        MissingWeights: the weights are not on this machine.
        CheckpointError: they are damaged, or do not fit ``base``.
    """
    from idpersona.adapters.loading import load

    return load(name, base, device=device, dtype=dtype, **options)
