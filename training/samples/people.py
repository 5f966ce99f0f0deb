"""The people of the samples: who is drawn, and whose faces drawn ones are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from idpersona.encoders.published import MINI_FRAME
from idpersona.errors import NoFaceFound
from idpersona.identity import Identity
from idpersona.images import SAMPLE_PREFIX, Photo, open_photo_full
from idpersona.training.samples.judging import Witness

_SHOWN = 256
"""Side of the face that is shown beside the pictures, in pixels."""


@dataclass(frozen=True)
class Person:
    """One row of the sheet, or somebody to be told apart from.

    Attributes:
        name: of the photo.
        sha256: of the photo.
        face: cut out of the photo, upright.
        seen: what the judge sees in it, float32 [D].
        identity: what the adapter is told; None where there is no adapter.
    """

    name: str
    sha256: str
    face: Image.Image
    seen: np.ndarray
    identity: Identity | None = None


def read_people(
    photos: Sequence[str], witness: Witness, read: Callable[[Photo], Identity] | None
) -> list[Person]:
    """One person for each photo.

    Raises:
        PhotoError: a photo cannot be read.
        NoFaceFound: the judge or the adapter finds no face in one; says in which.
    """
    stems = [Path(photo.removeprefix(SAMPLE_PREFIX)).stem for photo in photos]
    names = stems if len(set(stems)) == len(stems) else [str(photo) for photo in photos]
    people: list[Person] = []
    for name, photo in zip(names, photos, strict=True):
        person = _person(name, photo, witness)
        if person is None:
            raise NoFaceFound(photo)
        identity = None if read is None else read(photo)
        people.append(Person(name, person.sha256, person.face, person.seen, identity))
    return people


def read_learnt(photos: Sequence[str], witness: Witness) -> Person | None:
    """The one person of all ``photos``, by the mean of the faces; None where none shows a face."""
    found = [person for photo in photos if (person := _person("person", photo, witness))]
    if not found:
        return None
    seen = np.mean([person.seen for person in found], axis=0)
    return Person("person", found[0].sha256, found[0].face, seen)


def _person(name: str, photo: str, witness: Witness) -> Person | None:
    opened = open_photo_full(photo)
    found = witness.look(opened.image)
    if found is None:
        return None
    face, seen = found
    return Person(name, opened.sha256, MINI_FRAME.cut(opened.image, face.keypoints, _SHOWN), seen)
