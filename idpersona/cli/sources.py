"""Files that a picture was made from: how they are recorded in it, and found again.

Recorded are the path from the picture's folder, the path as it was typed, and the sha256. No file is taken
that has not the recorded content.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from idpersona.errors import BadInput, PhotoError, UnknownName
from idpersona.images import SAMPLE_PREFIX, photo_sha256


def describe_source(name: str, png: Path) -> dict[str, Any]:
    """Record of the file ``name`` for a picture that is written to ``png``."""
    sha256 = photo_sha256(name)
    if name.startswith(SAMPLE_PREFIX):
        return {"path": name, "typed": name, "sha256": sha256}
    relative = os.path.relpath(Path(name).expanduser().resolve(), png.resolve().parent)
    return {"path": Path(relative).as_posix(), "typed": name, "sha256": sha256}


def find_source(entry: Mapping[str, Any], png: Path) -> str:
    """The recorded file, wherever it is now: beside the picture as it was, or as it was typed.

    Raises:
        BadInput: it is nowhere, or its content has changed.
    """
    path, typed, sha256 = entry["path"], entry["typed"], entry["sha256"]
    if not all(isinstance(text, str) and text.isprintable() for text in (path, typed, sha256)):
        raise BadInput(f"the settings in {png} are damaged: a source is no text")
    places = [png.resolve().parent / path, Path(typed), png.parent / Path(path).name, Path(Path(path).name)]
    changed = None
    for place in [path] if path.startswith(SAMPLE_PREFIX) else [os.fspath(place) for place in places]:
        try:
            if photo_sha256(place) == sha256:
                return place
            changed = changed or place
        except (PhotoError, UnknownName):
            continue
    if changed:
        raise BadInput(
            f"{changed} has changed since {png.name} was made: give the old file, or the new one "
            "with --identity or --photo"
        )
    raise BadInput(
        f"{png.name} was made from '{typed}', which is not here (sha256 {sha256[:12]}…): put it back, "
        "or give --identity or --photo"
    )
