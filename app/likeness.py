"""How much a picture looks like whom it shall show."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from idpersona.encoders import FaceEncoder, get_encoder, read_identity, similarity
from idpersona.encoders.base import tells_people_apart
from idpersona.encoders.similarity import Similarity
from idpersona.errors import IdPersonaError, LicenceRefused
from idpersona.identity import Identity
from idpersona.jobs.prepare import Job
from idpersona.jobs.request import Request
from idpersona.jobs.weights import reading_weights
from idpersona.registry import installed, require_commercial

USUAL = "dlib"


@dataclass(frozen=True)
class Judge:
    """One person as one encoder knows them."""

    known: Identity
    encoder: str

    def look(self, picture: Image.Image) -> Similarity | None:
        """Likeness of the largest face in a picture (1 is equal); None where no face is found."""
        try:
            return similarity(self.known, read_identity(picture, self.encoder), self.encoder)
        except IdPersonaError:
            return None


def judge_of(request: Request, job: Job, *, commercial: bool) -> Judge | None:
    """Who tells how much the pictures of a job look like their person.

    Photos are read by the same encoder whatever the method is, so that figures of methods can be compared; of
    an identity file there is only what it holds. An encoder that the method was given flatters the method:
    figures that count are made with others (``idpersona eval``).

    Returns:
        None where several people or an object are drawn, and where no encoder that is here, and may be used,
        tells people apart.
    """
    if len(job.cast.members) != 1 or job.cast.members[0].identity.kind != "face":
        return None
    known = job.cast.members[0].identity
    for name in dict.fromkeys((USUAL, *known.features)):
        if not _usable(name, commercial=commercial):
            continue
        if name in known.features:
            return Judge(known, name)
        if request.photos:
            try:
                return Judge(read_identity(list(request.photos), name, face=request.face), name)
            except IdPersonaError:
                continue
    return None


def _usable(name: str, *, commercial: bool) -> bool:
    try:
        weights = reading_weights([name], [])
        if any(installed(weight) is None for weight in weights):
            return False
        if commercial:
            require_commercial(weights)
        encoder = get_encoder(name)
    except (IdPersonaError, LicenceRefused):
        return False
    return isinstance(encoder, FaceEncoder) and tells_people_apart(encoder)
