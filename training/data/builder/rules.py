"""Which photos may stay: one small rule each, asked in a fixed order; the first that refuses is the reason.

The order is that of :data:`ORDER`: what costs nothing is asked before faces are looked for, faces before they
are compared with anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from idpersona.encoders.base import Face, FaceEncoder, Faces
from idpersona.errors import PersonRefused
from idpersona.identity import Feature, Identity
from idpersona.images import OpenedPhoto
from idpersona.safety.gate import check_identity, check_photo
from idpersona.safety.people import People
from idpersona.training.data.builder.settings import BuildSettings
from idpersona.training.data.builder.words import person_word

ORDER = {
    "readable": "the file is a picture that opens",
    "side": "its shorter side is long enough",
    "consent": "there is consent, where it is required",
    "caption": "the caption has a word for a person",
    "faces": "it shows as many faces as wanted",
    "face-area": "its largest face is large enough in the picture",
    "landmarks": "eyes, nose and mouth of that face lie inside the picture",
    "people": "the people registry does not refuse anybody in it",
    "near-duplicate": "it is no copy of a larger photo that stays",
}
"""Name of each rule -> what it wants, in the order in which they are asked."""
UNSHOWN = frozenset({"consent", "people"})
"""Rules whose rejects are not shown in the report."""


class Seen:
    """One photo, looked at only as far as the rules ask.

    Attributes:
        opened: the upright RGB picture.
        caption: "" for none.
        consent: whether the person agreed.
        encoder: finds the faces, and makes the embedding later.
    """

    def __init__(self, opened: OpenedPhoto, caption: str, consent: bool, encoder: FaceEncoder):
        self.opened, self.caption, self.consent, self.encoder = opened, caption, consent, encoder

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.opened.image.size

    @cached_property
    def faces(self) -> Faces:
        """All faces, largest first; none where not even one is found for sure."""
        found = self.encoder.detect(self.opened.image)
        sure = any(face.score >= self.encoder.sure_score for face in found)
        return found if sure else Faces((), found.sizes_tried)

    @cached_property
    def main(self) -> Face:
        """The largest face that is found for sure."""
        return next(face for face in self.faces if face.score >= self.encoder.sure_score)

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """Box of the main face, cut at the border of the picture."""
        width, height = self.size
        x0, y0, x1, y1 = self.main.box
        return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))

    @property
    def face_area(self) -> float:
        """Share of the picture that the main face's box covers, 0..1."""
        x0, y0, x1, y1 = self.box
        return max(x1 - x0, 0.0) * max(y1 - y0, 0.0) / (self.size[0] * self.size[1])

    def feature(self, face: Face) -> Feature:
        """The encoder's feature of one face."""
        encoder = self.encoder
        return Feature(
            encoder=encoder.name,
            values=np.atleast_2d(encoder.embed(self.opened.image, face)).astype(np.float32),
            weights_sha256=encoder.weights_sha256,
            preprocessing=encoder.preprocessing,
            normalised=encoder.normalised,
            licence=encoder.licence,
        )


class Rule(Protocol):
    """``refuses`` gives the reason, with numbers, or None; ``name`` is a key of :data:`ORDER`."""

    @property
    def name(self) -> str: ...

    def refuses(self, photo: Seen) -> str | None: ...


@dataclass(frozen=True)
class Side:
    """The shorter side has ``least`` pixels or more."""

    least: int
    name: str = "side"

    def refuses(self, photo: Seen) -> str | None:
        side = min(photo.size)
        return None if side >= self.least else f"side {side} of at least {self.least}"


@dataclass(frozen=True)
class Consent:
    """The person agreed."""

    name: str = "consent"

    def refuses(self, photo: Seen) -> str | None:
        return None if photo.consent else "no consent"


@dataclass(frozen=True)
class Caption:
    """The caption has a word for a person."""

    name: str = "caption"

    def refuses(self, photo: Seen) -> str | None:
        if not photo.caption:
            return "no caption"
        if person_word(photo.caption):
            return None
        shown = photo.caption if len(photo.caption) <= 80 else f"{photo.caption[:79]}…"
        return f"no word for a person in '{shown}'"


@dataclass(frozen=True)
class FaceCount:
    """As many faces as wanted."""

    fewest: int
    most: int
    name: str = "faces"

    def refuses(self, photo: Seen) -> str | None:
        count = len(photo.faces)
        if self.fewest <= count <= self.most:
            return None
        wanted = str(self.fewest) if self.fewest == self.most else f"{self.fewest} to {self.most}"
        return f"{count} face{'' if count == 1 else 's'} of {wanted}"


@dataclass(frozen=True)
class FaceArea:
    """The main face's box covers ``least`` of the picture (0..1) or more."""

    least: float
    name: str = "face-area"

    def refuses(self, photo: Seen) -> str | None:
        share = photo.face_area
        if share >= self.least:
            return None
        # Cut off, not rounded: what is refused must not look as if it were enough.
        return f"face area {int(share * 10_000) / 100:g} % of at least {100 * self.least:g} %"


@dataclass(frozen=True)
class Landmarks:
    """The five points lie inside the picture."""

    name: str = "landmarks"

    def refuses(self, photo: Seen) -> str | None:
        points = photo.main.keypoints
        outside = ((points < 0) | (points > np.array(photo.size) - 1)).any(axis=1)
        count = int(outside.sum())
        return None if count == 0 else f"{count} of 5 landmarks outside of the picture"


@dataclass(frozen=True)
class Registry:
    """Nobody in the photo is refused by the people registry, bystanders among them."""

    people: People
    name: str = "people"

    def refuses(self, photo: Seen) -> str | None:
        if not self.people.guards:
            return None
        try:
            if set(self.people.encoders) <= {photo.encoder.name}:
                # The faces that were found are compared as they are: looking for them again takes as long.
                for face in photo.faces:
                    feature = photo.feature(face)
                    identity = Identity(kind="face", features={photo.encoder.name: feature})
                    check_identity(identity, self.people, "the photo")
            else:
                check_photo(photo.opened.image, self.people, "the photo")
        except PersonRefused as error:
            return str(error)
        return None


def make_rules(settings: BuildSettings, people: People) -> tuple[Rule, ...]:
    """The rules of a build that look at one photo, in their order."""
    rules: list[Rule] = [Side(settings.min_side)]
    if settings.require_consent:
        rules.append(Consent())
    if settings.caption == "person":
        rules.append(Caption())
    rules += [FaceCount(*settings.faces), FaceArea(settings.face_area), Landmarks(), Registry(people)]
    return tuple(rules)
