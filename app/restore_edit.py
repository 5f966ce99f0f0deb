"""From an edit back to what it was asked with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from idpersona.app.asks import Edit
from idpersona.app.people_choice import page_name, photo_id
from idpersona.app.restore import settings_of
from idpersona.app.sessions import Session, StoredPicture
from idpersona.app.sources import SessionSources
from idpersona.app.speech import speak
from idpersona.app.studio import Studio
from idpersona.app.uploads import safe_name
from idpersona.errors import BadInput
from idpersona.pipelines.editing.spec import Control
from idpersona.pipelines.inversion.names import NAMES


@dataclass(frozen=True)
class RestoredEdit:
    """What an edit was asked with.

    Attributes:
        edit: as it was asked; its photo is empty where that is not here.
        notes: what is not as it was.
    """

    edit: Edit
    notes: tuple[str, ...]


def restore_edit(
    studio: Studio, session: Session, picture: StoredPicture | bytes, name: str = "the picture"
) -> RestoredEdit:
    """What an edit of this session, or a file that was dropped, was asked with.

    Raises:
        PhotoError: the file is no PNG of ours.
        BadInput: its settings are damaged, or it is no edit.
        UnknownName: its model or method is not offered here.
    """
    settings = settings_of(session, picture, name, studio.settings.max_upload)
    shown = safe_name(name)
    if "edited" not in settings:
        raise BadInput(f"{shown} is no edit: drop it under Create")
    notes: list[str] = []
    try:
        edit = _edit(studio, settings, _photo(studio, session, settings, shown, notes))
        notes += [f"There is no field for {what}, which stays as usual" for what in _fieldless(settings)]
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"the settings in {shown} are damaged: {type(error).__name__} {error}") from error
    return RestoredEdit(edit, tuple(notes))


def _photo(studio: Studio, session: Session, settings: dict[str, Any], name: str, notes: list[str]) -> str:
    sources = SessionSources(session, name, studio.catalogue.loras)
    try:
        return photo_id(page_name(session, sources.find(settings["edited"])))
    except BadInput as error:
        notes.append(speak(str(error), session.names()))
        return ""


def _edit(studio: Studio, settings: dict[str, Any], photo: str) -> Edit:
    adapters, control = settings["adapters_of_edit"], settings["control"]
    studio.catalogue.base(settings["base"])
    if settings["method"] not in NAMES:
        raise ValueError("method")
    attributes: dict[str, float] = {}
    adapter, scale = None, None
    if adapters:
        adapter, scale = str(adapters[0]["name"]), float(adapters[0]["scale"])
        studio.catalogue.adapter(adapter)
        moved = str(adapters[0]["options"].get("edit") or "")
        attributes = {
            key: float(amount) for key, _, amount in (p.partition("=") for p in moved.split(",") if p)
        }
    blend = [] if control is None else [part for part in control["blend"] or () if part]
    words = dict.fromkeys(word.strip() for part in blend for word in part.split(","))
    face, consent = settings["face"], settings["photo_consent"]
    if type(face) not in (int, type(None)) or type(consent) is not bool:
        raise TypeError("face or consent")
    return Edit(
        photo=photo,
        prompt=str(settings["prompt"]),
        source=str(settings["source"]),
        method=settings["method"],
        strength=None if control is None else float(control["strength"]),
        words=tuple(word for word in words if word),
        keep_background=settings["keep_background"] is True,
        base=settings["base"],
        adapter=adapter,
        scale=scale,
        attributes=attributes,
        steps=int(settings["steps"]),
        guidance=float(settings["guidance"]),
        face=face,
        consent=consent,
    )


def _fieldless(settings: dict[str, Any]) -> list[str]:
    """What decided the edit, and cannot be asked for here."""
    usual, control, adapters = Control(), settings["control"], settings["adapters_of_edit"]
    who = settings["identity_of_edit"] or {}
    given = {
        "options of the editing method": bool(settings["method_options"]),
        "the window of cross-attention": control is not None and control["cross"] != usual.cross,
        "the window of self-attention": control is not None
        and control["self_attention"] != usual.self_attention,
        "word-by-word edits": control is not None and control["kind"] != usual.kind,
        "emphasis": control is not None and bool(control["reweight"]),
        "the negative prompt": settings["negative"] not in (None, settings["source"]),
        "leaving out details of the photo": settings["detail"] is not True,
        "somebody else's identity": who.get("from") == "file",
        "further methods": len(adapters) > 1,
    }
    return [what for what, told in given.items() if told]
