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
    "chosen",
    "face",
    "pose",
    "loras",
    "prompt",
    "method",
    "scale",
    "base",
    "negative",
    "weighted",
    "steps",
    "guidance",
    "size",
    "seed",
    "lock",
    "count",
)
"""What the browser keeps."""
FIELDS = ("several", "regions", "consent", *SETTINGS, "carried")
"""All fields; ``carried`` is what a picture was made with and the page has no field for."""
MOST_STEPS, MOST_GUIDANCE = 100, 20.0
"""Ends of the sliders, which are less than what can be asked for otherwise."""
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
        weighted=bool(form["weighted"]),
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
        ask = replace(ask, helpers=carried.helpers, options=carried.options)
    if carried.seed is not None and carried.seed == ask.seed:
        ask = replace(ask, vary=carried.vary)
    features = carried.face_features if carried.people == ask.people else None
    ask = replace(ask, made_with=carried.made_with, face_features=features)
    weights = dict(carried.loras)
    return replace(ask, loras=tuple((name, weights.get(name, weight)) for name, weight in ask.loras))


def carried_notes(found: Restored) -> list[str]:
    """What is carried without a field, in words."""
    ask = found.create
    told = [*(name for name, _ in ask.helpers), *(f"{of}: {name}={value}" for of, name, value in ask.options)]
    told += [f"variation {seed}:{amount:g}" for seed, amount in ask.vary]
    told += [f"LoRA {name} at {weight:g}" for name, weight in ask.loras if weight != 1.0]
    if not told:
        return []
    return [f"Kept from the picture, while model, method and seed stay: {', '.join(told)}"]


def filled(studio: Studio, session: Session, found: Restored) -> tuple[dict[str, Any], list[str]]:
    """Values of all fields, from a picture, and what no field can hold."""
    ask = found.create
    pose = "" if ask.pose is None else ask.pose
    if pose and not pose.startswith(SAMPLE_PREFIX):
        pose = f"{people_choice.PHOTO}{pose}"
    methods = studio.catalogue.methods(ask.base)
    steps, guidance = min(ask.steps or 1, MOST_STEPS), min(ask.guidance or 0.0, MOST_GUIDANCE)
    notes = [
        f"{label} {had:g} is more than this page offers: {has:g} instead"
        for label, had, has in (("Steps", ask.steps, steps), ("Guidance", ask.guidance, guidance))
        if had is not None and had > has
    ]
    values = {
        "chosen": gr.CheckboxGroup(people_choice.choices(session), value=list(found.chosen)),
        "several": bool(found.regions),
        "regions": gr.HTML(list(found.regions), visible=bool(found.regions)),
        "consent": ask.consent,
        "face": "" if ask.face is None else str(ask.face),
        "pose": gr.Dropdown([NO_POSE, *people_choice.photos(session)], value=pose),
        "loras": [name for name, _ in ask.loras],
        "prompt": ask.prompt,
        "method": gr.Dropdown(methods, value=ask.method),
        "scale": ask.scale,
        "base": ask.base,
        "negative": ask.negative or "",
        "weighted": ask.weighted,
        "steps": steps,
        "guidance": guidance,
        "size": "" if ask.size is None else f"{ask.size[0]}x{ask.size[1]}",
        "seed": "" if ask.seed is None else str(ask.seed),
        "lock": True,
        "count": 1,
        "carried": ask,
    }
    return values, notes


def kept(studio: Studio, session: Session, saved: Any) -> dict[str, Any]:
    """Values of :data:`SETTINGS` as the browser kept them; {} where they do not fit this studio."""
    if not isinstance(saved, list) or len(saved) != len(SETTINGS):
        return {}
    form = dict(zip(SETTINGS, saved, strict=True))
    offered = studio.catalogue
    methods = offered.methods(form["base"]) if form["base"] in offered.bases else []
    if form["method"] not in methods:
        return {"prompt": form["prompt"]}
    photos = people_choice.photos(session)
    chosen = people_choice.known(session, form["chosen"] or [])
    form.pop("chosen")
    if chosen:
        form["chosen"] = gr.CheckboxGroup(people_choice.choices(session), value=chosen)
    return {
        **form,
        "pose": gr.Dropdown(
            [NO_POSE, *photos], value=form["pose"] if form["pose"] in {one for _, one in photos} else ""
        ),
        "loras": [name for name in form["loras"] or () if name in offered.loras],
        "method": gr.Dropdown(methods, value=form["method"]),
    }
