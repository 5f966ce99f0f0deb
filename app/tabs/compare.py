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
from idpersona.app.tabs.shared import QUIET, Shared
from idpersona.errors import BadInput
from idpersona.jobs import limits

EMPTY = "A grid of methods and strengths will be here."
MOST = 12


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
            if len(chosen) * len(ladder) > MOST:
                raise BadInput(
                    f"{len(chosen)} methods at {len(ladder)} strengths are more than {MOST} pictures"
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
                yield progress, gr.skip(), gr.skip()
            else:
                yield (
                    progress,
                    _grid(ticket.result, chosen, ladder),
                    markup.notes(dict.fromkeys(ticket.notes)),
                )

    def base_changed(label: str) -> Any:
        found = offered.methods(label, "face")
        return gr.CheckboxGroup(found, value=found[:3]), offered.defaults(label)["steps"]

    asked = [who.chosen, consent, prompt, base, which, scales, seed, steps]
    gr.on([start.click, prompt.submit], run, asked, [status, grid, told], concurrency_limit=None, **QUIET)
    base.input(base_changed, base, [which, steps], queue=False, **QUIET)


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
    return markup.table(["Method", *(f"strength {one:g}" for one in ladder)], rows, "Methods and strengths")


def _cell(picture: StoredPicture, method: str) -> str:
    alike = "no face found" if picture.similarity is None else f"likeness {picture.similarity:.2f}"
    link, scale = markup.address(picture), picture.settings["adapters"][0]["scale"]
    alt = escape(f"{method} at strength {scale:g}: {picture.settings.get('prompt', '')}")
    return (
        f'<img src="{link}" alt="{alt}" width="{picture.size[0]}" height="{picture.size[1]}">{alike}<br>'
        f'<a href="{link}" download="idpersona-{picture.id}.png">Download</a>'
    )
