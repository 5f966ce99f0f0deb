"""What an objective gives to be drawn with, and a scope in which drawing leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from idpersona.adapters.base import Adapter
from idpersona.identity import Identity
from idpersona.images import Photo


@dataclass(frozen=True)
class Drawing:
    """A pipeline that draws with what is trained, as users draw.

    Attributes:
        pipe: a stock text-to-image pipeline of diffusers, on the device of the trained parts.
        adapter: is attached to it for each person; None: the pipeline draws by itself.
        read: the identity in a photo, for the adapter.
        alone: besides, the pipeline is drawn with by itself, nobody being told.
        photos: of the one person that the pipeline has learnt; none where it has learnt nobody.
        size: width and height of the pictures; None for what the base was made for.
    """

    pipe: Any
    adapter: Adapter | None = None
    read: Callable[[Photo], Identity] | None = None
    alone: bool = False
    photos: Sequence[str] = ()
    size: tuple[int, int] | None = None


class Draws(Protocol):
    """What samples need of an objective; see ``loop.Objective``."""

    trained: Any

    def drawing(self) -> AbstractContextManager[Drawing]: ...


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Without gradients; torch's, numpy's and Python's own random numbers go on as if nothing was drawn."""
    python, arrays = random.getstate(), np.random.get_state()
    kind = "cuda" if device.type == "cpu" else device.type
    devices = [] if device.type == "cpu" else [device]
    try:
        with torch.random.fork_rng(devices, device_type=kind), torch.no_grad():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
