"""Photos with real faces, composed of the synthetic people and the astronaut that come with idpersona."""

from __future__ import annotations

import hashlib
import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idpersona.images import open_photo

PEOPLE = ("person-1", "person-2", "person-3", "person-4", "astronaut")


@cache
def head(name: str) -> Image.Image:
    """A person's head, square."""
    photo = open_photo(f"sample:{name}")
    return photo.crop((130, 20, 330, 220)) if name == "astronaut" else photo


def background(size: tuple[int, int], seed: int) -> Image.Image:
    """Soft patches of colour, others for each seed: no two of them have one perceptual hash."""
    patches = np.random.default_rng(seed).integers(30, 225, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)


def compose(size: tuple[int, int], seed: int, *heads: tuple[str, int, int, int]) -> Image.Image:
    """A picture of ``size`` with heads (name, side, left, top) in pixels."""
    picture = background(size, seed)
    for name, side, left, top in heads:
        picture.paste(head(name).resize((side, side), Image.Resampling.LANCZOS), (left, top))
    return picture


def jpeg(picture: Image.Image, quality: int = 92) -> bytes:
    """A picture's JPEG."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def contents(folder: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file of a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


CORNERS = ((0, 100), (110, 90), (60, 110))


def small_photo(number: int) -> tuple[str, Image.Image]:
    """Name of the person and photo ``number`` of :func:`small_photos`."""
    name, round_ = PEOPLE[number % 4], number // 4
    picture = compose((230, 230), 100 + number, (name, 120, *CORNERS[round_]))
    return name, picture.point(lambda value: min(255, int(value * (0.75 + 0.2 * round_))))


@pytest.fixture(scope="session")
def small_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of twelve photos of 230 px, three of each synthetic person, with captions; one has none."""
    folder = tmp_path_factory.mktemp("small")
    for number in range(12):
        # Three photos of a person in other places and light are no near-duplicates of each other.
        name, picture = small_photo(number)
        picture.save(folder / f"{number:02d}-{name}.png")
        if number != 7:
            (folder / f"{number:02d}-{name}.txt").write_text("a photo of a person")
    return folder
