"""From a picture back to what it was asked with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from idpersona.app.asks import Create, Person
from idpersona.app.people_choice import IDENTITY, PHOTO, label_of, page_name
from idpersona.app.sessions import Session, StoredPicture
from idpersona.app.sources import SessionSources
from idpersona.app.speech import speak
from idpersona.app.studio import Studio
from idpersona.app.uploads import safe_name
from idpersona.errors import BadInput, IdPersonaError
from idpersona.images import SAMPLE_PREFIX
from idpersona.jobs.listener import Listener
from idpersona.jobs.request import Request, recorded_request
from idpersona.provenance import read_settings


@dataclass(frozen=True)
class Restored:
    """What a picture was asked with.

    Attributes:
        create: as it was asked.
        chosen: people as the page names them; empty where they are not here.
        regions: of several people, as the page draws them.
        notes: what is not as it was.
    """

    create: Create
    chosen: tuple[str, ...]
    regions: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    def ask(self, **changes: Any) -> Create:
        """The request, with changes."""
        return replace(self.create, **changes)


class _Notes(Listener):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


def restore(
    studio: Studio, session: Session, picture: StoredPicture | bytes, name: str = "the picture"
) -> Restored:
    """What a picture of this session, or a file that was dropped, was asked with.

    People who are not in the session are left open, with a note: settings alone are worth having.

    Raises:
        PhotoError: the file is no PNG of ours.
        BadInput: its settings are damaged, or it is no created picture.
        UnknownName: its model or method is not offered here.
    """
    settings = settings_of(session, picture, name, studio.settings.max_upload)
    if "edited" in settings:
        raise BadInput(f"{safe_name(name)} is an edit: drop it under Edit")
    listener = _Notes()
    sources = SessionSources(session, safe_name(name), studio.catalogue.loras)
    notes: list[str] = []
    request = _found(settings, sources, listener, notes, session)
    adapters = request.adapters
    catalogue = studio.catalogue
    base = str(request.base)
    catalogue.base(base)
    for label, _ in adapters:
        catalogue.adapter(label)
    size = request.size or (1, 1)
    people, regions = _people(session, request, size)
    create = Create(
        people=people,
        prompt=request.prompt or "",
        negative=request.negative,
        base=base,
        method=adapters[0][0],
        loras=tuple((_lora(studio, path), weight or 0.0) for path, weight in request.loras),
        helpers=tuple(adapters[1:]),
        options=tuple((option.adapter, option.name, option.value) for option in request.options),
        scale=adapters[0][1],
        steps=request.steps,
        guidance=request.guidance,
        size=request.size,
        seed=request.seed,
        vary=request.vary,
        pose=None if request.pose is None else page_name(session, request.pose).removeprefix(PHOTO),
        face=request.face,
        consent=bool(request.consent),
        weighted=bool(request.weighted),
        made_with=request.made_with,
        face_features=request.face_features,
    )
    chosen = tuple(
        f"{IDENTITY}{person.identity}"
        if person.identity
        else photo
        if photo.startswith(SAMPLE_PREFIX)
        else f"{PHOTO}{photo}"
        for person in people
        for photo in (person.photos or ("",))
    )
    told = [*notes, *(speak(text) for text in listener.told)]
    return Restored(create, chosen, tuple(regions), tuple(told))


def _found(
    settings: dict[str, Any], sources: SessionSources, listener: Listener, notes: list[str], session: Session
) -> Request:
    """The recorded request, without those of its files that are not here; each of them gives a note."""
    parts: list[dict[str, Any]] = [{"identity": "-"}, {"pose": "-"}, {"loras": (("-", None),)}]
    for number in range(len(parts) + 1):
        for chosen in combinations(parts, number):
            instead = {name: value for part in chosen for name, value in part.items()}
            try:
                return recorded_request(settings, sources, Request(**instead), listener)
            except IdPersonaError as error:
                told = speak(str(error), session.names())
                if "which is not here" not in told:
                    raise
                notes[:] = dict.fromkeys([*notes, told])
    raise AssertionError("without all of its files nothing can be missing")


def _lora(studio: Studio, path: str) -> str:
    for label, file in studio.catalogue.loras.items():
        if str(file) == path:
            return label
    raise BadInput("a LoRA of this picture is not offered here")


def settings_of(session: Session, data: StoredPicture | bytes, name: str, most: int) -> dict[str, Any]:
    """The settings of a picture of this session, or of a file of up to ``most`` bytes that was dropped.

    Raises:
        PhotoError: the file is no PNG of ours.
        BadInput: it is too large.
    """
    if isinstance(data, StoredPicture):
        return data.settings
    name = safe_name(name)
    if len(data) > most:
        raise BadInput(f"{name} is larger than the {most >> 20} MiB allowed")
    _, path = session.new_path(".upload.png")
    try:
        path.write_bytes(data)
        return read_settings(path)
    except IdPersonaError as error:
        raise type(error)(str(error).replace(str(path), name)) from None
    finally:
        path.unlink(missing_ok=True)


def _people(
    session: Session, request: Request, size: tuple[int, int]
) -> tuple[tuple[Person, ...], list[dict[str, Any]]]:
    if request.persons:
        people: list[Person] = []
        regions: list[dict[str, Any]] = []
        for text in request.persons:
            file, _, place = text.rpartition("@")
            try:
                x, y, width, height = (int(part) for part in place.split(","))
            except ValueError:
                raise BadInput(
                    "this picture has regions from mask files, which the page does not draw"
                ) from None
            chosen = page_name(session, file)
            person = Person(region=(x, y, width, height), **_named(chosen))
            people.append(person)
            regions.append(
                {
                    "id": chosen,
                    "label": label_of(session, chosen),
                    "x": x / size[0],
                    "y": y / size[1],
                    "w": width / size[0],
                    "h": height / size[1],
                    "ratio": size[0] / size[1],
                }
            )
        return tuple(people), regions
    if request.identity and request.identity != "-":
        return (Person(**_named(page_name(session, request.identity))),), []
    if request.photos:
        photos = tuple(page_name(session, photo).removeprefix(PHOTO) for photo in request.photos)
        return (Person(photos=photos),), []
    return (), []


def _named(chosen: str) -> dict[str, Any]:
    if chosen.startswith(IDENTITY):
        return {"identity": chosen.removeprefix(IDENTITY)}
    return {"photos": (chosen.removeprefix(PHOTO),)}
