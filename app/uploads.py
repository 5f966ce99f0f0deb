"""Pictures that come from a stranger: judged by their content, never by their name."""

from __future__ import annotations

import unicodedata
from pathlib import PurePath

from PIL import Image

from idpersona.app.sessions import Session, StoredPhoto
from idpersona.errors import PhotoError
from idpersona.images import OpenedPhoto, atomic_output, open_photo_full

NAME = 80


def safe_name(name: str, otherwise: str = "photo") -> str:
    """A stranger's file name, fit to be shown and recorded: the last part, printable, not long."""
    last = PurePath(name.replace("\\", "/")).name
    shown = "".join(c for c in last if c.isprintable() and unicodedata.category(c) not in ("Cc", "Cs", "Cf"))
    shown = shown.strip()
    if len(shown) > NAME:
        stem, dot, suffix = shown.rpartition(".")
        shown = f"{stem[: NAME - 10]}….{suffix[:8]}" if dot else f"{shown[: NAME - 1]}…"
    return shown or otherwise


def store_photo(
    session: Session, data: bytes, name: str, *, max_bytes: int, max_pixels: int
) -> tuple[StoredPhoto, OpenedPhoto]:
    """Check what was given, and keep it in the session's folder.

    Args:
        data: the file's bytes.
        name: what its owner calls it.
        max_bytes, max_pixels: more is refused before it is decoded.

    Raises:
        PhotoError: not an image of a known kind, damaged, empty, too large or too small.
        BadInput: the session has too many photos.
    """
    shown = safe_name(name)
    if len(data) > max_bytes:
        raise PhotoError(f"{shown} has {len(data) >> 20} MiB, more than the {max_bytes >> 20} MiB allowed")
    if not data:
        raise PhotoError(f"{shown} is empty")
    id, path = session.new_path(".img")
    try:
        with atomic_output(path) as part:
            part.write_bytes(data)
        opened = open_photo_full(path, max_pixels=max_pixels)
        kept = session.add_photo(StoredPhoto(id, path, shown, opened.sha256, opened.image.size))
        if kept.id != id:
            path.unlink()
        return kept, opened
    except PhotoError as error:
        path.unlink(missing_ok=True)
        raise PhotoError(str(error).replace(str(path), shown)) from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def thumbnail(image: Image.Image, side: int = 320) -> Image.Image:
    """A small RGB copy without metadata."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    return small
