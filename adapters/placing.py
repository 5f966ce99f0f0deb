"""Who is where: one identity per prompt on the whole canvas, or several people in regions of one picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from idpersona.adapters.people import People, as_people
from idpersona.errors import BadInput
from idpersona.identity import Identity
from idpersona.seams.call import Call
from idpersona.seams.mask import MaskFor, as_mask
from idpersona.seams.region import Box, Canvas, Regions


@dataclass(frozen=True)
class Place:
    """People who share a mask.

    Attributes:
        people: one for all prompts or one per prompt; a single one where regions were given.
        mask: [people or 1, 1, H, W], a function that gives it for a :class:`Call`, or None.
    """

    people: list[Identity]
    mask: Tensor | MaskFor | None


@dataclass(frozen=True)
class Placed:
    """All that ``attach`` was told of who is where.

    Attributes:
        places: one, or one for each region.
        regions: None where people have the whole canvas.
        factor: pixels of the canvas for each latent.
    """

    places: list[Place]
    regions: Regions | None = None
    factor: int = 8

    @property
    def people(self) -> list[Identity]:
        """Everybody, in the order in which they were given."""
        return [person for place in self.places for person in place.people]

    def canvas(self, call: Call) -> Canvas:
        """Width and height of the canvas in pixels."""
        return call.size[1] * self.factor, call.size[0] * self.factor

    def masks(self, call: Call) -> Tensor:
        """The regions' masks [people, 1, H, W]."""
        assert self.regions is not None
        return self.regions.masks(self.canvas(call), call.device)

    def anybody(self, call: Call) -> Tensor:
        """Where anybody is, [1, 1, H, W]."""
        return self.masks(call).amax(dim=0, keepdim=True)

    def boxes(self, canvas: Canvas) -> list[Box] | None:
        """What encloses each region on a canvas; None without regions."""
        if self.regions is None:
            return None
        return [self.regions.box(number, canvas) for number in range(len(self.regions))]


def place_people(
    identity: People | Mapping[Identity, Any] | None, name: str, mask: Any, pipe: Any, kind: str | None = None
) -> Placed:
    """Sort out the arguments ``identity`` and ``mask`` of ``attach``.

    Args:
        identity: one identity, a sequence with one per prompt, or {identity: region} for several people in
            every picture; a region as :class:`~idpersona.seams.region.Regions` takes it.
        name: of the adapter, for messages.
        mask: as for ``attach``; regions are masks already.
        kind: which identities the adapter keeps.

    Raises:
        BadInput: something else, or regions that are none.
    """
    factor = int(pipe.vae_scale_factor)
    if not isinstance(identity, Mapping):
        people = as_people(identity, name, kind)
        return Placed([Place(people, None if mask is None else as_mask(mask))], factor=factor)
    people = as_people(list(identity), name, kind)
    if mask is not None:
        raise BadInput(f"{name}: people in regions have masks already, no mask can be given beside them")
    placed = Placed([], Regions(list(identity.values())), factor)

    def own(number: int) -> MaskFor:
        return lambda call: placed.masks(call)[number : number + 1]

    placed.places.extend(Place([person], own(number)) for number, person in enumerate(people))
    return placed
