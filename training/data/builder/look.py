"""One photo from the source to a row of the dataset, or to the reason why it is none."""

from __future__ import annotations

import base64
import io
import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from idpersona.encoders.base import FaceEncoder
from idpersona.errors import MissingWeights, PhotoError
from idpersona.images import OpenedPhoto, open_photo_full
from idpersona.training.data.builder.rules import Rule, Seen
from idpersona.training.data.builder.settings import BuildSettings
from idpersona.training.data.builder.source import (
    SUFFIXES,
    Source,
    SourcePhoto,
    caption_of,
    consent_of,
    text_of,
)

THUMBNAIL = 96
"""Longest side in pixels of the pictures in the report."""


@dataclass(frozen=True)
class Outcome:
    """What became of one photo.

    Attributes:
        record: JSON object: ``file``, and ``row`` of a kept one or ``rule`` and ``reason`` of a rejected one.
        vector: embedding float32 [dim] of its main face; None where rejected.
        hashes: perceptual hashes uint8 [2, 8] of the picture and of its mirror image; None where rejected.
        picture: of a rejected one that could be opened, to be shown.
    """

    record: dict[str, Any]
    vector: np.ndarray | None = None
    hashes: np.ndarray | None = None
    picture: Image.Image | None = None


class Looker:
    """Looks at the photos of one source by the rules of one build.

    Args:
        source, settings, rules, encoder: of the build.
        pictures: folder for the pictures of kept photos; with ``settings.link`` none are put there.
    """

    def __init__(
        self, source: Source, settings: BuildSettings, rules: tuple[Rule, ...], encoder: FaceEncoder
    ):
        self.source, self.settings, self.rules, self.encoder = source, settings, rules, encoder

    def look(self, index: int, pictures: Path) -> Outcome:
        """Read photo ``index``; its picture lies in ``pictures`` afterwards if it is kept."""
        name = self.source.name(index)
        try:
            found = self.source.read(index)
            name = found.name
            path = _place(found, pictures)
        except PhotoError as error:
            return _rejected(name, "readable", str(error))
        own = isinstance(found.picture, bytes)
        try:
            opened = open_photo_full(path, min_side=1)
        except PhotoError as error:
            # The path is that of the machine which reads; the file's name is told beside the reason.
            outcome = _rejected(name, "readable", str(error).replace(os.fspath(path), "the photo"))
        else:
            outcome = self._judge(found, opened)
        if "row" not in outcome.record:
            if own:
                path.unlink()
        elif not own and not self.settings.link:
            place = pictures / name
            place.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, place)
        elif not own:
            outcome.record["path"] = os.fspath(path.resolve())
        return outcome

    def _judge(self, found: SourcePhoto, opened: OpenedPhoto) -> Outcome:
        settings, columns = self.settings, found.columns
        consent = consent_of(columns, settings.consent)
        seen = Seen(opened, caption_of(columns, settings.caption_column), consent, self.encoder)
        for rule in self.rules:
            reason = rule.refuses(seen)
            if reason is not None:
                return _rejected(found.name, rule.name, reason, opened.image)
        row = {
            "file_name": f"images/{found.name}",
            "caption": seen.caption,
            "bbox": [round(side, 2) for side in seen.box],
            "landmarks": np.round(seen.main.keypoints.astype(float), 2).tolist(),
            "faces": len(seen.faces),
            "face_area": round(seen.face_area, 6),
            "sha256": opened.sha256,
            "width": seen.size[0],
            "height": seen.size[1],
            "consent": consent,
            "licence": text_of(columns, ("licence", "license", "LICENSE"), settings.licence),
            "source": text_of(columns, ("source", "url"), found.name),
        }
        vector = seen.feature(seen.main).values.mean(axis=0)
        return Outcome({"file": found.name, "row": row}, vector, perceptual_hashes(opened.image))


def _place(found: SourcePhoto, pictures: Path) -> Path:
    """A file with the picture: where it stands, or in ``pictures``. PhotoError for a name that is none."""
    name = found.name
    if not name.isprintable() or len(os.fsencode(name)) > 900:
        raise PhotoError("the name of the file holds control characters, is no text or too long: rename it")
    if Path(name).suffix.lower() not in SUFFIXES:
        raise PhotoError(f"the photo is none of {', '.join(SUFFIXES)}")
    if isinstance(found.picture, Path):
        return found.picture
    place = pictures / name
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(found.picture)
    except FileExistsError as error:
        raise PhotoError("another photo has the name of the folder of this one: rename it") from error
    return place


def link_or_copy(path: Path, place: Path) -> None:
    """Give the file ``path`` a second name, or where the file system cannot, copy it."""
    path = path.resolve()
    try:
        os.link(path, place)
    except OSError:
        shutil.copyfile(path, place)


def perceptual_hashes(image: Image.Image) -> np.ndarray:
    """pHash of an RGB picture and of its mirror image, as bits in uint8 [2, 8]."""
    import imagehash

    views = (image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    return np.stack([np.packbits(imagehash.phash(view).hash.ravel()) for view in views])


def thumbnail(image: Image.Image) -> str:
    """A picture as a small JPEG in base64."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return base64.b64encode(stream.getvalue()).decode()


def _rejected(name: str, rule: str, reason: str, picture: Image.Image | None = None) -> Outcome:
    clean = "".join(c if c.isprintable() else "?" for c in reason)
    shown = "".join(c if c.isprintable() else "?" for c in name)
    return Outcome({"file": shown, "rule": rule, "reason": clean}, picture=picture)


def require_hashes() -> None:
    """Raises MissingWeights when the package for perceptual hashes is not installed."""
    if find_spec("imagehash") is None:
        raise MissingWeights("dataset build needs the package ImageHash: pip install 'idpersona[train]'")
