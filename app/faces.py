"""The faces in photos, and how well they can be read."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from idpersona.app.engine import Ticket
from idpersona.app.sessions import Session
from idpersona.app.studio import Studio
from idpersona.app.translate import place
from idpersona.app.uploads import thumbnail
from idpersona.jobs.listener import Listener
from idpersona.jobs.models import Models

SHOWN = 640
"""Pixels of the longer side of what is shown."""


@dataclass(frozen=True)
class Looked:
    """A photo with its faces, largest first: boxes (x0, y0, x1, y1) in its pixels, and hints for each.

    ``small`` is a copy that is shown, of the photo's ``size``.
    """

    name: str
    small: Image.Image
    size: tuple[int, int]
    boxes: tuple[tuple[float, float, float, float], ...]
    hints: tuple[tuple[str, ...], ...]


def look_at(studio: Studio, session: Session, photo: str) -> Ticket[Looked]:
    """Find the faces in a photo (id, sample) of a session; does not wait for jobs."""
    studio.check_reading("dlib")
    file = place(session, photo)

    def work(_models: Models, _listener: Listener) -> Looked:
        from idpersona.encoders import FaceEncoder, get_encoder
        from idpersona.encoders.quality import measure_quality
        from idpersona.images import open_photo

        encoder = get_encoder("dlib")
        assert isinstance(encoder, FaceEncoder)
        image = open_photo(file)
        faces = encoder.detect(image)
        hints = tuple(measure_quality(image, face).warnings() for face in faces)
        boxes = tuple(face.box for face in faces)
        shown = session.names().get(file, file)
        return Looked(shown, thumbnail(image, SHOWN), image.size, boxes, hints)

    return studio.engine.soon(session.key, work)
