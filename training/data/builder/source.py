"""Where photos come from: what every kind of source offers, and what is said of a photo there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from idpersona.errors import BadInput, first_line

SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".ppm",
    ".avif",
    ".heic",
    ".heif",
    ".jp2",
    ".tga",
    ".mpo",
)
"""Names that end so are taken for pictures; whether they are is seen when they are opened."""
CAPTIONS = ("caption", "text", "prompt", "description")


@dataclass(frozen=True)
class SourcePhoto:
    """One photo as the source has it.

    Attributes:
        name: unique in the source, a relative POSIX path; the photo keeps it in the dataset.
        picture: where its file stands, or the bytes of one.
        columns: what its source says of it: caption, consent, licence and whatever else.
    """

    name: str
    picture: Path | bytes
    columns: Mapping[str, Any]


class Source(Protocol):
    """A numbered list of photos; it is sent to other processes.

    Attributes:
        kind: ``folder``, ``webdataset`` or ``datasets``.
        listing: sha256 (hex) of names and sizes: the same for the same photos at another place.
    """

    @property
    def kind(self) -> str: ...

    @property
    def listing(self) -> str: ...

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Name of a photo for messages; known also of photos that cannot be read."""
        ...

    def read(self, index: int) -> SourcePhoto:
        """One photo; raises PhotoError when it, or what belongs to it, cannot be read."""
        ...


def caption_of(columns: Mapping[str, Any], column: str) -> str:
    """The caption: of ``column``, or "" for the first of :data:`CAPTIONS` that is there; "" for none.

    Of several captions the first counts.
    """
    for name in (column,) if column else CAPTIONS:
        value = columns.get(name)
        if isinstance(value, (list, tuple)) and value:
            value = value[0]
        if isinstance(value, str) and value.strip():
            return " ".join(value.split())
    return ""


def consent_of(columns: Mapping[str, Any], default: bool) -> bool:
    """Whether the person agreed: yes, true or 1 in a photo's own metadata; ``default`` where they are silent.

    Anything else there counts as no.
    """
    value = columns.get("consent")
    if value is None or value == "":
        return default
    return str(value).strip().lower() in ("1", "true", "yes")


def text_of(columns: Mapping[str, Any], names: tuple[str, ...], default: str) -> str:
    """The first of the columns ``names`` that holds text; at most 400 printable characters of it."""
    for name in names:
        value = columns.get(name)
        if isinstance(value, str) and value.strip():
            return "".join(c if c.isprintable() else "?" for c in value.strip())[:400]
    return default


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """A JSON object; raises BadInput naming ``where`` for anything else."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadInput(f"{where} is no JSON: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise BadInput(f"{where} holds no JSON object")
    return value
