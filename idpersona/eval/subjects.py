"""The people of a protocol with their photos: one reference each, the others for the prototype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from idpersona.errors import BadInput, PhotoError
from idpersona.eval.finders import Finder, RememberedFaces
from idpersona.eval.progress import track
from idpersona.eval.protocol import Protocol
from idpersona.training.data.archives import PhotoStore
from idpersona.training.data.framing import frame


@dataclass(frozen=True)
class Photo:
    """A real photo in which a face was found; keypoints float32 [5, 2] in its pixels."""

    file: str
    image: Image.Image
    keypoints: np.ndarray

    def framed(
        self,
        size: int,
        *,
        shift: tuple[float, float] = (0.0, 0.0),
        scale: float = 1.0,
        roll_degrees: float = 0.0,
    ) -> tuple[Image.Image, np.ndarray]:
        """The photo as the embedded model would show it: picture size x size and its keypoints [5, 2]."""
        return frame(self.image, self.keypoints, size, shift=shift, scale=scale, roll_degrees=roll_degrees)


@dataclass(frozen=True)
class Subject:
    """A held-out person: ``reference`` is what an adapter reads, ``others`` make the prototype."""

    name: str
    reference: Photo
    others: tuple[Photo, ...]


def open_photo(store: PhotoStore, faces: RememberedFaces, file: str) -> Photo | str:
    """The photo with its face, or the reason why it cannot be used."""
    try:
        image = store.open(file)
    except PhotoError as error:
        return str(error)
    found = faces.find(file, image)
    return f"no face found in {file}" if found is None else Photo(file, image, found.keypoints)


def gather_subjects(
    protocol: Protocol, store: PhotoStore, finder: Finder, *, cache: Path | None = None, quiet: bool = False
) -> tuple[list[Subject], list[str]]:
    """The first ``protocol.people`` people whose reference and at least one other photo show a face.

    Returns the people and a line for every photo or person that had to be left out, for the report.

    Raises:
        BadInput: fewer than two people are left.
    """
    faces = RememberedFaces(finder, cache)
    subjects: list[Subject] = []
    failures: list[str] = []
    candidates = protocol.candidates()[: protocol.people + 64]
    for name, reference_file, other_files in track(
        candidates, "reading people", total=len(candidates), quiet=quiet
    ):
        if len(subjects) == protocol.people:
            break
        reference = open_photo(store, faces, reference_file)
        if isinstance(reference, str):
            failures.append(f"{name} left out: {reference}")
            continue
        others = [open_photo(store, faces, file) for file in other_files]
        failures.extend(reason for reason in others if isinstance(reason, str))
        usable = tuple(photo for photo in others if isinstance(photo, Photo))
        if not usable:
            failures.append(f"{name} left out: no other photo with a face")
            continue
        subjects.append(Subject(name, reference, usable))
    faces.save()
    if len(subjects) < 2:
        raise BadInput(f"only {len(subjects)} people with photos are left; the first reason: {failures[:1]}")
    return subjects, failures


def one_photo_each(
    protocol: Protocol,
    store: PhotoStore,
    finder: Finder,
    count: int,
    *,
    cache: Path | None = None,
    quiet: bool = False,
) -> tuple[list[Photo], list[str]]:
    """Up to ``count`` held-out photos with a face, spread over as many people as possible.

    People take turns in the order of their names; the report names what was left out.
    """
    people = protocol.split_people()
    longest = max((len(files) for files in people.values()), default=0)
    turns = [files[turn] for turn in range(longest) for files in people.values() if turn < len(files)]
    faces = RememberedFaces(finder, cache)
    photos: list[Photo] = []
    failures: list[str] = []
    wanted: Sequence[str] = turns[: count + count // 4 + 16]
    for file in track(wanted, "reading photos", total=len(wanted), quiet=quiet):
        if len(photos) == count:
            break
        photo = open_photo(store, faces, file)
        if isinstance(photo, str):
            failures.append(photo)
        else:
            photos.append(photo)
    faces.save()
    if not photos:
        raise BadInput(f"no usable photo of {len(people)} people; the first reason: {failures[:1]}")
    return photos, failures
