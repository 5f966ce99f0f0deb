"""Who is in the picture: one identity, or several in regions of one canvas."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from idpersona.errors import BadInput
from idpersona.hashing import identity_sha256
from idpersona.identity import Identity
from idpersona.jobs.request import Request
from idpersona.jobs.sources import Sources
from idpersona.jobs.weights import Reading
from idpersona.safety import check_identity, read_allowed
from idpersona.safety.people import People

Region = tuple[int, int, int, int] | str
"""A box in pixels, or the path of a mask."""


@dataclass(frozen=True)
class Member:
    """One identity, where it is (None: on the whole canvas), and how it was named."""

    identity: Identity
    region: Region | None
    told: str


@dataclass(frozen=True)
class Cast:
    """All who are in the picture; ``warnings`` are of what was read just now."""

    members: tuple[Member, ...]
    warnings: tuple[str, ...] = ()

    @property
    def on_canvas(self) -> Identity | Mapping[Identity, Region]:
        """What ``attach`` takes."""
        if self.members[0].region is None:
            return self.members[0].identity
        return {member.identity: member.region for member in self.members if member.region is not None}

    @property
    def sha256(self) -> str:
        """Of everybody's features, in order."""
        hashes = [identity_sha256(member.identity) for member in self.members]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def check_canvas(self, canvas: tuple[int, int]) -> None:
        """Raises BadInput when a region leaves a canvas of that width and height, or is empty."""
        regions = [member.region for member in self.members if member.region is not None]
        if regions:
            from idpersona.seams.region import Regions

            Regions(regions).masks(canvas)

    def record(self, request: Request, sources: Sources) -> dict[str, Any]:
        """What a picture's settings say of it: sources and hashes, never the identities themselves."""
        if request.persons:
            source, names = "persons", [member.told for member in self.members]
        elif request.identity:
            source, names = "file", [request.identity]
        else:
            source, names = "photos", list(request.photos)
        identities = [member.identity for member in self.members]
        record = {
            "from": source,
            "sources": [sources.describe(str(name)) for name in names],
            "face": request.face,
            "kind": identities[0].kind,
            "encoders": {name: f.weights_sha256 for one in identities for name, f in one.features.items()},
            "features_sha256": self.sha256,
            "photos_sha256": [sha for one in identities for sha in one.sources],
            "consent": all(one.consent for one in identities),
        }
        if request.persons:
            record["photo_consent"] = request.consent
            record["regions"] = [_describe(member.region, sources) for member in self.members]
        if request.masks:
            record["masks"] = [_describe(mask, sources) for mask in request.masks]
        return record


def read_cast(request: Request, reading: Reading, adapters: Sequence[str], people: People) -> Cast:
    """Load or read everybody who was asked for, and refuse whom the people registry refuses.

    Raises:
        IdPersonaError: whatever is wrong with a file, a photo or a region, in one line.
    """
    if request.identity is not None:
        return Cast((Member(_load(request.identity, reading, adapters, people), None, request.identity),))
    if request.photos:
        identity = _read(list(request.photos), reading, people, request)
        return Cast((Member(identity, None, "the identity read from --photo"),), identity.warnings)
    members, warnings = [], []
    for text in request.persons:
        file, region = _parse(text)
        if Path(file).suffix == ".safetensors":
            identity = _load(file, reading, adapters, people)
        else:
            identity = _read([file], reading, people, request)
            warnings += [f"{file}: {warning}" for warning in identity.warnings]
        members.append(Member(identity, region, file))
    if len({identity_sha256(member.identity) for member in members}) < len(members):
        raise BadInput("--person names the same identity twice: a picture holds each person once")
    return Cast(tuple(members), tuple(warnings))


def _load(file: str, reading: Reading, adapters: Sequence[str], people: People) -> Identity:
    identity = Identity.load(file)
    if reading.subject == "object" and identity.kind == "face":
        raise BadInput(
            f"{file} is of a face, and {adapters[0]} draws objects: read the photo as one, with a mask "
            f"(idpersona identify PHOTO --subject object --for {adapters[0]} --mask face -o {file})"
        )
    identity.require(reading.encoders, needed_by=", ".join(adapters))
    check_identity(identity, people, file)
    return identity


def _read(photos: list[str], reading: Reading, people: People, request: Request) -> Identity:
    options: dict[str, Any] = {"subject": reading.subject, "consent": bool(request.consent)}
    if reading.subject == "face":
        if request.masks:
            raise BadInput("--mask is for adapters that draw objects, as anymaker")
        options["face"] = request.face
    else:
        if request.face is not None:
            raise BadInput("--face is for adapters that draw faces")
        several = len(request.masks) > 1
        options["mask"] = list(request.masks) if several else next(iter(request.masks), reading.mask)
    return read_allowed(photos, reading.encoders, people, **options)


def _parse(text: str) -> tuple[str, Region]:
    """``FILE@x,y,w,h`` or ``FILE@MASK``."""
    file, at, place = text.rpartition("@")
    if not at or not file or not place:
        raise BadInput(f"--person takes FILE@x,y,width,height or FILE@MASK.png, got '{text}'")
    parts = place.split(",")
    if len(parts) != 4:
        return file, place
    try:
        x, y, width, height = (int(part) for part in parts)
    except ValueError:
        return file, place
    return file, (x, y, width, height)


def _describe(region: Region | None, sources: Sources) -> Any:
    from idpersona.encoders.subject import MASKS

    if isinstance(region, tuple):
        return ",".join(map(str, region))
    return region if region in MASKS else sources.describe(str(region))
