"""*Compare*: one prompt and seed across methods and strengths, with the likeness under each picture."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from html import escape
from typing import Any

import gradio as gr

from idpersona.app import markup, people_choice
from idpersona.app.asks import Create
from idpersona.app.running import follow, whole
from idpersona.app.sessions import Session, StoredPicture
from idpersona.app.studio import MOST_COMPARED
from idpersona.app.tabs.shared import GALLERY, JOB, QUIET, Load, Shared
from idpersona.errors import BadInput
from idpersona.jobs import limits

SHOW_CREATE = """() => {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.find((tab) => tab.textContent.trim() === "Create")?.click();
}"""
"""The settings of a compared picture go into the fields of *Create*."""
EMPTY = "A grid of methods and strengths will be here."
KINDS = ("compare",)


def build(shared: Shared) -> None:
    """The tab."""
    studio = shared.studio
    offered = studio.catalogue
    bases, methods, usual = list(offered.bases), offered.methods(None, "face"), offered.defaults(None)
    with gr.Row():
        with gr.Column(scale=4, min_width=320):
            who = shared.who("compare")
            consent = gr.Checkbox(label="The person agreed to this use", elem_id="compare-consent")
            prompt = gr.Textbox(
                label="Prompt",
                placeholder="a photo of a smiling woman",
                max_length=limits.TEXT,
                elem_id="compare-prompt",
            )
            base = gr.Dropdown(bases, value=bases[0], label="Model", elem_id="compare-base")
            which = gr.CheckboxGroup(methods, value=methods[:3], label="Methods", elem_id="compare-methods")
            scales = gr.Textbox(
                value="0.5, 1.0", label="Strengths", info="One picture for each.", elem_id="compare-scales"
            )
            with gr.Row():
                seed = gr.Textbox("17", max_length=20, label="Seed", elem_id="compare-seed")
                steps = gr.Slider(
                    1, 100, value=usual["steps"], step=1, label="Steps", elem_id="compare-steps"
                )
            start, _, status = shared.buttons("compare", "Compare")
        with gr.Column(scale=7, min_width=320):
            grid = gr.HTML(markup.hint(EMPTY), elem_id="compare-grid")
            told = gr.HTML(elem_id="compare-notes")
            past = gr.HTML(js_on_load=GALLERY, elem_id="compare-gallery")
    settings = [who.chosen, prompt, base, which, scales, seed, steps]
    saved = shared.remember("compare", settings)

    async def run(
        request: gr.Request,
        picked: list[str],
        agreed: bool,
        text: str,
        model: str,
        chosen: list[str],
        strengths: str,
        number: str,
        turns: float,
    ) -> AsyncIterator[Any]:
        ladder: list[float] = []

        def begin(session: Session) -> Any:
            ladder.extend(_numbers(strengths))
            if not chosen:
                raise BadInput("choose at least one method")
            if len(chosen) * len(ladder) > MOST_COMPARED:
                raise BadInput(
                    f"{len(chosen)} methods at {len(ladder)} strengths are more than {MOST_COMPARED} pictures"
                )
            typed = whole(number, "“Seed”")
            first = secrets.randbelow(2**31) if typed is None else typed
            people = people_choice.one_person(people_choice.known(session, picked or []))
            return studio.compare(
                session,
                [
                    Create(
                        people=people,
                        prompt=text or "",
                        base=model,
                        method=method,
                        scale=strength,
                        steps=int(turns),
                        seed=first,
                        consent=bool(agreed),
                    )
                    for method in chosen
                    for strength in ladder
                ],
            )

        async for progress, ticket in follow(studio, request, begin):
            if ticket is None or ticket.result is None:
                yield progress, gr.skip(), gr.skip(), gr.skip()
            else:
                yield (
                    progress,
                    _grid(ticket.result, chosen, ladder),
                    markup.notes(dict.fromkeys(ticket.notes)),
                    shared.gallery(request, KINDS, ""),
                )

    def base_changed(label: str) -> Any:
        found = offered.methods(label, "face")
        return gr.CheckboxGroup(found, value=found[:3]), offered.defaults(label)["steps"]

    asked = [who.chosen, consent, prompt, base, which, scales, seed, steps]
    outputs = [status, grid, told, past]
    gr.on([start.click, prompt.submit], run, asked, outputs, **JOB)
    base.input(base_changed, base, [which, steps], **QUIET)

    def opened(session: Session, before: Any) -> dict[Any, Any]:
        return {past: markup.gallery(session, KINDS, ""), **kept(session, before)}

    def kept(session: Session, before: Any) -> dict[Any, Any]:
        """What the browser kept, where it fits this studio."""
        if not isinstance(before, list) or len(before) != len(settings) or before[2] not in offered.bases:
            return {}
        known: dict[Any, Any] = dict(zip(settings, before, strict=True))
        here = offered.methods(known[base], "face")
        known[which] = gr.CheckboxGroup(here, value=[one for one in known[which] or () if one in here])
        people = people_choice.known(session, known.pop(who.chosen) or [])
        if people:
            known[who.chosen] = gr.CheckboxGroup(people_choice.choices(session), value=people)
        return known

    shared.loads.append(Load(opened, [past, *settings], saved))
    act = shared.act
    assert act is not None  # Create comes first
    past.click(act.run, None, act.outputs, **JOB).then(None, None, None, js=SHOW_CREATE, **QUIET)


def _numbers(text: str) -> list[float]:
    try:
        found = [
            limits.number("a strength", float(part), limits.SCALE) for part in text.split(",") if part.strip()
        ]
    except ValueError as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(
            f"strengths are numbers with commas between them, as 0.5, 1.0; got '{text[:40]}'"
        ) from error
    if not found:
        raise BadInput("give at least one strength, as 1.0")
    return found


def _grid(pictures: list[StoredPicture], methods: list[str], ladder: list[float]) -> str:
    rows: list[list[str]] = []
    for number, method in enumerate(methods):
        mine = pictures[number * len(ladder) : (number + 1) * len(ladder)]
        rows.append([escape(method), *(_cell(one, method) for one in mine)])
    judges = ", ".join(dict.fromkeys(one.judge for one in pictures if one.judge))
    caption = "Methods and strengths" + (f"; likeness measured by {judges}" if judges else "")
    return markup.table(["Method", *(f"strength {one:g}" for one in ladder)], rows, caption)


def _cell(picture: StoredPicture, method: str) -> str:
    alike = escape("".join(markup.likeness(picture)) or "likeness not measured")
    link, scale = markup.address(picture), picture.settings["adapters"][0]["scale"]
    alt = escape(f"{method} at strength {scale:g}: {picture.settings.get('prompt', '')}")
    return (
        f'<img src="{link}" alt="{alt}" width="{picture.size[0]}" height="{picture.size[1]}">{alike}<br>'
        f'<a href="{link}" download="idpersona-{picture.id}.png">Download</a>'
    )
