"""Talking to the model hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from idpersona.errors import MissingWeights, first_line


@contextmanager
def hub_client(failed: str, advice: str = "") -> Iterator[None]:
    """Around calls of the hub's client: whatever it raises becomes MissingWeights.

    Its own errors, those of its HTTP library (which has changed once) and the system's share no type.

    Args:
        failed: what could not be done, the beginning of the message.
        advice: its end.
    """
    try:
        yield
    except Exception as error:
        raise MissingWeights(f"{failed}: {first_line(error)}{advice}") from error


def unreachable_base(base: str, error: BaseException) -> MissingWeights:
    """What to raise when the hub id ``base`` could not be read because of ``error``."""
    return MissingWeights(
        f"base '{base}' is no folder, not in the hub's cache, and could not be fetched "
        f"({first_line(error)}); without a network use 'mini' or a folder"
    )
