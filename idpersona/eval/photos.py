"""Real photos for measuring, read out of tar files without unpacking them.

The data are private to development: photos are never written anywhere, only numbers and, into an ignored
folder, contact sheets. ``IDPERSONA_DATA`` names the folder (default: ``shared/data`` beside the repository).
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from PIL import Image

from idpersona.errors import BadInput, PhotoError

TARS = ("faces_wild.tar", "faces_lfw.tar", "faces_aligned.tar")


def data_root() -> Path:
    """Folder of the face data; raises BadInput with the way to set it when it is not there."""
    given = os.environ.get("IDPERSONA_DATA")
    root = Path(given) if given else Path(__file__).resolve().parents[2].parent / "shared" / "data"
    if not root.is_dir():
        raise BadInput(f"no face data at {root}: set IDPERSONA_DATA to the folder with {', '.join(TARS)}")
    return root


class PhotoStore:
    """Photos by the name that ``faces.csv.gz`` gives them, e.g. ``lfw_160/NAME/NAME_0001.jpg``."""

    def __init__(self, root: Path | None = None):
        self.root = root or data_root()
        self._places: dict[str, tuple[Path, int, int]] = {}
        for name in TARS:
            path = self.root / name
            if not path.is_file():
                continue
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.isfile():
                        self._places[member.name.removeprefix("./")] = (path, member.offset_data, member.size)
        if not self._places:
            raise BadInput(f"no photo in {self.root}: expected {', '.join(TARS)}")

    def __contains__(self, file: str) -> bool:
        return file in self._places

    def __len__(self) -> int:
        return len(self._places)

    def open(self, file: str) -> Image.Image:
        """One photo as an RGB image; raises PhotoError for an unknown or unreadable one."""
        if file not in self._places:
            raise PhotoError(f"photo {file} is in none of the tar files of {self.root}")
        path, offset, size = self._places[file]
        with path.open("rb") as handle:
            handle.seek(offset)
            data = handle.read(size)
        try:
            return Image.open(io.BytesIO(data)).convert("RGB")
        except (OSError, ValueError) as error:
            raise PhotoError(f"photo {file} of {path.name} cannot be read: {error}") from error


@lru_cache(maxsize=2)
def attribute_labels(root: Path) -> Mapping[str, Mapping[str, bool]]:
    """file -> {attribute: present}, from ``faces.csv.gz``; attributes that nobody labelled are left out."""
    path = root / "faces.csv.gz"
    if not path.is_file():
        raise BadInput(f"no attribute table at {path}")
    with gzip.open(path, "rt", newline="") as handle:
        rows = csv.DictReader(handle)
        return {
            row["file"]: {
                name: value == "1"
                for name, value in row.items()
                if name not in ("file", "source", "identity") and value != ""
            }
            for row in rows
        }
