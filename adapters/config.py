"""What the configurations of adapters share: JSON in and out, every field checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from idpersona.errors import CheckpointError


@dataclass(frozen=True)
class AdapterConfig:
    """Base of configurations. Of which kind a field is, its default says: texts, truth values, whole numbers
    from 1 on (from 0 on, where it is 0), finite numbers from 0 on, tuples of texts or whole numbers; where it
    is None, None or tuples of finite numbers above 0."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, wanted = getattr(self, field.name), type(field.default)
            if wanted is float and type(value) is int:
                object.__setattr__(self, field.name, value := float(value))
            if wanted is type(None):
                valid = value is None or (
                    isinstance(value, tuple) and bool(value) and all(map(_positive, value))
                )
            else:
                valid = type(value) is wanted and (_sensible(value) or value == field.default == 0)
            if not valid:
                raise CheckpointError(f"{type(self).__name__}: {field.name} cannot be {value!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from parsed JSON.

        Raises:
            CheckpointError: a field is unknown or of a wrong type; it is named.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = [name for name in values if name not in known]
        if unknown:
            raise CheckpointError(f"{cls.__name__}: unknown field {', '.join(unknown[:3])}")
        # JSON has no tuples.
        return cls(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)


def _sensible(value: Any) -> bool:
    if isinstance(value, bool):
        return True
    if isinstance(value, int):
        return value >= 1
    if isinstance(value, float):
        return math.isfinite(value) and value >= 0
    if isinstance(value, tuple):
        return bool(value) and all(type(part) in (str, int) and _sensible(part) for part in value)
    return bool(value)


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def check_sizes(part: Any, sizes: Mapping[str, Any], what: str, *, wrong: Iterable[str] = ()) -> None:
    """Refuse a trained part whose own configuration differs from the adapter's.

    Args:
        part: a diffusers component.
        sizes: what the adapter's configuration says of it.
        what: the part's name, for the message.
        wrong: fields known to be wrong already.

    Raises:
        CheckpointError: the first three fields that differ are named.
    """
    found = [*wrong, *(key for key, value in sizes.items() if _plain(part.config[key]) != _plain(value))]
    if found:
        raise CheckpointError(f"{what} differs from its configuration in {', '.join(found[:3])}")


def _plain(value: Any) -> Any:
    """Sequences from JSON and from Python compare as equal."""
    return list(value) if isinstance(value, (list, tuple)) else value
