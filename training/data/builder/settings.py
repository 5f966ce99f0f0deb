"""What a build is asked for, checked before any photo is read."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from idpersona.errors import BadInput

SourceKind = Literal["auto", "folder", "webdataset", "datasets"]
CaptionRule = Literal["person", "any"]
SOURCE_KINDS: tuple[SourceKind, ...] = ("auto", "folder", "webdataset", "datasets")
_FINISHING = frozenset({"same_person", "keep_duplicates", "pairs_per_photo"})


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """Options of ``idpersona dataset build``; the defaults are the rules of FaceID-6M (arXiv:2503.07091).

    Attributes:
        source: a folder, files, or a dataset of the hub, as typed.
        kind: how to read it; ``auto`` looks.
        split, image_column, caption_column: of a source with splits or columns; "" finds the column.
        min_side: smallest width and height in pixels.
        faces: fewest and most faces in a photo.
        face_area: smallest share of the picture that the largest face's box covers, 0..1.
        caption: ``person`` wants a word for a person in the caption, ``any`` takes all, also none.
        consent: what counts for photos whose own metadata say nothing; ``licence`` likewise.
        require_consent: reject photos without consent.
        encoder: face encoder of the registry, which also finds the faces.
        link: point to the photos where they lie instead of giving the dataset its own.
        same_person: distance up to which photos count as one person, in the encoder's measure; None takes
            the calibrated one.
        keep_duplicates: do not look for near-duplicates.
        pairs_per_photo: references listed for each photo, at most.

    Raises:
        BadInput: a number out of its range.
    """

    source: str
    kind: SourceKind = "auto"
    split: str = "train"
    image_column: str = ""
    caption_column: str = ""
    min_side: int = 512
    faces: tuple[int, int] = (1, 3)
    face_area: float = 0.04
    caption: CaptionRule = "person"
    consent: bool = False
    licence: str = ""
    require_consent: bool = False
    encoder: str = "dlib"
    link: bool = False
    same_person: float | None = None
    keep_duplicates: bool = False
    pairs_per_photo: int = 4

    def __post_init__(self) -> None:
        if not self.source:
            raise BadInput("SRC is empty: give a folder of pictures, *.tar files or a dataset")
        if self.kind not in SOURCE_KINDS:
            raise BadInput(f"--format must be one of {', '.join(SOURCE_KINDS)}, got '{self.kind}'")
        if not 1 <= self.min_side <= 100_000:
            raise BadInput(f"--min-side must lie between 1 and 100000 pixels, got {self.min_side}")
        if not 1 <= self.faces[0] <= self.faces[1] <= 1000:
            raise BadInput(
                f"--faces wants FEWEST-MOST with 1 or more faces, as 1-3, got {_range(self.faces)}"
            )
        if not 0 <= self.face_area < 1:
            raise BadInput(f"--face-area is a share of the picture from 0 to 1, got {self.face_area:g}")
        if self.same_person is not None and not 0 < self.same_person < math.inf:
            raise BadInput(f"--same-person is a distance above 0, got {self.same_person:g}")
        if not 0 <= self.pairs_per_photo <= 1000:
            raise BadInput(f"--pairs-per-photo must lie between 0 and 1000, got {self.pairs_per_photo}")
        if len(self.licence) > 200 or not self.licence.isprintable():
            raise BadInput("--licence must be printable text of at most 200 characters")

    def as_dict(self) -> dict[str, Any]:
        """All settings in JSON types."""
        return {**asdict(self), "faces": list(self.faces)}

    def reading(self) -> dict[str, Any]:
        """Those on which it depends what is read of a single photo; with others its chunks must be redone.

        Where the source lies is not among them: the same photos may lie elsewhere on another machine.
        """
        return {k: v for k, v in self.as_dict().items() if k not in _FINISHING and k != "source"}


def parse_faces(text: str) -> tuple[int, int]:
    """``1-3`` or ``2`` as the fewest and the most; raises BadInput for another form."""
    match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", text.strip())
    if match is None:
        raise BadInput(f"--faces wants a number or FEWEST-MOST, as 1-3, got '{text}'")
    return int(match[1]), int(match[2] or match[1])


def parse_shard(text: str) -> tuple[int, int]:
    """``2/8`` as part 2 of 8; raises BadInput for another form, or a part that there is not."""
    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise BadInput(f"--shard wants PART/PARTS counted from 1, as 2/8, got '{text}'")
    return int(match[1]), int(match[2])


def _range(faces: tuple[int, int]) -> str:
    return f"{faces[0]}-{faces[1]}"
