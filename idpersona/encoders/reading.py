"""From photos to an identity."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from idpersona.encoders.base import (
    Encoder,
    Face,
    FaceEncoder,
    Faces,
    ObjectEncoder,
    compare_vectors,
    overlap,
    tells_people_apart,
)
from idpersona.encoders.catalogue import Subject, encoder_names, encoder_subject, get_encoder
from idpersona.encoders.quality import measure_quality
from idpersona.errors import BadInput, FaceChoiceError, NoFaceFound, PhotoError, UnknownName
from idpersona.identity import Feature, Identity, MergeRule
from idpersona.images import OpenedPhoto, Photo, open_photo_full, photo_name
from idpersona.merging import few_warnings

DEFAULT_ENCODER = "dlib"
Check = Callable[[Identity, str], object]


@dataclass(frozen=True)
class _Reading:
    identity: Identity
    vectors: dict[str, np.ndarray]
    number: int


def read_identity(
    photos: Photo | Sequence[Photo],
    encoder: str | Encoder | Sequence[str | Encoder] = DEFAULT_ENCODER,
    *,
    subject: Subject = "face",
    face: int | None = None,
    consent: bool = False,
    merge: MergeRule = "mean",
    weights: Sequence[float] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    mask: Any = None,
    also: Sequence[str] = (),
    check: Check | None = None,
    on_read: Callable[[Image.Image, str], object] | None = None,
    on_photo: Callable[[], object] | None = None,
) -> Identity:
    """Read who (or what) is in one or more photos of one subject.

    Args:
        photos: one photo or several: paths, ``sample:NAME``, PIL images, uint8 RGB arrays ``[h, w, 3]``.
        encoder: one registry name or several, or encoders themselves; each gives one feature.
        subject: ``"face"`` looks for a face, ``"object"`` takes the whole photo.
        face: number of the face to take from every photo, 0 being the largest. None takes the largest by
            area and, when there are several, says so in ``warnings``.
        consent: the subject agreed to this use.
        merge: how several photos become one identity (:meth:`Identity.merge`).
        weights: for ``merge="weighted"``, one number for each photo.
        on_error: ``"skip"`` leaves out photos that cannot be read, with a warning, as long as one remains.
        mask: for objects: which pixels are the subject. ``"alpha"``, ``"face"``, ``"segment"`` or ``"none"``
            (:mod:`idpersona.encoders.subject`), or a mask (picture, path or array) of the photo's size, one
            for each photo; None gives the encoder the photo as it is.
        also: further encoders that read the *same* faces for ``check`` alone; the result holds nothing of
            them.
        check: called with every reading, each photo's and the joined one, and with what it was read from;
            what it raises ends the reading, whatever ``on_error`` says.
        on_read: called with every photo that could be read, and its name; what it raises ends the reading.
        on_photo: called after each photo, read or left out, to show progress.

    Returns:
        Identity with keypoints and image size of the first photo that was read, and in ``warnings`` whatever
        is doubtful: several faces, size, blur, turn of the face, photos of different people.

    Raises:
        PhotoError: a photo cannot be opened.
        NoFaceFound: no face in a photo; says at which sizes it was looked at.
        FaceChoiceError: there is no face of that number; lists the boxes of those found.
        UnknownName, MissingWeights: no such encoder, or its weights are not here.
        BadInput: no photo, or arguments that contradict each other.
    """
    encoders = _encoders(encoder, subject)
    extra = [e for e in _encoders(also, subject) if e not in encoders] if also else []
    if face is not None and (isinstance(face, bool) or not isinstance(face, int) or face < 0):
        raise FaceChoiceError(f"face is a number from 0 (the largest face) on, got {face!r}")
    if face is not None and subject != "face":
        raise BadInput("face=N is for subject='face'")
    if on_error not in ("raise", "skip"):
        raise BadInput(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    many = _listed(photos)
    if mask is not None and subject != "object":
        raise BadInput("mask is for subject='object'")
    masks = _masks(mask, len(many))
    if weights is not None and len(weights) != len(many):
        raise BadInput(f"give one weight for each of the {len(many)} photos")
    readings: list[_Reading] = []
    skipped: list[str] = []
    for number, photo in enumerate(many, start=1):
        label = f"photo {number}: " if len(many) > 1 else ""
        try:
            opened = open_photo_full(photo)
            how = masks[number - 1]
            reading = _read_one(opened, [*encoders, *extra], subject, face, consent, label, number, how)
        except (PhotoError, FaceChoiceError, UnknownName) as error:
            if on_error == "raise" or (number == len(many) and not readings):
                raise
            # The name is left out: an identity file says nothing about where photos lay.
            name = photo_name(photo)
            reason = str(error).replace(str(Path(name).expanduser()), "the photo").replace(name, "the photo")
            skipped.append(_printable(f"{label}left out: {reason}"))
        else:
            if on_read:
                on_read(opened.image, photo_name(photo))
            if check:
                check(reading.identity, photo_name(photo))
            readings.append(reading)
        if on_photo:
            on_photo()
    kept = None if weights is None else [weights[reading.number - 1] for reading in readings]
    joined = Identity.merge([reading.identity for reading in readings], merge, kept)
    if check and len(readings) > 1:
        check(joined, f"the mean of the {len(readings)} photos")
    # What touches whole photos comes first: of very many doubts the last are left out.
    doubts = [*skipped, *_strangers(readings, [*encoders, *extra])]
    doubts += [warning for reading in readings for warning in reading.identity.warnings]
    return Identity(
        kind=joined.kind,
        features={e.name: joined.features[e.name] for e in encoders},
        keypoints=joined.keypoints,
        image_size=joined.image_size,
        sources=joined.sources,
        consent=consent,
        created=joined.created,
        warnings=few_warnings(doubts),
    )


def _encoders(given: Any, subject: Subject) -> list[Encoder]:
    alone = isinstance(given, str) or not isinstance(given, Sequence)
    wanted: list[Any] = [given] if alone else list(dict.fromkeys(given))
    if not wanted:
        raise BadInput("give at least one encoder")
    for one in wanted:
        name = one if isinstance(one, str) else one.name
        reads = encoder_subject(one) if isinstance(one, str) else _reads(one)
        if reads != subject:
            fitting = ", ".join(encoder_names(subject)) or "none is installed"
            raise BadInput(f"encoder '{name}' does not read subject '{subject}'; those that do: {fitting}")
    return [get_encoder(one) if isinstance(one, str) else one for one in wanted]


def _reads(encoder: Encoder) -> Subject:
    return "face" if isinstance(encoder, FaceEncoder) else "object"


def _listed(photos: Photo | Sequence[Photo]) -> list[Photo]:
    if isinstance(photos, str | os.PathLike | Image.Image | np.ndarray):
        return [photos]
    many = list(photos)
    if not many:
        raise BadInput("give at least one photo")
    return many


def _read_one(
    opened: OpenedPhoto,
    encoders: Sequence[Encoder],
    subject: Subject,
    choice: int | None,
    consent: bool,
    label: str,
    number: int,
    mask: Any = None,
) -> _Reading:
    picture = opened.image if mask is None else _subject(opened, mask)
    doubts = [f"the photo {note}" if note.startswith("has") else note for note in opened.notes]
    features: dict[str, Feature] = {}
    first: Face | None = None
    for encoder in encoders:
        if isinstance(encoder, FaceEncoder):
            # An encoder that has no detector of its own reads the face that another one found.
            found = None if first and getattr(encoder, "finder", None) else encoder.detect(opened.image)
            if found is None and first is not None:
                taken = first
            elif not found:
                raise NoFaceFound(opened.name, () if found is None else found.sizes_tried)
            elif first is None:
                first = taken = _choose(found, choice, opened.name, doubts)
                if first.score < encoder.sure_score:
                    doubts.append("it is not sure that this is a face")
                doubts += measure_quality(opened.image, first).warnings()
            else:
                taken = _same_face(found, first, encoder.name, opened.name)
            values = np.atleast_2d(encoder.embed(opened.image, taken))
        elif isinstance(encoder, ObjectEncoder):
            values = encoder.embed_image(picture)
        else:
            raise BadInput(f"encoder {encoder!r} reads neither faces nor objects")
        features[encoder.name] = Feature(
            encoder=encoder.name,
            values=values.astype(np.float32),
            weights_sha256=encoder.weights_sha256,
            preprocessing=encoder.preprocessing + _told(mask),
            normalised=encoder.normalised,
            licence=encoder.licence,
            tokens=getattr(encoder, "tokens", 1),
        )
    identity = Identity(
        kind=subject,
        features=features,
        keypoints=None if first is None else first.keypoints,
        image_size=opened.image.size,
        sources=(opened.sha256,),
        consent=consent,
        warnings=tuple(_printable(label + doubt) for doubt in doubts),
    )
    return _Reading(identity, {name: f.values.mean(axis=0) for name, f in features.items()}, number)


def _masks(mask: Any, photos: int) -> list[Any]:
    """One mask for each photo: names of ways to find it serve all of them."""
    if isinstance(mask, (list, tuple)):
        if len(mask) != photos:
            raise BadInput(f"{len(mask)} masks for {photos} photos: give one for each")
        return list(mask)
    from idpersona.encoders.subject import MASKS

    if mask is not None and not (isinstance(mask, str) and mask in MASKS) and photos > 1:
        raise BadInput(f"one mask for {photos} photos: give one for each, or one of {', '.join(MASKS)}")
    return [mask] * photos


def _subject(opened: OpenedPhoto, mask: Any) -> Image.Image:
    from idpersona.encoders.subject import cut_out, find_mask

    found = find_mask(opened.image, mask, alpha=opened.alpha, name=opened.name)
    return cut_out(opened.image, found, opened.name)


def _told(mask: Any) -> str:
    """What is said of a mask in a feature's preprocessing; never where a file lies."""
    from idpersona.encoders.subject import MASKS

    if mask is None:
        return ""
    return f", cut out by {mask if isinstance(mask, str) and mask in MASKS else 'a given mask'}"


