"""Between the fields of *Create* and what the studio is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from idpersona.app import people_choice
from idpersona.app.asks import Create
from idpersona.app.geometry import native_size
from idpersona.app.restore import Restored
from idpersona.app.running import value, whole
from idpersona.app.sessions import Session
from idpersona.app.studio import Studio
from idpersona.images import SAMPLE_PREFIX
from idpersona.jobs import limits

SETTINGS = (
    "prompt",
    "method",
    "scale",
    "base",
    "negative",
    "steps",
    "guidance",
    "size",
    "seed",
    "lock",
    "count",
)
"""What the browser keeps."""
FIELDS = ("chosen", "several", "regions", "consent", "face", "pose", "loras", *SETTINGS, "carried")
"""All fields; ``carried`` is what a picture was made with and the page has no field for."""
NO_POSE = ("the method's own", "")


def asked(studio: Studio, session: Session, form: Mapping[str, Any]) -> Create:
    """What the fields ask for.

    Raises:
        BadInput: a field holds no number, nobody was chosen, or a region is missing.
    """
    chosen = people_choice.known(session, form["chosen"] or [])
    size = limits.size(form["size"]) if value(form["size"]) else None
    several = bool(form["several"])
    if several:
        # Regions are in pixels of this canvas, whatever size a pose photo would suggest.
        size = size or native_size(studio.catalogue.base(form["base"]))
        people = people_choice.several_people(chosen, form["regions"], size)
    else:
        people = people_choice.one_person(chosen)
    ask = Create(
        people=people,
        prompt=form["prompt"] or "",
        negative=value(form["negative"]),
        base=form["base"],
        method=form["method"],
        scale=form["scale"],
        loras=tuple((name, 1.0) for name in form["loras"] or ()),
        steps=int(form["steps"]),
        guidance=float(form["guidance"]),
        size=size,
        seed=whole(form["seed"], "“Seed”"),
        count=int(form["count"]),
        pose=people_choice.photo_id(form["pose"]) if value(form["pose"]) else None,
        face=None if several else whole(form["face"], "“Face”"),
        # Identities carry an answer of their own.
        consent=bool(form["consent"]) and any(not one.startswith(people_choice.IDENTITY) for one in chosen),
    )
    return _with_carried(ask, form["carried"])


def _with_carried(ask: Create, carried: Any) -> Create:
    """What a picture was made with and no field shows, while model and method, or the seed, are its own."""
    if not isinstance(carried, Create):
        return ask
    if (carried.base, carried.method) == (ask.base, ask.method):
        ask = replace(ask, helpers=carried.helpers, options=carried.options, weighted=carried.weighted)
    if carried.seed is not None and carried.seed == ask.seed:
        ask = replace(ask, vary=carried.vary)
    weights = dict(carried.loras)
    return replace(ask, loras=tuple((name, weights.get(name, weight)) for name, weight in ask.loras))


def carried_notes(found: Restored) -> list[str]:
    """What is carried without a field, in words."""
    ask = found.create
    told = [*(name for name, _ in ask.helpers), *(f"{of}: {name}={value}" for of, name, value in ask.options)]
    told += ["weighted prompt"] if ask.weighted else []
    told += [f"variation {seed}:{amount:g}" for seed, amount in ask.vary]
    told += [f"LoRA {name} at {weight:g}" for name, weight in ask.loras if weight != 1.0]
    if not told:
        return []
    return [f"Kept from the picture, while model, method and seed stay: {', '.join(told)}"]


def filled(studio: Studio, session: Session, found: Restored) -> dict[str, Any]:
    """Values of all fields, from a picture."""
    ask = found.create
    pose = "" if ask.pose is None else ask.pose
    if pose and not pose.startswith(SAMPLE_PREFIX):
        pose = f"{people_choice.PHOTO}{pose}"
    methods = studio.catalogue.methods(ask.base)
    return {
        "chosen": gr.CheckboxGroup(people_choice.choices(session), value=list(found.chosen)),
        "several": bool(found.regions),
        "regions": gr.HTML(list(found.regions), visible=bool(found.regions)),
        "consent": ask.consent,
        "face": "" if ask.face is None else str(ask.face),
        "pose": gr.Dropdown(poses(session), value=pose),
        "loras": [name for name, _ in ask.loras],
        "prompt": ask.prompt,
        "method": gr.Dropdown(methods, value=ask.method),
        "scale": ask.scale,
        "base": ask.base,
        "negative": ask.negative or "",
        "steps": ask.steps,
        "guidance": ask.guidance,
        "size": "" if ask.size is None else f"{ask.size[0]}x{ask.size[1]}",
        "seed": "" if ask.seed is None else str(ask.seed),
        "lock": True,
        "count": 1,
        "carried": ask,
    }


def poses(session: Session) -> list[tuple[str, str]]:
    """Choices of a pose photo."""
    everybody = people_choice.choices(session)
    return [NO_POSE, *(one for one in everybody if not one[1].startswith(people_choice.IDENTITY))]


def kept(studio: Studio, saved: Any) -> dict[str, Any]:
    """Values of :data:`SETTINGS` as the browser kept them; {} where they do not fit this studio."""
    if not isinstance(saved, list) or len(saved) != len(SETTINGS):
        return {}
    form = dict(zip(SETTINGS, saved, strict=True))
    methods = studio.catalogue.methods(form["base"]) if form["base"] in studio.catalogue.bases else []
    if form["method"] not in methods:
        return {"prompt": form["prompt"]}
    return {**form, "method": gr.Dropdown(methods, value=form["method"])}
