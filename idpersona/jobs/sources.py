"""Files that a picture was made from: how they are recorded in it, and found again.

:class:`FileSources` is for files of whoever asks. Recorded are the path from the picture's folder, the path
as it was typed, and the sha256; no file is taken that has not the recorded content. Of folders of weights the
one with the recorded fingerprint is preferred; where none has it, the caller says that the picture may not be
repeated exactly.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from idpersona.adapters import is_place
from idpersona.errors import BadInput, PhotoError, UnknownName
from idpersona.hashing import folder_fingerprint
from idpersona.images import SAMPLE_PREFIX, photo_sha256
from idpersona.registry import WEIGHTS


class Sources(Protocol):
    """How the files behind a picture are recorded, and found again."""

    @property
    def picture(self) -> str:
        """The picture's name in messages."""
        ...

    def describe(self, name: str) -> dict[str, Any]:
        """Record of the file ``name`` (``path``, ``typed``, ``sha256``), for JSON.

        Raises BadInput when it cannot stand in a picture's settings.
        """
        ...

    def describe_folders(self, names: Iterable[str]) -> dict[str, str]:
        """Record of the folders among ``names`` of bases and adapters."""
        ...

    def find(self, entry: Mapping[str, Any]) -> str:
        """The recorded file, where it is now; BadInput when it is nowhere, or has changed."""
        ...

    def find_folder(self, name: str, settings: Mapping[str, Any]) -> str:
        """Base or adapter ``name`` of a picture with these settings; BadInput when it is nowhere."""
        ...


@dataclass(frozen=True)
class FileSources:
    """Files on this machine, named from the picture's folder and as they were typed.

    Attributes:
        png: the picture, written already or yet to be written.
    """

    png: Path

    @property
    def picture(self) -> str:
        """Its path."""
        return str(self.png)

    def describe(self, name: str) -> dict[str, Any]:
        """As :func:`describe_source`."""
        return describe_source(name, self.png)

    def describe_folders(self, names: Iterable[str]) -> dict[str, str]:
        """As :func:`describe_folders`."""
        return describe_folders(names, self.png)

    def find(self, entry: Mapping[str, Any]) -> str:
        """As :func:`find_source`."""
        return find_source(entry, self.png)

    def find_folder(self, name: str, settings: Mapping[str, Any]) -> str:
        """As :func:`find_folder`."""
        return find_folder(name, settings, self.png)


def describe_source(name: str, png: Path) -> dict[str, Any]:
    """Record of the file ``name`` for a picture that is written to ``png``.

    Raises BadInput when its path cannot stand in a picture's settings.
    """
    sha256 = photo_sha256(name)
    path = name if name.startswith(SAMPLE_PREFIX) else _relative(name, png)
    return {"path": path, "typed": _recordable(name), "sha256": sha256}


def describe_folders(names: Iterable[str], png: Path) -> dict[str, str]:
    """The places among ``names`` of bases and adapters, as typed -> path from the picture's folder.

    Raises BadInput when a path cannot stand in a picture's settings.
    """
    folders = [name for name in names if name not in WEIGHTS and is_place(name)]
    return {_recordable(name): _relative(name, png) for name in folders}


def _relative(name: str, png: Path) -> str:
    path = os.path.relpath(Path(name).expanduser().resolve(), png.resolve().parent)
    return _recordable(Path(path).as_posix())


def _recordable(path: str) -> str:
    """``path`` itself; BadInput when it holds control characters, or bytes that are no UTF-8."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in path):
        raise BadInput(f"{path!r} cannot stand in the picture's settings: rename the file or its folder")
    return path


def find_folder(name: str, settings: Mapping[str, Any], png: Path) -> str:
    """Base or adapter ``name`` of a picture: a recorded folder where it lies from there or as typed.

    Raises:
        BadInput: it was a folder, and lies nowhere now.
    """
    relative = settings.get("folders", {}).get(name)
    if relative is None:
        return name
    places = {(png.resolve().parent / relative).resolve(): None, Path(name).resolve(): None}
    here = [place for place in places if is_place(place)]
    if not here:
        raise BadInput(
            f"{png.name} was made with the folder '{name}', which is not here: put it back, or give --base "
            "or --adapter"
        )
    recorded = settings.get("weights", {}).get(name)
    best = here[0]
    if len(here) > 1 and folder_fingerprint(here[0]) != recorded == folder_fingerprint(here[1]):
        best = here[1]
    return name if Path(name).resolve() == best else os.fspath(best)


def _same_file(place: str, typed: str) -> bool:
    """So that a picture that is repeated records the path as it was typed, too."""
    return not place.startswith(SAMPLE_PREFIX) and Path(typed).resolve() == Path(place).resolve()


def find_source(entry: Mapping[str, Any], png: Path) -> str:
    """The recorded file, wherever it is now: beside the picture as it was, or as it was typed.

    Raises:
        BadInput: it is nowhere, or its content has changed.
    """
    path, typed, sha256 = entry["path"], entry["typed"], entry["sha256"]
    if not all(isinstance(text, str) for text in (path, typed, sha256)):
        raise BadInput(f"the settings in {png} are damaged: a source is no text")
    for text in (path, typed, sha256):
        _recordable(text)
    places = [png.resolve().parent / path, Path(typed), png.parent / Path(path).name, Path(Path(path).name)]
    changed = None
    for place in [path] if path.startswith(SAMPLE_PREFIX) else [os.fspath(place) for place in places]:
        try:
            if photo_sha256(place) == sha256:
                return typed if _same_file(place, typed) else place
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