def list_boxes(faces: Sequence[Face]) -> str:
    """Faces as text: number, corner and size of each box in pixels, largest first."""
    return "; ".join(
        f"face {i}: {f.width:.0f}x{f.height:.0f} px at ({f.box[0]:.0f}, {f.box[1]:.0f})"
        for i, f in enumerate(faces)
    )


def _choose(found: Faces, choice: int | None, name: str, doubts: list[str]) -> Face:
    if choice is not None:
        if choice >= len(found):
            raise FaceChoiceError(f"{name} has no face {choice}; found: {list_boxes(found)}")
        return found[choice]
    if len(found) > 1:
        doubts.append(
            f"{len(found)} faces, the largest (face 0) was taken; identify and generate take --face N: "
            + list_boxes(found[:12])
        )
    return found[0]


def _same_face(found: Faces, wanted: Face, encoder: str, name: str) -> Face:
    nearest = max(found, key=lambda face: overlap(face, wanted))
    if overlap(nearest, wanted) < 0.2:
        raise NoFaceFound(f"{name} by encoder '{encoder}' at the place of the chosen face", found.sizes_tried)
    return nearest


def _strangers(readings: Sequence[_Reading], encoders: Sequence[Encoder]) -> list[str]:
    """Photos that look like another person than the mean of the remaining ones.

    Told by the first encoder, of those that read the photos, that can tell people apart.
    """
    able = [e for e in encoders if isinstance(e, FaceEncoder) and tells_people_apart(e)]
    if len(readings) < 2 or not able:
        return []
    encoder = able[0]
    vectors = np.stack([reading.vectors[encoder.name] for reading in readings])
    doubts = []
    for row, reading in enumerate(readings):
        others = np.delete(vectors, row, axis=0).mean(axis=0)
        likeness = compare_vectors(vectors[row], others, encoder.measure)
        if likeness < encoder.threshold:
            doubts.append(
                f"photo {reading.number} may show someone else: {encoder.measure} to the other photos is "
                f"{likeness:.2f}, one person has {encoder.threshold:.2f} or more ({encoder.name})"
            )
    return doubts


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)[:1000]
