"""``idpersona dataset check``: what a training would stumble over, said before it starts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from idpersona.errors import BadInput, PhotoError
from idpersona.hashing import file_sha256
from idpersona.images import open_photo_full
from idpersona.training.data.builder.finish import FORMAT
from idpersona.training.data.builder.place import DATASET
from idpersona.training.data.builder.table import (
    METADATA,
    PAIRS,
    REJECTED,
    PairRow,
    PhotoRow,
    RejectedRow,
    RowT,
    read_lines,
)
from idpersona.training.data.builder.vectors import check_shard

_AGAIN = "mend the line, or build the dataset again"


@dataclass(frozen=True)
class Problem:
    """What is wrong, in which file, and in which line of it (None for the file as a whole)."""

    file: str
    line: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.file}{'' if self.line is None else f' line {self.line}'}: {self.text}"


@dataclass
class Checked:
    """What was found; ``notes`` are worth knowing and not wrong."""

    photos: int = 0
    people: int = 0
    problems: list[Problem] = field(default_factory=list[Problem])
    notes: list[str] = field(default_factory=list[str])

    def as_dict(self) -> dict[str, Any]:
        """In JSON types."""
        problems = [{"file": p.file, "line": p.line, "text": p.text} for p in self.problems]
        return {"photos": self.photos, "people": self.people, "problems": problems, "notes": self.notes}

    def wrong(self, file: str, line: int | None, text: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(file, line, text))


def check_dataset(folder: Path, *, hashes: bool = False, pairs: bool = False) -> Checked:
    """Check the files of a dataset and what they say of each other.

    Args:
        folder: the dataset; one that was not made by ``idpersona dataset build`` may be checked, too.
        hashes: open every picture, and compare sha256 and size with the table's.
        pairs: count people with one photo as wrong, as a training on pairs cannot use them.

    Raises:
        BadInput: there is no such folder, or it has no table of photos.
    """
    if not folder.is_dir():
        raise BadInput(
            f"there is no dataset {folder}: build one with idpersona dataset build SRC -o {folder}"
        )
    if not (folder / METADATA).is_file():
        raise BadInput(
            f"{folder} is no dataset, it has no {METADATA}: build one with idpersona dataset build"
        )
    found = Checked()
    rows: dict[str, tuple[int, PhotoRow]] = {}
    for line, row in _rows(folder / METADATA, PhotoRow, found):
        if row.file_name in rows:
            first = rows[row.file_name][0]
            found.wrong(METADATA, line, f"{row.file_name} is in line {first} already: remove one of them")
            continue
        rows[row.file_name] = (line, row)
        _check_photo(folder, line, row, found, hashes=hashes)
    found.photos = len(rows)
    _check_people(rows, found, pairs=pairs)
    _check_pairs(folder, rows, found)
    for _ in _rows(folder / REJECTED, RejectedRow, found) if (folder / REJECTED).is_file() else ():
        pass
    _check_arrays(folder, [row.sha256 for _, row in rows.values()], found)
    _check_about(folder, found, hashes=hashes)
    return found


def _rows(path: Path, kind: type[RowT], found: Checked) -> Iterator[tuple[int, RowT]]:
    """Line and row of each sound line; the others are problems."""
    for line, text in read_lines(path):
        try:
            yield line, kind.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            column = ".".join(str(part) for part in first["loc"])
            if first["type"] == "missing":
                found.wrong(path.name, line, f"column {column} is missing: {_AGAIN}")
            elif not column:
                found.wrong(path.name, line, f"no JSON object ({first['msg'][:80].lower()}): {_AGAIN}")
            else:
                given = json.dumps(first["input"])[:60]
                found.wrong(
                    path.name, line, f"column {column}: {first['msg'].lower()}, got {given}: {_AGAIN}"
                )


def _check_photo(folder: Path, line: int, row: PhotoRow, found: Checked, *, hashes: bool) -> None:
    name = PurePosixPath(row.file_name)
    if name.is_absolute() or ".." in name.parts:
        found.wrong(METADATA, line, f"{row.file_name} leads out of the dataset: name a picture in it")
        return
    size = f"its {row.width}x{row.height} pixels"
    if any(not (0 <= x <= row.width - 1 and 0 <= y <= row.height - 1) for x, y in row.landmarks):
        found.wrong(METADATA, line, f"landmarks of {row.file_name} lie outside of {size}: {_AGAIN}")
    x0, y0, x1, y1 = row.bbox
    if not (0 <= x0 < x1 <= row.width and 0 <= y0 < y1 <= row.height):
        found.wrong(METADATA, line, f"bbox of {row.file_name} is no x0, y0, x1, y1 within {size}: {_AGAIN}")
    path = folder / row.file_name
    if not path.is_file():
        gone = "its link leads nowhere" if path.is_symlink() else "it is not there"
        found.wrong(METADATA, line, f"{row.file_name}: {gone}: put the picture back, or remove the line")
        return
    if not hashes:
        return
    try:
        opened = open_photo_full(path, min_side=1)
    except PhotoError as error:
        found.wrong(METADATA, line, f"{error}: put the picture back, or remove the line")
        return
    if opened.sha256 != row.sha256:
        found.wrong(
            METADATA,
            line,
            f"{row.file_name} has changed, its hash is {opened.sha256[:12]}… instead of {row.sha256[:12]}…; "
            "put the old picture back, or build the dataset again",
        )
    elif opened.image.size != (row.width, row.height):
        real = f"{opened.image.width}x{opened.image.height}"
        found.wrong(METADATA, line, f"{row.file_name} has {real} pixels, not {size[4:]}: {_AGAIN}")


def _check_people(rows: dict[str, tuple[int, PhotoRow]], found: Checked, *, pairs: bool) -> None:
    counts = Counter(row.identity for _, row in rows.values())
    found.people = len(counts)
    if not pairs:
        alone = sum(count == 1 for count in counts.values())
        if alone:
            found.notes.append(
                f"{alone:,} people have one photo; trainings on pairs leave them out (--pairs)"
            )
        return
    for line, row in rows.values():
        if counts[row.identity] == 1:
            text = f"{row.identity} has one photo, and pairs need two: remove the line, or add photos"
            found.wrong(METADATA, line, text)


def _check_pairs(folder: Path, rows: dict[str, tuple[int, PhotoRow]], found: Checked) -> None:
    if not (folder / PAIRS).is_file():
        found.wrong(PAIRS, None, "the file is missing: build the dataset again")
        return
    for line, pair in _rows(folder / PAIRS, PairRow, found):
        unknown = [name for name in (pair.reference, pair.target) if name not in rows]
        if unknown:
            found.wrong(PAIRS, line, f"{unknown[0]} is no photo of {METADATA}: remove the line")
        elif pair.reference == pair.target:
            found.wrong(PAIRS, line, "reference and target are one photo: remove the line")
        elif any(rows[name][1].identity != pair.identity for name in (pair.reference, pair.target)):
            found.wrong(PAIRS, line, f"the two are not both {pair.identity} in {METADATA}: {_AGAIN}")


def _check_arrays(folder: Path, photos: list[str], found: Checked) -> None:
    for pattern, make in (
        ("embeddings-*.safetensors", "build the dataset again"),
        ("latents-*.safetensors", "make them with idpersona dataset cache"),
    ):
        # Files of one name but for their number belong together.
        names = sorted(path.name for path in folder.glob(pattern))
        sets = sorted({name.rpartition("-")[0] for name in names})
        if not sets and pattern.startswith("embeddings"):
            found.wrong(pattern, None, f"embeddings are missing: {make}")
        for stem in sets:
            rows = 0
            for name in (name for name in names if name.rpartition("-")[0] == stem):
                problem, count = check_shard(folder / name, photos[rows:], rows)
                if problem:
                    found.wrong(name, None, f"{problem}: {make}")
                    break
                rows += count
            else:
                if rows != len(photos):
                    text = f"{rows:,} rows for {len(photos):,} photos: {make}"
                    found.wrong(f"{stem}-*.safetensors", None, text)


def _check_about(folder: Path, found: Checked, *, hashes: bool) -> None:
    try:
        about = json.loads((folder / DATASET).read_text(encoding="utf-8"))
        version, files = about["format"], dict(about["files"])
    except (OSError, ValueError, KeyError, TypeError):
        found.wrong(DATASET, None, "it is missing or damaged, and says what made the dataset: build it again")
        return
    if version != FORMAT:
        found.wrong(DATASET, None, f"format {version} is not {FORMAT}, which this version of idpersona reads")
    for name, sha256 in files.items() if hashes else ():
        path = folder / name
        if path.parent == folder and path.is_file() and file_sha256(path) != sha256:
            found.notes.append(f"{name} was changed after the dataset was built")
