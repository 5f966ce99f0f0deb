"""The check on the way in and on the way out: is this a person who may not be used?

References (identity files and photos) and finished pictures are compared with the local registry of people.
Deny beats allow. The comparison is a gate with a known error rate, not a proof of who someone is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from idpersona.errors import BadInput, ConsentRequired, PersonRefused
from idpersona.safety.people import Match, People, cover

if TYPE_CHECKING:
    from PIL import Image

    from idpersona.identity import Identity
    from idpersona.images import Photo


def require_consent(identity: Identity, where: str) -> None:
    """Refuse an identity without the consent flag.

    Raises:
        ConsentRequired: the flag is not set.
    """
    if not identity.consent:
        raise ConsentRequired(
            f"--require-consent: {where} carries no consent; with the person's agreement read it again: "
            "idpersona identify PHOTO --consent -o FILE"
        )


def _judge(matches: Sequence[Match], people: People, where: str, *, reference: bool) -> list[Match]:
    denied = [match for match in matches if match.person.policy == "deny"]
    if denied:
        match = denied[0]
        contact = f", contact {match.person.contact}" if match.person.contact else ""
        raise PersonRefused(
            f"{where} shows '{match.person.name}', who is on the deny list of the people registry"
            f" ({match.encoder} distance {match.distance:.3f}, limit {match.threshold.distance:.3f}{contact})"
        )
    if reference and people.others == "deny" and not matches:
        raise PersonRefused(f"{where} matches nobody on the allow list of the people registry")
    return list(matches)


def check_identity(identity: Identity, people: People, where: str) -> list[Match]:
    """Check an identity that conditions a picture.

    An object has nothing by which people could be told apart; its photos are looked at when it is read
    (:func:`read_allowed`), its file is refused.

    Returns:
        The (allowed) people it matches.

    Raises:
        PersonRefused: it matches a denied person, matches nobody while others are denied, or holds no feature
            by which an entry could be compared.
    """
    if not people.guards:
        return []
    for person in people.active:
        if not person.centroids.keys() & identity.features.keys():
            if identity.kind != "face":
                raise PersonRefused(
                    f"{where} cannot be checked against the people registry: what is kept of an object does "
                    "not tell who is in its photo; give the photos instead (--photo)"
                )
            raise PersonRefused(
                f"{where} cannot be checked against the people registry: it holds no "
                f"'{min(person.centroids)}' feature; read the photos again with that --encoder too"
            )
    matches: list[Match] = []
    for encoder, feature in identity.features.items():
        # Averaging rows must not hide a person, nor must a concatenation.
        rows = np.concatenate([feature.values, feature.values.mean(axis=0, keepdims=True)])
        matches += people.match(rows, encoder)
    return _judge(matches, people, where, reference=True)


def read_allowed(
    photos: Photo | Sequence[Photo], encoder: str | Sequence[str], people: People, **options: Any
) -> Identity:
    """``read_identity``, refused where a photo, or what several become together, shows a refused person.

    The registry's own encoders look at the very faces that are used, also where another encoder found them.

    Args:
        photos, encoder, options: as for ``read_identity``.
        people: the registry.

    Raises:
        PersonRefused: as for :func:`check_identity`; the photo is named.
        NoFaceFound: an encoder of the registry finds no face where the other one found it, so that the photo
            cannot be checked.
    """
    from idpersona.encoders import read_identity

    if not people.guards:
        return read_identity(photos, encoder, **options)
    if options.get("subject", "face") != "face":
        # An object's encoder does not tell people apart; whoever is in its photo is looked at all the same.
        return read_identity(
            photos, encoder, on_read=lambda photo, where: check_photo(photo, people, where), **options
        )
    return read_identity(
        photos,
        encoder,
        also=people.encoders,
        check=lambda identity, where: check_identity(identity, people, where),
        **options,
    )


def check_picture(picture: Image.Image, people: People, where: str = "the picture") -> list[Match]:
    """Check every face in a finished picture. A picture without a face passes.

    Raises:
        PersonRefused: a face matches a denied person.
    """
    denying = [person for person in people.active if person.policy == "deny"]
    matches: list[Match] = []
    for encoder in cover(denying):
        rows = face_descriptors(picture, encoder)
        if len(rows):
            matches += people.match(rows, encoder)
    return _judge(matches, people, where, reference=False)


def check_photo(photo: Image.Image, people: People, where: str) -> list[Match]:
    """Check every face in a photo that is a reference as a whole. A photo without a face passes.

    Raises:
        PersonRefused: a face matches a denied person, or nobody while others are denied.
    """
    matches: list[Match] = []
    for encoder in people.encoders or ("dlib",):
        for row in face_descriptors(photo, encoder):
            matches += _judge(people.match(row[None], encoder), people, where, reference=True)
    return matches


def face_descriptors(picture: Image.Image, encoder: str) -> np.ndarray:
    """Descriptors float32 ``[faces, dim]`` of every face found in a picture (``[0, 0]`` for none)."""
    from idpersona.encoders import FaceEncoder, get_encoder

    eyes = get_encoder(encoder)
    if not isinstance(eyes, FaceEncoder):
        raise BadInput(f"encoder '{encoder}' does not read faces")
    faces = eyes.detect(picture)
    rows = [np.asarray(eyes.embed(picture, face), np.float32).reshape(-1) for face in faces]
    return np.stack(rows) if rows else np.zeros((0, 0), np.float32)
