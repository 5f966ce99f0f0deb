"""Who can be chosen: the photos and identities of a session, and the samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from idpersona.app import markup
from idpersona.app.asks import Person
from idpersona.app.sessions import Session
from idpersona.errors import BadInput
from idpersona.images import SAMPLE_PREFIX, open_photo, sample_names

PHOTO, IDENTITY = "photo:", "identity:"


def choices(session: Session | None) -> list[tuple[str, str]]:
    """(label, value) of everybody, the samples last."""
    found: list[tuple[str, str]] = []
    if session is not None:
        with session.lock:
            found += [(f"Photo {one.name}", f"{PHOTO}{one.id}") for one in session.photos.values()]
            found += [(f"Identity {one.name}", f"{IDENTITY}{one.id}") for one in session.identities.values()]
    return found + [(f"Sample {name}", f"{SAMPLE_PREFIX}{name}") for name in sample_names()]


def label_of(session: Session, chosen: str) -> str:
    """What a chosen one is called."""
    return {value: label for label, value in choices(session)}.get(chosen, chosen[:40])


def known(session: Session, chosen: Sequence[str]) -> list[str]:
    """Those of the chosen that are still here."""
    here = {value for _, value in choices(session)}
    return [one for one in chosen if one in here]


def one_person(chosen: Sequence[str]) -> tuple[Person, ...]:
    """All chosen photos, or the one identity, as one person.

    Raises:
        BadInput: nobody was chosen, or an identity beside something else.
    """
    identities = [one for one in chosen if one.startswith(IDENTITY)]
    if identities and len(chosen) > 1:
        raise BadInput(
            "one person is either photos or one identity: choose less, or switch on “Several people” to have "
            "all of them in the picture"
        )
    if identities:
        return (Person(identity=identities[0].removeprefix(IDENTITY)),)
    if not chosen:
        raise BadInput("whose picture shall it be? Give a photo, or choose a sample under “Who”")
    return (Person(photos=tuple(photo_id(one) for one in chosen)),)


def several_people(chosen: Sequence[str], canvas: Any, size: tuple[int, int]) -> tuple[Person, ...]:
    """Everybody with the region that was drawn (parts of the canvas, 0..1), in pixels of the picture.

    Raises:
        BadInput: fewer than two, or a region is missing or damaged.
    """
    if len(chosen) < 2:
        raise BadInput("several people: choose two or more under “Who”")
    drawn = {entry.get("id"): entry for entry in _entries(canvas)}
    people: list[Person] = []
    for one in chosen:
        if one not in drawn:
            raise BadInput("a person has no region: switch “Several people” off and on again")
        region = in_pixels([float(drawn[one][side]) for side in ("x", "y", "w", "h")], size)
        if one.startswith(IDENTITY):
            people.append(Person(identity=one.removeprefix(IDENTITY), region=region))
        else:
            people.append(Person(photos=(photo_id(one),), region=region))
    return tuple(people)


def in_pixels(parts: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box in parts of the picture (0..1) -> x, y, width, height in pixels, inside of it."""
    if not all(0.0 <= part <= 1.0 for part in parts):
        raise BadInput("a region leaves the picture")
    x, y, w, h = parts
    width, height = size
    left, top = round(x * width), round(y * height)
    right, bottom = min(width, round((x + w) * width)), min(height, round((y + h) * height))
    if right - left < 8 or bottom - top < 8:
        raise BadInput("a region is smaller than 8 pixels")
    return left, top, right - left, bottom - top


def has_regions(chosen: Sequence[str], canvas: Any) -> bool:
    """Whether exactly the chosen have a region each."""
    return sorted(entry["id"] for entry in _entries(canvas)) == sorted(chosen)


def spread_out(
    session: Session, chosen: Sequence[str], before: Any, size: tuple[int, int]
) -> list[dict[str, Any]]:
    """Regions for everybody on a canvas of a size: as they were drawn, others side by side."""
    share, ratio = 1.0 / max(1, len(chosen)), size[0] / size[1]
    if has_regions(chosen, before):
        return [{**entry, "ratio": ratio} for entry in _entries(before)]
    sides = ({"x": i * share, "y": 0.1, "w": share, "h": 0.9} for i in range(len(chosen)))
    return [
        {"id": one, "label": label_of(session, one), **side, "ratio": ratio}
        for one, side in zip(chosen, sides, strict=True)
    ]


def _entries(canvas: Any) -> list[dict[str, Any]]:
    if not isinstance(canvas, list) or len(canvas) > 16:
        return []
    sides = ("x", "y", "w", "h")
    return [
        entry
        for entry in canvas
        if isinstance(entry, dict)
        and isinstance(entry.get("id"), str)
        and all(isinstance(entry.get(side), (int, float)) for side in sides)
    ]


def photo_id(chosen: str) -> str:
    """What the studio calls a chosen photo."""
    return chosen.removeprefix(PHOTO)


def pictures(session: Session, chosen: Sequence[str]) -> str:
    """The chosen ones as a row of small pictures."""
    shown: list[tuple[str, str]] = []
    for one in chosen:
        if one.startswith(IDENTITY):
            continue
        name = label_of(session, one)
        place = one if one.startswith(SAMPLE_PREFIX) else str(session.photo(photo_id(one)).path)
        image: Image.Image = open_photo(place)
        shown.append((markup.data_url(image, 160), name))
    return markup.strip(shown)


def page_name(session: Session, place: str) -> str:
    """What the page calls a file of the session, or a sample.

    Raises:
        BadInput: it is neither.
    """
    if place.startswith(SAMPLE_PREFIX):
        return place
    with session.lock:
        for photo in session.photos.values():
            if str(photo.path) == place:
                return f"{PHOTO}{photo.id}"
        for stored in session.identities.values():
            if str(stored.path) == place:
                return f"{IDENTITY}{stored.id}"
    raise BadInput("a photo of this picture is not here any more")


def photos(session: Session | None) -> list[tuple[str, str]]:
    """(label, value) of all photos, the samples last."""
    return [one for one in choices(session) if not one[1].startswith(IDENTITY)]
