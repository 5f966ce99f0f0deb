"""What can be asked of a studio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Person:
    """One who shall be in a picture: photos of one person (ids, or ``sample:NAME``) or an identity (id).

    ``region`` is a box (x, y, width, height) in pixels of the picture; None where there is only one person.
    """

    photos: tuple[str, ...] = ()
    identity: str | None = None
    region: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Create:
    """A picture to be made; labels of the catalogue, ids of the session. None is what the model takes best.
    ``vary`` holds (seed, amount) of the noises that are mixed into that of ``seed``; ``made_with`` and
    ``face_features`` are of the picture that is repeated, so that it can be said what has changed.
    """

    people: tuple[Person, ...]
    prompt: str
    negative: str | None = None
    base: str | None = None
    method: str | None = None
    helpers: tuple[tuple[str, float | None], ...] = ()
    loras: tuple[tuple[str, float], ...] = ()
    options: tuple[tuple[str, str, float | bool | str], ...] = ()
    scale: float | None = None
    steps: int | None = None
    guidance: float | None = None
    size: tuple[int, int] | None = None
    seed: int | None = None
    count: int = 1
    vary: tuple[tuple[int, float], ...] = ()
    pose: str | None = None
    face: int | None = None
    consent: bool = False
    weighted: bool = False
    made_with: Mapping[str, str] | None = field(default=None, compare=False)
    face_features: str | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A photo to be changed; labels of the catalogue, ids of the session."""

    photo: str
    prompt: str
    source: str | None = None
    method: str | None = None
    strength: float | None = None
    words: tuple[str, ...] = ()
    keep_background: bool = False
    base: str | None = None
    adapter: str | None = None
    scale: float | None = None
    attributes: Mapping[str, float] | None = None
    steps: int | None = None
    guidance: float | None = None
    face: int | None = None
    consent: bool = False
