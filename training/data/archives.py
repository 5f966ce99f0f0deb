"""The photo archives and their table, read without unpacking them.

The data are private to development: no photo is ever written anywhere but into the cache of the trainings
(``prepare.py``) and, by evaluations, into ignored contact sheets. ``IDPERSONA_DATA`` names the folder.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from PIL import Image

from idpersona.errors import BadInput, MissingWeights, PhotoError, first_line

ARCHIVES = {"celeba_wild": "faces_wild.tar", "lfw": "faces_lfw.tar", "celeba_aligned": "faces_aligned.tar"}
"""Source of a photo, as the table names it -> its archive."""
SOURCES = tuple(ARCHIVES)
_COLUMNS = ("file", "source", "identity")


def data_root() -> Path:
    """Folder of the photo archives: ``IDPERSONA_DATA``, or ``../shared/data`` beside the repository."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get("IDPERSONA_DATA", default))


def read_table(root: Path) -> list[dict[str, str]]:
    """Rows of ``faces.csv.gz``. Raises MissingWeights where it is not there, BadInput for another table."""
    path = root / "faces.csv.gz"
    if not path.is_file():
        raise MissingWeights(_missing(path))
    try:
        with gzip.open(path, "rt", newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is damaged: {first_line(error)}; copy it again") from error
    if not rows or {*_COLUMNS} - rows[0].keys() or {r["source"] for r in rows} - {*SOURCES}:
        raise BadInput(
            f"{path} is no table of photos: file, source ({', '.join(SOURCES)}), identity, attributes"
        )
    return rows


def attribute_names(rows: list[dict[str, str]]) -> list[str]:
    """The columns of the table that are attributes."""
    return [name for name in rows[0] if name not in _COLUMNS]


@lru_cache(maxsize=2)
def attribute_labels(root: Path) -> Mapping[str, Mapping[str, bool]]:
    """file -> {attribute: present}; attributes that nobody labelled are left out."""
    rows = read_table(root)
    names = attribute_names(rows)
    return {row["file"]: {name: row[name] == "1" for name in names if row[name]} for row in rows}


class PhotoStore:
    """Photos by the name that the table gives them, e.g. ``lfw_160/NAME/NAME_0001.jpg``.

    Args:
        root: folder of the archives, by default ``data_root()``.
        sources: whose archives; by default those that are there.

    Raises:
        MissingWeights: an archive that was asked for is not there, or none is.
        BadInput: an archive is damaged.
    """

    def __init__(self, root: Path | None = None, sources: tuple[str, ...] | None = None):
        self.root = root or data_root()
        self._places: dict[str, tuple[Path, int, int]] = {}
        for source in sources or SOURCES:
            path = self.root / ARCHIVES[source]
            if not path.is_file():
                if sources:
                    raise MissingWeights(_missing(path))
                continue
            try:
                with tarfile.open(path) as tar:
                    for member in tar:
                        if member.isfile():
                            place = (path, member.offset_data, member.size)
                            self._places[member.name.removeprefix("./")] = place
            except (tarfile.TarError, OSError, EOFError) as error:
                raise BadInput(f"{path} is damaged: {first_line(error)}; copy it again") from error
        if not self._places:
            raise MissingWeights(_missing(self.root / ARCHIVES[SOURCES[0]]))

    def __contains__(self, file: str) -> bool:
        return file in self._places

    def __len__(self) -> int:
        return len(self._places)

    def open(self, file: str) -> Image.Image:
        """One photo as an RGB image; raises PhotoError for an unknown or unreadable one."""
        if file not in self._places:
            raise PhotoError(f"photo {file} is in none of the archives read from {self.root}")
        path, offset, size = self._places[file]
        with path.open("rb") as handle:
            handle.seek(offset)
            data = handle.read(size)
        try:
            return Image.open(io.BytesIO(data)).convert("RGB")
        except (OSError, ValueError) as error:
            raise PhotoError(f"photo {file} of {path.name} cannot be read: {error}") from error


def _missing(path: Path) -> str:
    return f"no {path}: set IDPERSONA_DATA to the folder that holds the photo archives"
