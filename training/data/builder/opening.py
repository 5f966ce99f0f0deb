"""Which kind of source a place is, and opening it."""

from __future__ import annotations

import re
from pathlib import Path

from idpersona.errors import BadInput
from idpersona.training.data.builder.settings import BuildSettings
from idpersona.training.data.builder.source import SUFFIXES, Source
from idpersona.training.data.builder.source_datasets import DatasetsSource
from idpersona.training.data.builder.source_folder import FolderSource
from idpersona.training.data.builder.source_tar import TarSource

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def open_source(settings: BuildSettings) -> Source:
    """The source that the settings name.

    Raises:
        BadInput: there is nothing at that place, it holds no photos, or its metadata are damaged.
        MissingWeights: the package for it is not installed, or the hub cannot be reached.
    """
    kind = find_kind(settings) if settings.kind == "auto" else settings.kind
    source: Source
    if kind == "folder":
        source = FolderSource(_place(settings.source))
    elif kind == "webdataset":
        source = TarSource(_place(settings.source))
    else:
        source = DatasetsSource(settings)
    if not len(source):
        raise BadInput(f"{settings.source} holds no photos (read as {kind}; --format reads it otherwise)")
    if settings.link and kind != "folder":
        raise BadInput("--link leaves photos where they lie, and those in an archive do not lie anywhere")
    return source


def find_kind(settings: BuildSettings) -> str:
    """``folder``, ``webdataset`` or ``datasets``, by what lies at the place.

    Raises:
        BadInput: nothing does, and it is no hub id either; or a folder holds more than one kind.
    """
    place = Path(settings.source).expanduser()
    if place.is_file():
        if place.name.endswith((".tar", ".tar.gz", ".tgz")):
            return "webdataset"
        if place.suffix in (".parquet", ".arrow"):
            return "datasets"
        raise BadInput(f"{place} is one file: give a folder of pictures, *.tar, *.parquet or a dataset")
    if not place.is_dir():
        if _HUB_ID.fullmatch(settings.source) and not settings.source.startswith("."):
            return "datasets"
        raise BadInput(
            f"there is no {settings.source}: give a folder, files, or a dataset of the hub (OWNER/NAME)"
        )
    if (place / "state.json").is_file() or (place / "dataset_dict.json").is_file():
        return "datasets"
    found: set[str] = set()
    for path in place.rglob("*"):
        suffix = path.suffix.lower()
        kind = {".tar": "webdataset", ".parquet": "datasets"}.get(
            suffix, "folder" if suffix in SUFFIXES else ""
        )
        # A table of metadata beside the pictures is no dataset of its own.
        if kind and not path.name.startswith((".", "metadata.")):
            found.add(kind)
        if len(found) > 1:
            raise BadInput(f"{place} holds {' and '.join(sorted(found))}: say which with --format")
    return next(iter(found), "folder")


def _place(text: str) -> Path:
    place = Path(text).expanduser()
    if not place.exists():
        raise BadInput(f"there is no {text}: give a folder of pictures or *.tar files")
    return place
