"""The rows of a dataset's files, as they must be; and reading such files line by line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from idpersona.errors import BadInput

METADATA = "metadata.jsonl"
PAIRS = "pairs.jsonl"
REJECTED = "rejected.jsonl"
REPORT = "report.html"
Point = tuple[float, float]


class _Row(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


class PhotoRow(_Row):
    """One photo, a line of ``metadata.jsonl``, which Hugging Face's image folders read.

    Attributes:
        file_name: of the picture, relative to the dataset.
        caption: "" for none.
        bbox: x0, y0, x1, y1 of the largest face, in pixels of the upright picture, cut at its border.
        landmarks: eyes, tip of the nose, corners of the mouth in pixels, left in the picture first.
        faces: in the picture.
        face_area: share of the picture that the box covers, 0..1.
        identity: of the largest face; equal for photos of one person.
        sha256: of the picture's file.
        width, height: of the upright picture in pixels.
        consent: whether the person agreed.
        licence: of the photo, "" where unknown.
        source: where the photo came from.
    """

    file_name: Annotated[str, Field(min_length=1)]
    caption: str
    bbox: tuple[float, float, float, float]
    landmarks: tuple[Point, Point, Point, Point, Point]
    faces: Annotated[int, Field(ge=1)]
    face_area: Annotated[float, Field(ge=0, le=1)]
    identity: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    consent: bool
    licence: str
    source: str


class PairRow(_Row):
    """Two photos of one person, a line of ``pairs.jsonl``: the one to be told and the one to be drawn.

    Attributes:
        reference, target: file names as in ``metadata.jsonl``.
        identity: of both.
        distance: of their embeddings, in the encoder's measure.
    """

    reference: str
    target: str
    identity: str
    distance: Annotated[float, Field(ge=0)]


class RejectedRow(_Row):
    """A photo that is not in the dataset, a line of ``rejected.jsonl``: the rule that refused it, and why."""

    file: str
    rule: str
    reason: str


RowT = TypeVar("RowT", PhotoRow, PairRow, RejectedRow)


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write JSON objects, one a line; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of the lines of a file that hold anything; BadInput when it is not there."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for number, text in enumerate(stream, start=1):
                if text.strip():
                    yield number, text
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from error


def read_photos(folder: Path) -> list[PhotoRow]:
    """The photos of a dataset, in the order of its table.

    Raises:
        BadInput: there is no dataset, or a line of its table is damaged.
    """
    return _read(folder, METADATA, PhotoRow)


def read_pairs(folder: Path) -> list[PairRow]:
    """The pairs of a dataset; raises BadInput as :func:`read_photos`."""
    return _read(folder, PAIRS, PairRow)


def _read(folder: Path, name: str, kind: type[RowT]) -> list[RowT]:
    if not (folder / name).is_file():
        raise BadInput(f"{folder} has no {name}: build a dataset with idpersona dataset build SRC -o DST")
    rows: list[RowT] = []
    for line, text in read_lines(folder / name):
        try:
            rows.append(kind.model_validate_json(text))
        except ValidationError as error:
            raise BadInput(
                f"{folder / name} line {line} is damaged: idpersona dataset check {folder} says how"
            ) from error
    return rows
