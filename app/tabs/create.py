"""*Create*: who, what, and the pictures."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import gradio as gr

from idpersona.app import markup, people_choice
from idpersona.app.engine import Ticket
from idpersona.app.geometry import native_size
from idpersona.app.restore import Restored, restore
from idpersona.app.running import follow, guarded, received, session_of, value
from idpersona.app.sessions import Session, StoredPicture
from idpersona.app.studio import MOST_PICTURES
from idpersona.app.tabs.create_form import (
    FIELDS,
    MOST_GUIDANCE,
    MOST_STEPS,
    NO_POSE,
    SETTINGS,
    asked,
    carried_notes,
    filled,
    kept,
)
from idpersona.app.tabs.shared import GALLERY, JOB, QUIET, Act, Load, Place, Shared
from idpersona.jobs import limits

EMPTY = "Your pictures will be here. The first takes a few seconds."
KINDS = ("create",)
VARIED = 0.35
"""How much other noise a variation has."""
REGIONS = (Path(__file__).parents[1] / "regions.js").read_text("utf-8")
EXAMPLES = (
    "a photo of a smiling woman",
    "a photo of a woman with eyeglasses",
    "a photo of an old woman with gray hair",
    "a photo of a woman wearing a hat",
)


def build(shared: Shared) -> None:
    """The tab."""
    studio = shared.studio
    offered = studio.catalogue
    bases, methods = list(offered.bases), offered.methods(None)
    usual = offered.defaults(None)
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            who = shared.who("create")
            several = gr.Checkbox(
                label="Several people, each in a region", elem_id="create-several", container=False
            )
            regions = gr.HTML(
                [],
                html_template='<div class="idp-regions" role="group" aria-label="Regions"></div>',
                js_on_load=REGIONS,
                elem_id="create-regions",
                visible=False,
            )
            consent = gr.Checkbox(
                label="Everybody in these photos agreed to this use",
                info="The answer is written into every identity and picture.",
                elem_id="create-consent",
            )
            prompt = gr.Textbox(
                label="Prompt",
                placeholder="a photo of a smiling woman",
                lines=2,
                max_length=limits.TEXT,
                info="What the picture shall show. Ctrl-Enter starts.",
                elem_id="create-prompt",
            )
            gr.Examples([[text] for text in EXAMPLES], [prompt], label="Examples", elem_id="create-examples")
            with gr.Row():
                method = gr.Dropdown(
                    methods,
                    value=methods[0] if methods else None,
                    label="Method",
                    info="How the person is put into the picture.",
                    elem_id="create-method",
                )
                scale = gr.Slider(
                    *limits.SCALE,
                    value=1.0,
                    step=0.05,
                    label="Strength of the method",
                    elem_id="create-scale",
                )
            start, _, status = shared.buttons("create", "Create")
            with gr.Accordion("More settings", open=False, elem_id="create-more"):
                base = gr.Dropdown(bases, value=bases[0], label="Model", elem_id="create-base")
                negative = gr.Textbox(
                    label="Negative prompt", max_length=limits.TEXT, elem_id="create-negative"
                )
                weighted = gr.Checkbox(
                    label="Weighted prompt",
                    info="Of any length, with weights as (smile:1.3).",
                    elem_id="create-weighted",
                )
                with gr.Row():
                    steps = gr.Slider(
                        1, MOST_STEPS, value=usual["steps"], step=1, label="Steps", elem_id="create-steps"
                    )
                    guidance = gr.Slider(
                        0,
                        MOST_GUIDANCE,
                        value=usual["guidance"],
                        step=0.1,
                        label="Guidance",
                        elem_id="create-guidance",
                    )
                with gr.Row():
                    seed = gr.Textbox(
                        max_length=20,
                        placeholder="empty",
                        label="Seed",
                        info="Empty: a new one.",
                        elem_id="create-seed",
                    )
                    lock = gr.Checkbox(
                        label="Keep the seed", info="The next picture has it, too.", elem_id="create-lock"
                    )
                    count = gr.Slider(
                        1, MOST_PICTURES, value=1, step=1, label="Number of pictures", elem_id="create-count"
                    )
                with gr.Row():
                    size = gr.Textbox(label="Size", placeholder="the model's", elem_id="create-size")
                    face = gr.Textbox(
                        max_length=20,
                        placeholder="empty",
                        label="Face",
                        info="Which face, 0 the largest.",
                        elem_id="create-face",
                    )
                if offered.loras:
                    lora = gr.Dropdown(
                        list(offered.loras), multiselect=True, label="LoRA", elem_id="create-lora"
                    )
                else:
                    lora = gr.State([])
                pose = gr.Dropdown(
                    [NO_POSE],
                    value="",
                    label="Pose photo",
                    info="A photo whose face gives position and size.",
                    elem_id="create-pose",
                )
        with gr.Column(scale=6, min_width=320):
            shown = gr.HTML(markup.hint(EMPTY), js_on_load=GALLERY, elem_id="create-gallery")
            told = gr.HTML(elem_id="create-notes")
            drop = gr.File(
                label="Drop a picture made here to get its settings back",
                height=150,
                elem_id="create-restore",
            )
    carried = gr.State(None)
    fields: dict[str, Any] = {
        "chosen": who.chosen,
        "several": several,
        "regions": regions,
        "consent": consent,
        "face": face,
        "pose": pose,
        "loras": lora,
        "prompt": prompt,
        "method": method,
        "scale": scale,
        "base": base,
        "negative": negative,
        "weighted": weighted,
        "steps": steps,
        "guidance": guidance,
        "size": size,
        "seed": seed,
        "lock": lock,
        "count": count,
        "carried": carried,
    }
    everything = [fields[name] for name in FIELDS]
    settings = [fields[name] for name in SETTINGS]
    saved = shared.remember("create", settings)
    shared.places.append(Place(pose, NO_POSE))

    async def run(request: gr.Request, *given: Any) -> AsyncIterator[Any]:
        form: dict[str, Any] = dict(zip(FIELDS, given, strict=True))
        async for progress, ticket in follow(
            studio, request, lambda session: studio.create(session, asked(studio, session, form))
        ):
            if ticket is None:
                yield progress, gr.skip(), gr.skip(), gr.skip()
                continue
            made = ticket.result or []
            pictures = shared.gallery(request, KINDS, EMPTY)
            first = str(made[0].settings["seed"]) if made else ""
            yield progress, pictures, markup.notes(ticket.notes), first if form["lock"] else gr.skip()

    def restored(request: gr.Request, find: Callable[[Session], Restored]) -> tuple[str, list[Any]]:
        """Notes, and values of all fields."""
        found = guarded(studio, request, find)
        values, changed = filled(studio, session_of(studio, request), found)
        notes = [*found.notes, *changed, *carried_notes(found)]
        return markup.notes(notes), [values[name] for name in FIELDS]

    async def acted(request: gr.Request, event: gr.EventData) -> AsyncIterator[Any]:
        stay = [gr.skip()] * len(FIELDS)
        data = event._data or {}  # pyright: ignore[reportPrivateUsage]  # the documented way to a custom event
        action, id = data.get("action"), str(data.get("id", ""))
        if action == "reuse":
            notes, values = restored(request, lambda session: restore(studio, session, session.picture(id)))
            yield gr.skip(), gr.skip(), notes, *values
        elif action == "vary":

            def vary(session: Session) -> Ticket[list[StoredPicture]]:
                found = restore(studio, session, session.picture(id))
                other = (secrets.randbelow(2**31), VARIED)
                return studio.create(session, found.ask(count=4, vary=(*found.create.vary, other)))

            async for progress, ticket in follow(studio, request, vary):
                if ticket is None:
                    yield progress, gr.skip(), gr.skip(), *stay
                else:
                    pictures = shared.gallery(request, KINDS, EMPTY)
                    yield progress, pictures, markup.notes(ticket.notes), *stay

    def dropped(file: Any, request: gr.Request) -> Any:
        [(data, name)] = guarded(studio, request, lambda _: received(studio, file))
        notes, values = restored(request, lambda session: restore(studio, session, data, name))
        return None, notes, *values

    def regions_for(
        many: bool, picked: list[str], drawn: Any, label: str, asked_size: str, request: gr.Request
    ) -> Any:
        if not many:
            return gr.HTML(visible=False)

        def spread(session: Session) -> Any:
            chosen = people_choice.known(session, picked)
            canvas = limits.size(asked_size) if value(asked_size) else native_size(offered.base(label))
            regions = people_choice.spread_out(session, chosen, drawn, canvas)
            if regions == drawn:
                return gr.HTML(visible=True)  # somebody may be drawing in it right now
            return gr.HTML(regions, visible=True)

        return guarded(studio, request, spread)

    def base_changed(label: str) -> Any:
        fresh, found = offered.defaults(label), offered.methods(label)
        choice = gr.Dropdown(found, value=found[0] if found else None)
        return choice, fresh["steps"], fresh["guidance"], ""

    def unlocked(keep: bool) -> Any:
        return gr.skip() if keep else ""

    started = gr.on(
        [start.click, prompt.submit],
        run,
        everything,
        [status, shown, told, seed],
        **JOB,
    )
    shared.save(started, settings, saved)
    shown.click(acted, None, [status, shown, told, *everything], **JOB)
    drop.upload(dropped, drop, [drop, told, *everything], **JOB)
    gr.on(
        [several.change, who.chosen.change, base.change, size.blur],
        regions_for,
        [several, who.chosen, regions, base, size],
        regions,
        **QUIET,
    )
    base.input(base_changed, base, [method, steps, guidance, size], **QUIET)
    lock.input(unlocked, lock, seed, **QUIET)
    shared.act = Act(acted, [status, shown, told, *everything])

    def opened(session: Session, before: Any) -> dict[Any, Any]:
        known = kept(studio, session, before)
        pictures = markup.gallery(session, KINDS, EMPTY)
        return {shown: pictures, **{fields[name]: value for name, value in known.items()}}

    shared.loads.append(Load(opened, [shown, *settings], saved))
