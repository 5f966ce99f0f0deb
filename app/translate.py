"""From what is asked of a studio to the requests of the package: labels and ids become names and files."""

from __future__ import annotations

from typing import Any

from idpersona.app.asks import Create, Edit, Person
from idpersona.app.catalogue import Catalogue
from idpersona.app.sessions import Session
from idpersona.app.settings import Settings
from idpersona.errors import BadInput
from idpersona.images import SAMPLE_PREFIX, sample_names
from idpersona.jobs.edit_request import EditRequest
from idpersona.jobs.request import Request, Scaled
from idpersona.options import AdapterOption


def place(session: Session, id: str) -> str:
    """Path of a photo of the session, or the name of a sample; nothing else is ever opened.

    Raises:
        UnknownName: there is no such photo.
    """
    if id.startswith(SAMPLE_PREFIX) and id[len(SAMPLE_PREFIX) :] in sample_names():
        return id
    return str(session.photo(id).path)


def create_request(ask: Create, session: Session, catalogue: Catalogue, settings: Settings) -> Request:
    """The request behind pictures.

    Raises:
        BadInput: out of range, contradictory, or incomplete.
        UnknownName: something is not offered, or not in the session.
    """
    who: dict[str, Any] = {}
    if len(ask.people) == 1 and ask.people[0].region is None:
        person = ask.people[0]
        if person.identity is not None:
            who["identity"] = str(session.identity(person.identity).path)
        else:
            who["photos"] = tuple(place(session, id) for id in person.photos)
    elif ask.people:
        who["persons"] = tuple(_placed(session, person) for person in ask.people)
    label = ask.method or catalogue.first_method(ask.base)
    adapters = [(label, ask.scale), *ask.helpers]
    return (
        Request(
            **who,
            face=ask.face,
            consent=ask.consent or None,
            prompt=ask.prompt.strip() or None,
            negative=(ask.negative or "").strip() or None,
            weighted=ask.weighted or None,
            adapters=tuple((catalogue.adapter(name), scale) for name, scale in adapters),
            loras=tuple((str(catalogue.lora(name)), weight) for name, weight in ask.loras),
            options=tuple(
                AdapterOption(catalogue.adapter(of), name, option) for of, name, option in ask.options
            ),
            base=catalogue.base(ask.base),
            steps=ask.steps,
            guidance=ask.guidance,
            size=ask.size,
            seed=ask.seed,
            vary=ask.vary,
            pose=None if ask.pose is None else place(session, ask.pose),
            made_with=dict(ask.made_with or {}) or None,
            face_features=ask.face_features,
            device=settings.device,
            dtype=settings.dtype,
        )
        .checked()
        .complete()
    )


def edit_request(ask: Edit, session: Session, catalogue: Catalogue, settings: Settings) -> EditRequest:
    """The request behind an edit.

    Raises:
        BadInput: out of range, contradictory, or incomplete.
        UnknownName: something is not offered, or not in the session.
    """
    adapters: tuple[Scaled, ...] = ()
    options: tuple[AdapterOption, ...] = ()
    if ask.adapter:
        name = catalogue.adapter(ask.adapter)
        adapters = ((name, None),)
        changes = {key: amount for key, amount in (ask.attributes or {}).items() if amount}
        if changes:
            told = ",".join(f"{key}={amount:g}" for key, amount in changes.items())
            options = (AdapterOption(name, "edit", told),)
    return EditRequest(
        photo=place(session, ask.photo),
        prompt=ask.prompt.strip() or None,
        source=(ask.source or "").strip() or None,
        method=ask.method,
        strength=ask.strength,
        words=ask.words,
        keep_background=ask.keep_background,
        adapters=adapters,
        scale=ask.scale if ask.adapter else None,
        options=options,
        base=catalogue.base(ask.base),
        steps=ask.steps,
        guidance=ask.guidance,
        face=ask.face,
        consent=ask.consent,
        device=settings.device,
        dtype=settings.dtype,
    ).checked()


def _placed(session: Session, person: Person) -> str:
    if person.region is None:
        raise BadInput("give each of several people a region")
    if person.identity is not None:
        file = str(session.identity(person.identity).path)
    elif len(person.photos) == 1:
        file = place(session, person.photos[0])
    else:
        raise BadInput("several photos of one of several people: read them into an identity first")
    return f"{file}@{','.join(map(str, person.region))}"
