"""Finished pictures on disk, from which an interrupted run goes on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image

from idpersona.images import open_photo
from idpersona.provenance import SOURCE_TYPE, write_png

_DIGITS = 32
"""Of a key in a file's name: 128 bits."""


class KeptPictures:
    """A folder of PNG files, each named by everything that determines it; without a folder, nothing is kept.

    Args:
        folder: made when the first picture is kept.
        source_type: that they are marked with, as of :func:`~idpersona.provenance.write_png`.
    """

    def __init__(self, folder: Path | None, source_type: str = SOURCE_TYPE):
        self.folder, self.source_type = folder, source_type

    def path(self, key: str, name: str = "") -> Path | None:
        """Where the picture of ``key`` (a sha256) lies; ``name`` is for who looks into the folder."""
        if self.folder is None:
            return None
        said = re.sub(r"[^0-9A-Za-z]+", "_", name)[:40]
        return self.folder / f"{said}{'-' if said else ''}{key[:_DIGITS]}.png"

    def find(self, key: str, name: str = "") -> Image.Image | None:
        """The picture, RGB, or None where it has not been drawn. Raises PhotoError where it is damaged."""
        path = self.path(key, name)
        return open_photo(path) if path is not None and path.is_file() else None

    def keep(self, picture: Image.Image, key: str, name: str = "", **about: Any) -> None:
        """Write it, whole or not at all, marked as made by a model, with ``about`` in its metadata."""
        path = self.path(key, name)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {"made_for": "evaluation", **about}
            write_png(picture, path, content, force=True, source_type=self.source_type)
