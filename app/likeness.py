"""How much a picture looks like those whom it shall show."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from idpersona.encoders import FaceEncoder, get_encoder, read_identity, similarity
from idpersona.encoders.base import tells_people_apart
from idpersona.encoders.similarity import Similarity
from idpersona.errors import IdPersonaError
from idpersona.identity import Identity


def likeness(picture: Image.Image, members: Sequence[Identity]) -> Similarity | None:
    """Identity similarity of the largest face to the person; None where there are several people.

    Measured by an encoder of the identity that tells people apart, in that encoder's measure (1 is equal);
    None where no encoder does, or no face is found. An encoder that the method was given flatters the method:
    figures that count are made with others (``idpersona eval``).
    """
    if len(members) != 1:
        return None
    known = members[0]
    for name in known.features:
        encoder = get_encoder(name)
        if isinstance(encoder, FaceEncoder) and tells_people_apart(encoder):
            try:
                seen = read_identity(picture, name)
            except IdPersonaError:
                return None
            return similarity(known, seen, name)
    return None
