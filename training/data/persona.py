"""A handful of photos of one person, and the pictures that keep the base what it was, for a persona."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idpersona.encoders import DEFAULT_ENCODER, get_encoder
from idpersona.errors import BadInput, NoFaceFound
from idpersona.images import open_photo
from idpersona.pipelines.inversion.photos import fit_photo, fit_points
from idpersona.training.data.framing import frame

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Portrait:
    """A picture as it is drawn, and the keypoints of its face in it, float32 [5, 2] pixels; None without."""

    picture: Image.Image
    keypoints: np.ndarray | None


def photo_files(place: str | Sequence[str]) -> list[str]:
    """The photos of a folder in the order of their names, or those that were listed.

    Raises:
        BadInput: there are none.
    """
    if not isinstance(place, str):
        found = list(place)
    elif Path(place).is_dir():
        found = sorted(str(p) for p in Path(place).iterdir() if p.suffix.lower() in SUFFIXES)
    else:
        found = [place]
    if not found:
        raise BadInput(
            f"no photos in {place}: give a folder with pictures ({', '.join(SUFFIXES)}), or a list"
        )
    return found


def find_points(picture: Image.Image) -> np.ndarray | None:
    """Keypoints of the largest face that the default encoder finds, float32 [5, 2] pixels; None without."""
    encoder: Any = get_encoder(DEFAULT_ENCODER)
    faces = encoder.detect(picture)
    return faces[0].keypoints if faces else None


def read_portraits(
    photos: Sequence[str | Image.Image], size: tuple[int, int], *, face: bool, needed: bool
) -> list[Portrait]:
    """Photos as pictures of ``size`` (width, height), with their largest face found by the default encoder.

    Args:
        face: cut out upright, as the embedded model was trained on; otherwise the middle of each photo.
        needed: raise where no face is found, or it is not in the picture.

    Raises:
        PhotoError: a photo cannot be read.
        NoFaceFound: a face that is needed is missing; says in which photo.
        BadInput: it is not in the picture.
    """
    found: list[Portrait] = []
    for photo in photos:
        name = photo if isinstance(photo, str) else "a generated picture"
        image = open_photo(photo)
        points = find_points(image)
        if points is None:
            if needed or face:
                raise NoFaceFound(name)
            found.append(Portrait(fit_photo(image, size), None))
            continue
        if face:
            picture, points = frame(image, points, size[0])
        else:
            picture, points = fit_photo(image, size), fit_points(points, image.size, size)
        inside = bool(((points >= 0) & (points < size)).all())
        if needed and not inside:
            raise BadInput(f"the face in {name} is not in its middle, which is trained on: crop the photo")
        found.append(Portrait(picture, points if inside else None))
    return found
