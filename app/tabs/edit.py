"""*Edit*: a photo, what it shall show instead, and a handle between before and after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from idpersona.app import markup, people_choice
from idpersona.app.restore_edit import RestoredEdit, restore_edit
from idpersona.app.running import follow, guarded, received, session_of
from idpersona.app.sessions import Session
from idpersona.app.tabs.edit_form import FIELDS, NONE, SETTINGS, asked, filled, kept, takes_strength
from idpersona.app.tabs.shared import GALLERY, JOB, QUIET, Load, Place, Shared
from idpersona.jobs import limits
from idpersona.pipelines.inversion.names import NAMES

EMPTY = "Your edits will be here, each with a handle between before and after."
USUAL_STRENGTH = 1.0
AMOUNT = 3.0
"""Largest amount of an attribute."""


def build(shared: Shared) -> None:
    """The tab."""
    studio = shared.studio
    offered = studio.catalogue
    bases, usual = list(offered.bases), offered.defaults(None)
    # Sliders for what any model can move; those of the chosen one are shown.
    attributes = list(dict.fromkeys(name for label in bases for name in offered.attributes(label)[1]))
    movable = offered.attributes(None)[1]
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            drop = gr.File(label="The photo: drop it here, or click", height=150, elem_id="edit-photo")
            photo = gr.Dropdown(people_choice.photos(None), value=None, label="Photo", elem_id="edit-which")
            seen = gr.HTML(elem_id="edit-seen")
            consent = gr.Checkbox(label="The person in this photo agreed to this use", elem_id="edit-consent")
            source = gr.Textbox(
                label="What the photo shows",
                placeholder="empty: the embedded model looks for itself",
                max_length=limits.TEXT,
                elem_id="edit-source",
            )
            prompt = gr.Textbox(
                label="What it shall show",
                placeholder="a photo of a woman with eyeglasses",
                max_length=limits.TEXT,
                info="As above, with the change. Ctrl-Enter starts.",
                elem_id="edit-prompt",
            )
            strength = gr.Slider(
                0,
                1,
                value=usual.get("edit_strength", USUAL_STRENGTH),
                step=0.02,
                label="Strength of the edit",
                info="0 keeps the photo; 1 draws all of it anew.",
                elem_id="edit-strength",
            )
            head = gr.Checkbox(label="Change the head only", elem_id="edit-head", container=False)
            start, _, status = shared.buttons("edit", "Edit")
            moves: list[gr.Slider] = []
            with gr.Accordion(
                "Attributes of the face (W+)",
                open=False,
                elem_id="edit-attributes",
                visible=bool(movable),
            ) as moving:
                gr.HTML(markup.hint("Let go of a slider, and the photo is drawn again with it."))
                with gr.Row():
                    for name in attributes:
                        moves.append(
                            gr.Slider(
                                -AMOUNT,
                                AMOUNT,
                                value=0,
                                step=0.25,
                                label=name.replace("_", " ").capitalize(),
                                min_width=140,
                                visible=name in movable,
                                elem_id=f"edit-attribute-{name}",
                            )
                        )
            with gr.Accordion("More settings", open=False, elem_id="edit-more"):
                base = gr.Dropdown(bases, value=bases[0], label="Model", elem_id="edit-base")
                method = gr.Dropdown(NAMES, value="direct", label="Editing method", elem_id="edit-method")
                words = gr.Textbox(
                    label="Change only where these words are",
                    placeholder="eyeglasses, hair",
                    elem_id="edit-words",
                )
                with gr.Row():
                    adapter = gr.Dropdown(
                        [NONE, *offered.methods(None, "face")],
                        value=NONE,
                        label="Method that keeps the person besides",
                        elem_id="edit-adapter",
                    )
                    scale = gr.Slider(
                        *limits.SCALE,
                        value=0.5,
                        step=0.05,
                        label="Strength of the method",
                        elem_id="edit-scale",
                    )
                with gr.Row():
                    steps = gr.Textbox(
                        max_length=20, placeholder="the model's", label="Steps", elem_id="edit-steps"
                    )
                    guidance = gr.Textbox(
                        max_length=20, placeholder="the model's", label="Guidance", elem_id="edit-guidance"
                    )
                    face = gr.Textbox(
                        max_length=20,
                        placeholder="the largest",
                        label="Face",
                        info="Which face, 0 the largest.",
                        elem_id="edit-face",
                    )
        with gr.Column(scale=6, min_width=320):
            result = gr.HTML(markup.hint(EMPTY), elem_id="edit-result")
            told = gr.HTML(elem_id="edit-notes")
            past = gr.HTML(js_on_load=GALLERY, elem_id="edit-gallery")
            back = gr.File(
                label="Drop an edit made here to get its settings back", height=150, elem_id="edit-restore"
            )
    fields: dict[str, Any] = {
        "consent": consent,
        "photo": photo,
        "source": source,
        "prompt": prompt,
        "strength": strength,
        "head": head,
        "base": base,
        "method": method,
        "words": words,
        "adapter": adapter,
        "scale": scale,
        "steps": steps,
        "guidance": guidance,
        "face": face,
    }
    everything = [*(fields[name] for name in FIELDS), *moves]
    settings = [fields[name] for name in SETTINGS]
    shared.places.append(Place(photo))
    saved = shared.remember("edit", settings)

    async def run(request: gr.Request, given: tuple[Any, ...], *, moved: bool) -> AsyncIterator[Any]:
        def begin(session: Session) -> Any:
            return studio.edit(session, asked(offered, attributes, given, moving=moved))

        async for progress, ticket in follow(studio, request, begin):
            if ticket is None or ticket.result is None:
                yield progress, gr.skip(), gr.skip(), gr.skip()
                continue
            pictures = shared.gallery(request, ("edit",), "")
            yield progress, markup.slider(ticket.result), markup.notes(ticket.notes), pictures

    async def by_words(request: gr.Request, *given: Any) -> AsyncIterator[Any]:
        async for each in run(request, given, moved=False):
            yield each

    async def move(request: gr.Request, *given: Any) -> AsyncIterator[Any]:
        async for each in run(request, given, moved=True):
            yield each

    def restored(request: gr.Request, picture: Any, name: str) -> Any:
        def find(session: Session) -> RestoredEdit:
            given = session.picture(picture) if isinstance(picture, str) else picture
            return restore_edit(studio, session, given, name)

        found = guarded(studio, request, find)
        label = found.edit.base or bases[0]
        values = filled(offered, session_of(studio, request), attributes, found)
        return [markup.notes(found.notes), moving_of(label), *_shown(values, label)]

    def _shown(values: list[Any], label: str) -> list[Any]:
        """The sliders at the end are shown where the model has them."""
        here = offered.attributes(label)[1]
        moved = values[len(FIELDS) :]
        sliders = [
            gr.Slider(value=amount, visible=name in here)
            for name, amount in zip(attributes, moved, strict=True)
        ]
        return [*values[: len(FIELDS)], *sliders]

    def moving_of(label: str) -> Any:
        return gr.Accordion(visible=bool(offered.attributes(label)[1]))

    def reuse(request: gr.Request, event: gr.EventData) -> Any:
        data = event._data or {}  # pyright: ignore[reportPrivateUsage]  # the documented way to a custom event
        return restored(request, str(data.get("id", "")), "the picture")

    def dropped(file: Any, request: gr.Request) -> Any:
        [(data, name)] = guarded(studio, request, lambda _: received(studio, file))
        return [None, *restored(request, data, name)]

    def taken(files: Any, request: gr.Request) -> Any:
        session = guarded(studio, request, lambda found: found)
        ids, refused = shared.take(files, session)
        if refused is not None:
            raise refused
        return None, gr.Dropdown(people_choice.photos(session), value=ids[0] if ids else None)

    def look(which: str | None, request: gr.Request) -> str:
        def shown(session: Session) -> str:
            return people_choice.pictures(session, people_choice.known(session, [which] if which else []))

        return guarded(studio, request, shown)

    def base_changed(label: str) -> Any:
        usual = offered.defaults(label).get("edit_strength", USUAL_STRENGTH)
        here = offered.attributes(label)[1]
        sliders = [gr.Slider(value=0, visible=name in here) for name in attributes]
        choice = gr.Dropdown([NONE, *offered.methods(label, "face")], value=NONE)
        return [choice, usual, moving_of(label), *sliders]

    def method_changed(name: str) -> Any:
        return gr.Slider(interactive=takes_strength(name))

    def opened(session: Session, before: Any) -> dict[Any, Any]:
        known = kept(offered, session, before)
        pictures = markup.gallery(session, ("edit",), "")
        return {past: pictures, **{fields[name]: value for name, value in known.items()}}

    outputs = [status, result, told, past]
    gr.on([start.click, prompt.submit], by_words, everything, outputs, **JOB)
    if moves:
        gr.on(
            [slider.release for slider in moves],
            move,
            everything,
            outputs,
            trigger_mode="always_last",
            **JOB,
        )
    shared.changes.append(drop.upload(taken, drop, [drop, photo], **JOB))
    photo.change(look, photo, seen, **QUIET)
    base.input(base_changed, base, [adapter, strength, moving, *moves], **QUIET)
    method.change(method_changed, method, strength, **QUIET)
    past.click(reuse, None, [told, moving, *everything], **JOB)
    back.upload(dropped, back, [back, told, moving, *everything], **JOB)
    shared.loads.append(Load(opened, [past, *settings], saved))
