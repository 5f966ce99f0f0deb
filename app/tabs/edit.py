"""*Edit*: a photo, what it shall show instead, and a handle between before and after."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from idpersona.app import markup, people_choice
from idpersona.app.asks import Edit
from idpersona.app.running import follow, session_of, value
from idpersona.app.sessions import Session
from idpersona.app.tabs.shared import QUIET, Shared
from idpersona.errors import BadInput
from idpersona.images import SAMPLE_PREFIX, sample_names
from idpersona.jobs import limits
from idpersona.pipelines.inversion.names import NAMES

EMPTY = "Your edits will be here, each with a handle between before and after."
NONE = "none"
AMOUNT = 3.0
"""Largest amount of an attribute."""


def build(shared: Shared) -> None:
    """The tab."""
    studio = shared.studio
    offered = studio.catalogue
    bases, usual = list(offered.bases), offered.defaults(None)
    mover, attributes = offered.attributes(None)
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            drop = gr.File(label="The photo: drop it here, or click", height=150, elem_id="edit-photo")
            photo = gr.Dropdown(_photos(None), value=None, label="Photo", elem_id="edit-which")
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
                value=usual.get("edit_strength", 1.0),
                step=0.02,
                label="Strength of the edit",
                info="0 keeps the photo; 1 draws all of it anew.",
                elem_id="edit-strength",
            )
            head = gr.Checkbox(label="Change the head only", elem_id="edit-head", container=False)
            start, _, status = shared.buttons("edit", "Edit")
            moves: list[gr.Slider] = []
            if mover:
                with gr.Accordion("Attributes of the face (W+)", open=False, elem_id="edit-attributes"):
                    gr.HTML(markup.hint("Let go of a slider, and the photo is drawn again with it."))
                    with gr.Row():
                        for name in attributes:
                            label = name.replace("_", " ").capitalize()
                            moves.append(
                                gr.Slider(
                                    -AMOUNT,
                                    AMOUNT,
                                    value=0,
                                    step=0.25,
                                    label=label,
                                    min_width=140,
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
        with gr.Column(scale=6, min_width=320):
            result = gr.HTML(markup.hint(EMPTY), elem_id="edit-result")
            told = gr.HTML(elem_id="edit-notes")
            past = gr.HTML(elem_id="edit-gallery")
    asked = [photo, consent, source, prompt, strength, head, base, method, words, adapter, scale, *moves]

    def ask(given: tuple[Any, ...], *, attribute: bool) -> Edit:
        which, agreed, shows, shall, how_much, only, model, how, places, keeps, keeping, *amounts = given
        if not which:
            raise BadInput("which photo? Give one, or choose a sample under “Photo”")
        changes = {name: float(amount) for name, amount in zip(attributes, amounts, strict=True) if amount}
        by_attributes = attribute or (bool(changes) and not value(shall))
        if not by_attributes and not value(shall):
            raise BadInput("“What it shall show” is empty: describe the picture with the change")
        from idpersona.pipelines.inversion.methods import METHODS

        kept = None if keeps == NONE else keeps
        if by_attributes:
            kept, keeping = mover, 1.0
        return Edit(
            photo=people_choice.photo_id(which),
            prompt="" if by_attributes else shall,
            source=value(shows),
            method=how,
            strength=None if not METHODS[how].takes_control else float(how_much),
            words=tuple(word.strip() for word in (places or "").split(",") if word.strip()),
            keep_background=bool(only),
            base=model,
            adapter=kept,
            scale=float(keeping) if kept else None,
            attributes=changes if kept == mover else None,
            consent=bool(agreed),
        )

    async def run(request: gr.Request, given: tuple[Any, ...], *, attribute: bool) -> AsyncIterator[Any]:
        async for progress, ticket in follow(
            studio, request, lambda session: studio.edit(session, ask(given, attribute=attribute))
        ):
            if ticket is None or ticket.result is None:
                yield progress, gr.skip(), gr.skip(), gr.skip()
                continue
            pictures = shared.gallery(request, ("edit",), "")
            yield progress, markup.slider(ticket.result), markup.notes(ticket.notes), pictures

    async def by_words(request: gr.Request, *given: Any) -> AsyncIterator[Any]:
        async for each in run(request, given, attribute=False):
            yield each

    async def move(request: gr.Request, *given: Any) -> AsyncIterator[Any]:
        async for each in run(request, given, attribute=True):
            yield each

    def taken(files: Any, request: gr.Request) -> Any:
        session = session_of(studio, request)
        ids, refused = shared.take(files, session)
        if refused is not None:
            raise refused
        return None, gr.Dropdown(_photos(session), value=ids[0] if ids else None)

    def look(which: str | None, request: gr.Request) -> str:
        session = session_of(studio, request)
        return people_choice.pictures(session, people_choice.known(session, [which] if which else []))

    def base_changed(label: str) -> Any:
        return gr.Dropdown([NONE, *offered.methods(label, "face")], value=NONE)

    def opened(request: gr.Request) -> Any:
        session = session_of(studio, request)
        return gr.Dropdown(_photos(session)), shared.gallery(request, ("edit",), "")

    outputs = [status, result, told, past]
    gr.on([start.click, prompt.submit], by_words, asked, outputs, concurrency_limit=None, **QUIET)
    if moves:
        gr.on(
            [slider.release for slider in moves],
            move,
            asked,
            outputs,
            concurrency_limit=None,
            trigger_mode="always_last",
            **QUIET,
        )
    drop.upload(taken, drop, [drop, photo], **QUIET)
    photo.change(look, photo, seen, queue=False, **QUIET)
    base.input(base_changed, base, adapter, queue=False, **QUIET)
    shared.loads.append(lambda: shared.page.load(opened, None, [photo, past], **QUIET))


def _photos(session: Session | None) -> list[tuple[str, str]]:
    samples = [(f"Sample {name}", f"{SAMPLE_PREFIX}{name}") for name in sample_names()]
    if session is None:
        return samples
    return [one for one in people_choice.choices(session) if not one[1].startswith(people_choice.IDENTITY)]
