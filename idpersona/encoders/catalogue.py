"""Encoders by name. A new encoder is a file beside this one and one ``register_encoder`` line."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from idpersona.encoders.base import Encoder
from idpersona.errors import BadInput, UnknownName

Subject = Literal["face", "object"]


@dataclass(frozen=True)
class _Entry:
    factory: Callable[..., Encoder]
    subject: Subject
    origin: str
    weights: tuple[str, ...]


_ENTRIES: dict[str, _Entry] = {}
_LOADED: dict[tuple[str, tuple[tuple[str, object], ...]], Encoder] = {}
_LOCK = threading.RLock()


def register_encoder(
    name: str,
    factory: Callable[..., Encoder],
    *,
    subject: Subject = "face",
    weights: str | Sequence[str] | None = None,
) -> None:
    """Make ``factory(**options)`` known as ``name``; warns, naming both origins, when the name is taken.

    ``weights`` are the registry names of all weights that it uses, where that is not ``name`` alone.
    """
    if subject not in ("face", "object"):
        raise BadInput(f"subject must be 'face' or 'object', got {subject!r}")
    origin = f"{factory.__module__}.{getattr(factory, '__qualname__', factory)}"
    with _LOCK:
        before = _ENTRIES.get(name)
        if before is not None and before.origin != origin:
            warnings.warn(f"encoder '{name}' of {before.origin} is replaced by {origin}", stacklevel=2)
        used = (weights,) if isinstance(weights, str) else tuple(weights or (name,))
        _ENTRIES[name] = _Entry(factory, subject, origin, used)
        release_encoders(name)


def encoder_names(subject: Subject | None = None) -> tuple[str, ...]:
    """Registered names, sorted; of one subject or of all."""
    return tuple(sorted(name for name, entry in _ENTRIES.items() if subject in (None, entry.subject)))


def encoder_subject(name: str) -> Subject:
    """Whether an encoder reads faces or whole objects; UnknownName when there is none of that name."""
    if name not in _ENTRIES:
        raise UnknownName("encoder", name, encoder_names())
    return _ENTRIES[name].subject


def encoder_weights(name: str) -> tuple[str, ...]:
    """Registry names of all weights that an encoder uses, those by which it finds faces among them.

    Raises UnknownName when there is no such encoder.
    """
    encoder_subject(name)
    return _ENTRIES[name].weights


def get_encoder(name: str, **options: Any) -> Encoder:
    """The encoder ``name``, loaded once for each set of options.

    Raises:
        UnknownName: no such encoder; the nearest names are offered.
        MissingWeights: its weights are not on this machine, or damaged.
    """
    encoder_subject(name)
    key = (name, tuple(sorted((k, repr(v)) for k, v in options.items())))
    with _LOCK:
        if key not in _LOADED:
            _LOADED[key] = _ENTRIES[name].factory(**options)
        return _LOADED[key]


def release_encoders(name: str | None = None) -> None:
    """Forget loaded encoders (of one name or all), so that their memory is freed."""
    with _LOCK:
        for key in [key for key in _LOADED if name in (None, key[0])]:
            del _LOADED[key]
