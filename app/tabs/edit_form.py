"""Between the fields of *Edit* and what the studio is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from idpersona.app import people_choice
from idpersona.app.asks import Edit
from idpersona.app.catalogue import Catalogue
from idpersona.app.restore_edit import RestoredEdit
from idpersona.app.running import decimal, value, whole
from idpersona.app.sessions import Session
from idpersona.errors import BadInput

NONE = "none"
SETTINGS = (
    "photo",
    "source",
    "prompt",
    "strength",
    "head",
    "base",
    "method",
    "words",
    "adapter",
    "scale",
    "steps",
    "guidance",
    "face",
)
"""What the browser keeps."""
FIELDS = ("consent", *SETTINGS)
"""All fields but those of the attributes, which come after them."""
MOVER_SCALE = 1.0
"""Strength of a method that moves attributes: less would leave the person's look to chance."""


def asked(offered: Catalogue, names: list[str], given: tuple[Any, ...], *, moving: bool) -> Edit:
    """What the fields ask for.

    Args:
        names: of the attributes, whose amounts come last in ``given``.
        moving: an attribute was just moved, so that words are not needed.

    Raises:
        BadInput: something is missing, holds no number, or does not go together.
    """
    form = dict(zip(FIELDS, given, strict=False))
    amounts = dict(zip(names, given[len(FIELDS) :], strict=True))
    mover, movable = offered.attributes(form["base"])
    changes = {name: float(amount) for name, amount in amounts.items() if amount and name in movable}
    kept = None if form["adapter"] == NONE else form["adapter"]
    if not form["photo"]:
        raise BadInput("which photo? Give one, or choose a sample under “Photo”")
    if changes and kept not in (None, mover):
        raise BadInput(
            f"{mover} moves the attributes: choose it, or “{NONE}”, under “Method that keeps the person "
            "besides”"
        )
    if not value(form["prompt"]) and not changes and not moving:
        raise BadInput("“What it shall show” is empty: describe the picture with the change")
    scale = None if kept is None else float(form["scale"])
    if (changes or moving) and kept is None:
        kept, scale = mover, MOVER_SCALE
    words = (word.strip() for word in (form["words"] or "").split(","))
    return Edit(
        photo=people_choice.photo_id(form["photo"]),
        prompt=form["prompt"] or "",
        source=value(form["source"]),
        method=form["method"],
        strength=float(form["strength"]) if takes_strength(form["method"]) else None,
        words=tuple(word for word in words if word),
        keep_background=bool(form["head"]),
        base=form["base"],
        adapter=kept,
        scale=scale,
        attributes=changes,
        steps=whole(form["steps"], "“Steps”"),
        guidance=decimal(form["guidance"], "“Guidance”"),
        face=whole(form["face"], "“Face”"),
        consent=bool(form["consent"]),
    )


def takes_strength(method: str) -> bool:
    """Whether an editing method knows a strength."""
    from idpersona.pipelines.inversion.methods import METHODS

    return method in METHODS and METHODS[method].takes_control


def filled(offered: Catalogue, session: Session, names: list[str], found: RestoredEdit) -> list[Any]:
    """Values of all fields and attributes, from an edit."""
    ask = found.edit
    options = people_choice.photos(session)
    photo = next((one for _, one in options if ask.photo and people_choice.photo_id(one) == ask.photo), None)
    adapters = [NONE, *offered.methods(ask.base, "face")]
    form = {
        "consent": ask.consent,
        "photo": gr.Dropdown(options, value=photo),
        "source": ask.source,
        "prompt": ask.prompt,
        "strength": gr.skip() if ask.strength is None else ask.strength,
        "head": ask.keep_background,
        "base": ask.base,
        "method": ask.method,
        "words": ", ".join(ask.words),
        "adapter": gr.Dropdown(adapters, value=ask.adapter or NONE),
        "scale": gr.skip() if ask.scale is None else ask.scale,
        "steps": "" if ask.steps is None else str(ask.steps),
        "guidance": "" if ask.guidance is None else f"{ask.guidance:g}",
        "face": "" if ask.face is None else str(ask.face),
    }
    moved: Mapping[str, float] = ask.attributes or {}
    return [*(form[name] for name in FIELDS), *(moved.get(name, 0) for name in names)]


def kept(offered: Catalogue, session: Session, saved: Any) -> dict[str, Any]:
    """Values of :data:`SETTINGS` as the browser kept them; {} where they do not fit this studio."""
    if not isinstance(saved, list) or len(saved) != len(SETTINGS):
        return {}
    form = dict(zip(SETTINGS, saved, strict=True))
    texts = {name: form[name] for name in ("source", "prompt", "words") if isinstance(form[name], str)}
    if form["base"] not in offered.bases:
        return texts
    adapters = [NONE, *offered.methods(form["base"], "face")]
    if form["adapter"] not in adapters:
        return texts
    options = people_choice.photos(session)
    photo = form["photo"] if form["photo"] in {one for _, one in options} else None
    return {
        **form,
        "photo": gr.Dropdown(options, value=photo),
        "adapter": gr.Dropdown(adapters, value=form["adapter"]),
    }
