"""*Create*: who, what, and the pictures."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr

from idpersona.app import markup, people_choice
from idpersona.app.asks import Create, Person
from idpersona.app.restore import Restored, restore
from idpersona.app.running import follow, guarded, received, session_of, value, whole
from idpersona.app.sessions import Session
from idpersona.app.studio import MOST_PICTURES
from idpersona.app.tabs.shared import QUIET, Shared
from idpersona.jobs import limits

EMPTY = "Your pictures will be here. The first takes a few seconds."
KINDS = ("create",)
VARIED = 0.35
"""How much other noise a variation has."""
REGIONS = (Path(__file__).parents[1] / "regions.js").read_text("utf-8")
GALLERY = """element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) trigger("click", { action: button.dataset.action, id: button.dataset.id });
});"""
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
                with gr.Row():
                    steps = gr.Slider(
                        1, 100, value=usual["steps"], step=1, label="Steps", elem_id="create-steps"
                    )
                    guidance = gr.Slider(
                        0, 20, value=usual["guidance"], step=0.1, label="Guidance", elem_id="create-guidance"
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
                    [("the method's own", "")],
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
    settings = [prompt, method, scale, base, negative, steps, guidance, size, seed, lock, count]
    kept = gr.BrowserState([], storage_key="idpersona-create", secret="idpersona")
    asked = [who.chosen, several, regions, consent, face, pose, lora, *settings]

    def ask(session: Session, given: list[Any], **changes: Any) -> Create:
        picked, many, drawn, agreed, which, posed, loras, *rest = given
        text, how, strength, model, without, turns, lead, wanted, number, _, pictures = rest
        picked = people_choice.known(session, picked or [])
        canvas = limits.size(wanted) if value(wanted) else None
        people: tuple[Person, ...]
        if many:
            people = people_choice.several_people(picked, drawn, canvas or shared_size(shared, model))
        else:
            people = people_choice.one_person(picked)
        fields: dict[str, Any] = {
            "people": people,
            "prompt": text or "",
            "negative": value(without),
            "base": model,
            "method": how,
            "scale": strength,
            "loras": tuple((name, 1.0) for name in loras or ()),
            "steps": int(turns),
            "guidance": float(lead),
            "size": canvas,
            "seed": whole(number, "“Seed”"),
            "count": int(pictures),
            "pose": people_choice.photo_id(posed) if value(posed) else None,
            "face": whole(which, "“Face”"),
            "consent": bool(agreed) and not many,
        }
        return Create(**{**fields, **changes})

    async def run(request: gr.Request, *given: Any) -> AsyncIterator[Any]:
        async for progress, ticket in follow(
            studio, request, lambda session: studio.create(session, ask(session, list(given)))
        ):
            if ticket is None:
                yield progress, gr.skip(), gr.skip(), gr.skip()
                continue
            made = ticket.result or []
            first = str(made[0].settings["seed"]) if made else ""
            yield (
                progress,
                shared.gallery(request, KINDS, EMPTY),
                markup.notes(ticket.notes),
                first if given[-2] else gr.skip(),
            )

    async def acted(request: gr.Request, event: gr.EventData, *given: Any) -> AsyncIterator[Any]:
        skip = [gr.skip()] * len(settings)
        data = event._data or {}  # pyright: ignore[reportPrivateUsage]  # the documented way to a custom event
        action, id = data.get("action"), str(data.get("id", ""))
        if action == "reuse":
            found = guarded(
                studio, request, lambda session: restore(shared.studio, session, session.picture(id))
            )
            yield gr.skip(), gr.skip(), gr.skip(), *_filled(studio, session_of(studio, request), found)
            return
        if action != "vary":
            return

        def vary(session: Session) -> Any:
            found = restore(shared.studio, session, session.picture(id))
            other = (secrets.randbelow(2**31), VARIED)
            return studio.create(session, found.ask(count=4, vary=other))

        async for progress, ticket in follow(studio, request, vary):
            if ticket is None:
                yield progress, gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip(), gr.skip(), *skip
            else:
                pictures = shared.gallery(request, KINDS, EMPTY)
                notes = markup.notes(ticket.notes)
                yield progress, pictures, notes, gr.skip(), gr.skip(), gr.skip(), gr.skip(), *skip

    def dropped(file: Any, request: gr.Request) -> Any:
        if not file:
            return [gr.skip()] * (5 + len(settings))
        data = received(studio, file)
        found = guarded(studio, request, lambda session: restore(studio, session, *data[0]))
        return None, markup.notes(found.notes), *_filled(studio, session_of(studio, request), found)

    def regions_for(many: bool, picked: list[str], drawn: Any, request: gr.Request) -> Any:
        session = session_of(studio, request)
        chosen = people_choice.known(session, picked)
        if not many:
            return gr.HTML(visible=False)
        if people_choice.has_regions(chosen, drawn):
            return gr.HTML(visible=True)  # somebody may be drawing in it right now
        return gr.HTML(people_choice.spread_out(session, chosen, drawn), visible=True)

    def poses(request: gr.Request) -> Any:
        photos = [
            one for one in people_choice.choices(session_of(studio, request)) if "identity:" not in one[1]
        ]
        return gr.Dropdown([("the method's own", ""), *photos])

    def base_changed(label: str) -> Any:
        fresh, found = offered.defaults(label), offered.methods(label)
        return gr.Dropdown(found, value=found[0] if found else None), fresh["steps"], fresh["guidance"]

    filled = [who.chosen, several, regions, *settings]
    started = gr.on(
        [start.click, prompt.submit],
        run,
        asked,
        [status, shown, told, seed],
        concurrency_limit=None,
        show_progress="hidden",
        api_visibility="private",
    )
    started.then(_as_list, settings, kept, queue=False, **QUIET)
    shown.click(acted, asked, [status, shown, told, *filled], concurrency_limit=None, **QUIET)
    drop.upload(dropped, drop, [drop, told, *filled], **QUIET)
    gr.on(
        [several.change, who.chosen.change],
        regions_for,
        [several, who.chosen, regions],
        regions,
        queue=False,
        **QUIET,
    )
    who.chosen.change(poses, None, pose, queue=False, **QUIET)
    base.input(base_changed, base, [method, steps, guidance], queue=False, **QUIET)

    def opened(saved: list[Any], request: gr.Request) -> Any:
        session = session_of(studio, request)
        everybody = gr.CheckboxGroup(people_choice.choices(session))
        pictures = shared.gallery(request, KINDS, EMPTY)
        if not isinstance(saved, list) or len(saved) != len(settings):
            return everybody, pictures, *([gr.skip()] * len(settings))
        fitting = [model if model in offered.bases else None for model in (saved[3],)]
        if fitting[0] is None or saved[1] not in offered.methods(saved[3]):
            return everybody, pictures, saved[0], *([gr.skip()] * (len(settings) - 1))
        return everybody, pictures, *saved

    shared.loads.append(lambda: shared.page.load(opened, kept, [who.chosen, shown, *settings], **QUIET))


def shared_size(shared: Shared, base: str | None) -> tuple[int, int]:
    """Width and height of a base's pictures, asked of its configuration alone."""
    from idpersona.app.geometry import native_size

    return native_size(shared.studio.catalogue.base(base))


def _as_list(*values: Any) -> list[Any]:
    """What the browser keeps."""
    return list(values)


def _filled(studio: Any, session: Session, found: Restored) -> list[Any]:
    """Values of people, regions and settings, from a picture."""
    del studio
    ask = found.ask()
    chosen = gr.CheckboxGroup(people_choice.choices(session), value=list(found.chosen))
    size = "" if ask.size is None else f"{ask.size[0]}x{ask.size[1]}"
    return [
        chosen,
        bool(found.regions),
        gr.HTML(list(found.regions), visible=bool(found.regions)),
        ask.prompt,
        ask.method,
        ask.scale,
        ask.base,
        ask.negative or "",
        ask.steps,
        ask.guidance,
        size,
        "" if ask.seed is None else str(ask.seed),
        True,
        1,
    ]
