"""Files that a picture was made from: how they are recorded in it, and found again.

Recorded are the path from the picture's folder, the path as it was typed, and the sha256. No file is taken
that has not the recorded content.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from idpersona.errors import BadInput, PhotoError, UnknownName
from idpersona.images import SAMPLE_PREFIX, photo_sha256
from idpersona.registry import WEIGHTS


def describe_source(name: str, png: Path) -> dict[str, Any]:
    """Record of the file ``name`` for a picture that is written to ``png``."""
    sha256 = photo_sha256(name)
    _check_printable(name)
    if name.startswith(SAMPLE_PREFIX):
        return {"path": name, "typed": name, "sha256": sha256}
    relative = os.path.relpath(Path(name).expanduser().resolve(), png.resolve().parent)
    return {"path": Path(relative).as_posix(), "typed": name, "sha256": sha256}


def _check_printable(name: str) -> None:
    if not name.isprintable():
        raise BadInput(f"{name!r}: the picture's settings can hold printable names only; rename the file")


def describe_folders(names: Iterable[str], png: Path) -> dict[str, str]:
    """The folders among ``names`` of bases and adapters, as typed -> path from the picture's folder."""
    folders = [name for name in names if name not in WEIGHTS and Path(name).is_dir()]
    for name in folders:
        _check_printable(name)
    here = png.resolve().parent
    return {name: Path(os.path.relpath(Path(name).resolve(), here)).as_posix() for name in folders}


def find_folder(name: str, settings: Mapping[str, Any], png: Path) -> str:
    """Base or adapter ``name`` of a picture: a recorded folder where it lay from there, else as typed."""
    relative = settings.get("folders", {}).get(name)
    place = None if relative is None else (png.resolve().parent / relative).resolve()
    if place is None or not place.is_dir() or Path(name).resolve() == place:
        return name
    return os.fspath(place)


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
