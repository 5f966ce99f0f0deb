"""The faces in photos, and how well they can be read."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from idpersona.app.engine import Ticket
from idpersona.app.sessions import Session
from idpersona.app.studio import Studio
from idpersona.app.translate import place
from idpersona.jobs.listener import Listener
from idpersona.jobs.models import Models


@dataclass(frozen=True)
class Looked:
    """A photo with its faces, largest first: boxes (x0, y0, x1, y1) in pixels, and hints for each."""

    name: str
    image: Image.Image
    boxes: tuple[tuple[float, float, float, float], ...]
    hints: tuple[tuple[str, ...], ...]


def look_at(studio: Studio, session: Session, photos: list[str]) -> Ticket[list[Looked]]:
    """Find the faces in photos (ids, samples) of a session; does not wait for jobs."""
    studio.check_reading("dlib")
    places = [place(session, id) for id in photos]

    def work(_models: Models, _listener: Listener) -> list[Looked]:
        from idpersona.encoders import FaceEncoder, get_encoder
        from idpersona.encoders.quality import measure_quality
        from idpersona.images import open_photo

        encoder = get_encoder("dlib")
        assert isinstance(encoder, FaceEncoder)
        found: list[Looked] = []
        names = session.names()
        for file in places:
            image = open_photo(file)
            faces = encoder.detect(image)
            hints = tuple(measure_quality(image, face).warnings() for face in faces)
            shown = names.get(file, file)
            found.append(Looked(shown, image, tuple(face.box for face in faces), hints))
        return found

    return studio.engine.soon(session.key, work)
