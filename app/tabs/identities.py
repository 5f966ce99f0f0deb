"""*Identities*: read once who is in photos, look at what was found, and keep it as a small file."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import gradio as gr

from idpersona.app import markup, people_choice
from idpersona.app.faces import Looked, look_at
from idpersona.app.running import follow, guarded, outcome, received, session_of, toast, value, whole
from idpersona.app.sessions import Session
from idpersona.app.tabs.shared import JOB, QUIET, Load, Shared
from idpersona.errors import BadInput

EMPTY = "Choose photos on the left, and the faces in them are shown here."


def build(shared: Shared) -> None:
    """The tab."""
    studio = shared.studio
    offered = studio.catalogue
    bases, methods = list(offered.bases), offered.methods(None)
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            who = shared.who("identities")
            name = gr.Textbox(label="Name", placeholder="Ada", max_length=80, elem_id="identities-name")
            method = gr.Dropdown(
                methods,
                value=methods[0] if methods else None,
                label="For which method",
                info="Each method reads a photo with encoders of its own.",
                elem_id="identities-method",
            )
            base = gr.Dropdown(
                bases,
                value=bases[0],
                label="On which model",
                visible=len(bases) > 1,
                elem_id="identities-base",
            )
            face = gr.Textbox(
                max_length=20,
                placeholder="empty",
                label="Face",
                info="Its number on the right; empty: the largest.",
                elem_id="identities-face",
            )
            consent = gr.Checkbox(
                label="This person agreed to this use",
                info="The answer is written into the identity.",
                elem_id="identities-consent",
            )
            start, _, status = shared.buttons("identities", "Read identity")
            load = gr.File(
                label="Drop an identity file (.safetensors) to load it", height=150, elem_id="identities-load"
            )
        with gr.Column(scale=6, min_width=320):
            faces = gr.HTML(markup.hint(EMPTY), elem_id="identities-faces")
            told = gr.HTML(elem_id="identities-notes")
            kept = gr.HTML(elem_id="identities-list")
            with gr.Row():
                compare = gr.Button("Compare the two chosen", elem_id="identities-compare")
                merge = gr.Button("Merge the chosen", elem_id="identities-merge")
                remove = gr.Button("Delete the chosen", variant="stop", elem_id="identities-delete")
            likeness = gr.HTML(elem_id="identities-likeness")

    async def look(picked: list[str], request: gr.Request) -> str:
        session = session_of(studio, request)
        photos = [
            people_choice.photo_id(one)
            for one in people_choice.known(session, picked)
            if not one.startswith(people_choice.IDENTITY)
        ]
        if not photos:
            return markup.hint(EMPTY)
        shown: list[str] = []
        try:
            for photo in photos:
                shown.append(_shown(await outcome(studio, look_at(studio, session, photo))))
        except Exception as error:
            # It happens by itself, beside what somebody does: said in its place.
            shown.append(markup.hint(str(toast(error, session).message)))
        return "".join(shown)

    async def read(
        picked: list[str],
        called: str,
        how: str,
        on: str,
        which: str,
        agreed: bool,
        request: gr.Request,
    ) -> AsyncIterator[Any]:
        def begin(session: Session) -> Any:
            photos = people_choice.known(session, picked or [])
            if any(one.startswith(people_choice.IDENTITY) for one in photos):
                raise BadInput("an identity is read from photos: choose photos only, or merge identities")
            return studio.read(
                session,
                tuple(people_choice.photo_id(one) for one in photos),
                value(called) or "identity",
                base=on,
                method=how,
                face=whole(which, "“Face”"),
                consent=bool(agreed),
            )

        async for progress, ticket in follow(studio, request, begin):
            session = session_of(studio, request)
            if ticket is None:
                yield progress, gr.skip(), gr.skip()
            else:
                yield progress, markup.notes(ticket.notes), _listed(session)

    def loaded(file: Any, request: gr.Request) -> Any:
        if not file:
            return gr.skip(), gr.skip()

        def keep(session: Session) -> None:
            for data, called in received(studio, file):
                studio.add_identity(session, data, called)

        guarded(studio, request, keep)
        return None, _listed(session_of(studio, request))

    def merged(picked: list[str], called: str, request: gr.Request) -> str:
        guarded(studio, request, lambda s: studio.merge(s, _identities(s, picked), value(called) or "merged"))
        return _listed(session_of(studio, request))

    def removed(picked: list[str], request: gr.Request) -> str:
        session = guarded(studio, request, lambda found: found)
        for one in people_choice.known(session, picked):
            if one.startswith(people_choice.IDENTITY):
                session.remove_identity(one.removeprefix(people_choice.IDENTITY))
            else:
                session.remove_photo(people_choice.photo_id(one))
        return _listed(session)

    async def compared(picked: list[str], request: gr.Request) -> AsyncIterator[Any]:
        async for progress, ticket in follow(studio, request, lambda s: studio.alike(s, tuple(picked or ()))):
            if ticket is None or ticket.result is None:
                yield progress, gr.skip()
                continue
            found = ticket.result
            same = "one person" if found["same_person"] else "different people"
            yield (
                progress,
                markup.hint(
                    f"Likely {same}: likeness {found['similarity']:.3f}; one person has "
                    f"{found['threshold']:.3f} or more ({found['measure']} of {found['encoder']})."
                ),
            )

    def base_changed(label: str) -> Any:
        found = offered.methods(label)
        return gr.Dropdown(found, value=found[0] if found else None)

    who.chosen.change(look, who.chosen, faces, **QUIET)
    asked = [who.chosen, name, method, base, face, consent]
    shared.changes += [
        start.click(read, asked, [status, told, kept], **JOB),
        load.upload(loaded, load, [load, kept], **JOB),
        merge.click(merged, [who.chosen, name], kept, **JOB),
        remove.click(removed, who.chosen, kept, **JOB),
    ]
    base.input(base_changed, base, method, **QUIET)
    compare.click(compared, who.chosen, [status, likeness], **JOB)

    def opened(session: Session, _before: Any) -> dict[Any, Any]:
        return {kept: _listed(session)}

    shared.loads.append(Load(opened, [kept]))


def _identities(session: Session, picked: list[str] | None) -> tuple[str, ...]:
    known = people_choice.known(session, picked or [])
    prefix = people_choice.IDENTITY
    return tuple(one.removeprefix(prefix) for one in known if one.startswith(prefix))


def _shown(looked: Looked) -> str:
    hints = [f"Face {number}: {text}" for number, texts in enumerate(looked.hints) for text in texts]
    if not looked.boxes:
        hints = ["No face was found: use a sharper photo with the face upright, at least 80 px wide."]
    return markup.boxes(looked.small, looked.name, looked.size, looked.boxes) + markup.notes(hints)


def _listed(session: Session) -> str:
    with session.lock:
        stored = list(session.identities.values())
    if not stored:
        return markup.hint("No identities yet.")
    rows: list[list[str]] = []
    for one in stored:
        known = one.identity
        link = f'<a href="studio/identities/{one.id}" download>Save</a>'
        agreed = "yes" if known.consent else "not said"
        rows.append(
            [
                markup.escape(one.name),
                known.kind,
                ", ".join(known.features),
                str(len(known.sources)),
                agreed,
                link,
            ]
        )
    return markup.table(
        ["Name", "Of a", "Read with", "Photos", "Consent", "File"], rows, "Identities of this session"
    )
