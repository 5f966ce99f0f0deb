"""What tabs share: who can be chosen, and the row of buttons that starts and ends a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from idpersona.app import markup, people_choice
from idpersona.app.running import cancel_all, received, session_of, toast
from idpersona.app.sessions import Session
from idpersona.app.studio import Studio
from idpersona.errors import IdPersonaError

IMAGES = [".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jp2"]


QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
"""Events of the page that are no endpoint for others, and show their progress themselves."""


@dataclass
class Who:
    """The choice of people of one tab."""

    drop: gr.File
    chosen: gr.CheckboxGroup
    shown: gr.HTML


@dataclass
class Shared:
    """Studio, page, and the choices of people in all tabs, which show the same people."""

    studio: Studio
    page: gr.Blocks
    choices: list[gr.CheckboxGroup] = field(default_factory=list[gr.CheckboxGroup])
    uploads: list[Any] = field(default_factory=list[Any])
    loads: list[Callable[[], Any]] = field(default_factory=list[Callable[[], Any]])

    def who(self, prefix: str) -> Who:
        """A place to drop photos, and the choice of everybody."""
        drop = gr.File(
            label="Photos of the person: drop them here, or click",
            file_count="multiple",
            height=150,
            elem_id=f"{prefix}-photos",
        )
        chosen = gr.CheckboxGroup(
            people_choice.choices(None),
            label="Who",
            info="One person: any number of photos, or one identity.",
            elem_id=f"{prefix}-who",
        )
        shown = gr.HTML(elem_id=f"{prefix}-who-shown")
        self.choices.append(chosen)

        def look(picked: list[str], request: gr.Request) -> str:
            session = session_of(self.studio, request)
            return people_choice.pictures(session, people_choice.known(session, picked))

        def taken(files: Any, picked: list[str], request: gr.Request) -> tuple[Any, Any]:
            session = session_of(self.studio, request)
            ids, refused = self.take(files, session)
            if refused is not None and not ids:
                raise refused
            if refused is not None:
                gr.Warning(str(refused.message), duration=20)
            samples = tuple(f"{people_choice.SAMPLE_PREFIX}{name}" for name in people_choice.sample_names())
            kept = [one for one in people_choice.known(session, picked) if one not in samples]
            return None, gr.CheckboxGroup(people_choice.choices(session), value=[*kept, *ids])

        self.uploads.append(
            drop.upload(
                taken, [drop, chosen], [drop, chosen], api_visibility="private", show_progress="minimal"
            )
        )
        chosen.change(look, chosen, shown, api_visibility="private", show_progress="hidden", queue=False)
        return Who(drop, chosen, shown)

    def take(self, files: Any, session: Session) -> tuple[list[str], gr.Error | None]:
        """Keep what was dropped; the choices it makes, and the first error as a toast."""
        ids: list[str] = []
        refused: gr.Error | None = None
        try:
            for data, name in received(self.studio, files):
                try:
                    ids.append(f"{people_choice.PHOTO}{self.studio.add_photo(session, data, name).id}")
                except IdPersonaError as error:
                    refused = refused or toast(error, session)
        except Exception as error:
            refused = toast(error, session)
        return ids, refused

    def refresh_all(self, request: gr.Request) -> Any:
        """Show everybody in all tabs."""
        session = session_of(self.studio, request)
        fresh = [gr.CheckboxGroup(people_choice.choices(session)) for _ in self.choices]
        return fresh if len(fresh) != 1 else fresh[0]

    def buttons(self, prefix: str, name: str) -> tuple[gr.Button, gr.Button, gr.HTML]:
        """Start, cancel, and where progress is told."""
        with gr.Row():
            start = gr.Button(name, variant="primary", elem_id=f"{prefix}-start")
            stop = gr.Button("Cancel", variant="stop", elem_id=f"{prefix}-cancel")
        status = gr.HTML(elem_id=f"{prefix}-status", elem_classes="idp-status")

        def cancel(request: gr.Request) -> None:
            cancel_all(self.studio, request)

        stop.click(cancel, None, None, api_visibility="private", queue=False, show_progress="hidden")
        return start, stop, status

    def connect(self) -> None:
        """What happens when the page is opened, and that a new photo is seen in all tabs."""
        for load in self.loads:
            load()
        for upload in self.uploads:
            upload.then(self.refresh_all, None, self.choices, queue=False, **QUIET)

    def gallery(self, request: gr.Request, kinds: tuple[str, ...], empty: str) -> str:
        """The session's pictures of some kinds."""
        return markup.gallery(session_of(self.studio, request), kinds, empty)
