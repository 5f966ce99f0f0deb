"""Finding weight files of encoders on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from idpersona.hashing import file_sha256

WEIGHTS_VARIABLE = "IDPERSONA_WEIGHTS"


def sha256_of(path: Path) -> str:
    """Sha256 (hex) of a file; computed once for as long as the file does not change."""
    stat = path.stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, modified: int) -> str:
    return file_sha256(Path(path))


def pack_folders(name: str) -> list[Path]:
    """Folders in which the InsightFace pack ``name`` may lie, in the order they are looked at.

    First the folder of ``IDPERSONA_WEIGHTS`` (holding the pack's folder, or being it), then the registry's.
    """
    from idpersona.registry import get_weight
    from idpersona.registry.locate import candidates

    given = os.environ.get(WEIGHTS_VARIABLE)
    first = [Path(given).expanduser() / name, Path(given).expanduser()] if given else []
    return [*first, *candidates(get_weight(name))]


def folder_with_onnx(folders: Sequence[Path], name: str) -> Path | None:
    """The first folder that holds at least two ONNX files, itself or in its one folder of the same name.

    The published archives hold one more folder, so that unpacking gives ``antelopev2/antelopev2/*.onnx``.
    """
    for folder in folders:
        for place in (folder, folder / name):
            if place.is_dir() and len(list(place.glob("*.onnx"))) >= 2:
                return place
    return None
