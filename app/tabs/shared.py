"""What tabs share: who can be chosen, and the row of buttons that starts and ends a job."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from idpersona.app import markup, people_choice
from idpersona.app.running import cancel_all, guarded, received, session_of, toast
from idpersona.app.sessions import Session
from idpersona.app.studio import Studio
from idpersona.errors import IdPersonaError

IMAGES = [".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".jp2"]


AS_LIST = "(...values) => [values]"
GALLERY = """element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) trigger("click", { action: button.dataset.action, id: button.dataset.id });
});"""
"""Buttons below pictures become events of the page."""
JOB: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
"""Events of the page that start a job, or may refuse: no endpoint for others.

They wait in Gradio's queue, from where alone toasts reach a page; progress is shown by the page itself.
"""
UPLOAD: dict[str, Any] = {**JOB, "show_progress": "minimal"}
"""As a job, with Gradio's own sign of progress."""
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
"""Short events that happen by themselves, and refuse nothing.

Not in the queue: its stream of answers is closed with the last of them, and what somebody starts in that very
moment is answered with the next only.
"""


@dataclass
class Who:
    """The choice of people of one tab."""

    drop: gr.File
    chosen: gr.CheckboxGroup
    shown: gr.HTML


@dataclass
class Place:
    """A choice of one photo; ``none`` is offered besides, where that is possible."""

    chosen: gr.Dropdown
    none: tuple[str, str] | None = None

    def options(self, session: Session) -> list[tuple[str, str]]:
        """What can be chosen."""
        return [*([self.none] if self.none else []), *people_choice.photos(session)]


@dataclass
class Load:
    """What a tab shows when the page is opened.

    ``run`` gets the session and what the browser kept in ``saved``, and gives new values of some ``outputs``.
    """

    run: Callable[[Session, Any], dict[Any, Any]]
    outputs: list[Any]
    saved: gr.BrowserState | None = None


@dataclass
class Act:
    """What the buttons below created pictures do, wherever they are: a function and its outputs."""

    run: Callable[..., AsyncIterator[Any]]
    outputs: list[Any]


@dataclass
class Shared:
    """Studio, page, and the choices of people and photos in all tabs, which show the same ones.

    Attributes:
        choices, places: of people, and of one photo.
        changes: events after which everybody is shown anew.
        loads: what each tab shows when the page is opened.
        kept: fields whose values the browser keeps, and where.
        act: what the buttons below created pictures do.
        tabs: in which people or photos can be chosen.
    """

    studio: Studio
    page: gr.Blocks
    choices: list[gr.CheckboxGroup] = field(default_factory=list[gr.CheckboxGroup])
    places: list[Place] = field(default_factory=list[Place])
    changes: list[Any] = field(default_factory=list[Any])
    loads: list[Load] = field(default_factory=list[Load])
    kept: list[tuple[list[Any], gr.BrowserState]] = field(
        default_factory=list[tuple[list[Any], gr.BrowserState]]
    )
    act: Act | None = None
    tabs: list[gr.Tab] = field(default_factory=list[gr.Tab])

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

        self.changes.append(
            drop.upload(
                taken,
                [drop, chosen],
                [drop, chosen],
                **UPLOAD,
            )
        )
        chosen.change(look, chosen, shown, **QUIET)
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

    def refresh_all(self, request: gr.Request, *picked: Any) -> Any:
        """Show everybody in all tabs; what is chosen stays so while it is here.

        What somebody chooses while this runs is not undone: values are told only where they change.
        """
        session = guarded(self.studio, request, lambda found: found)
        fresh: list[Any] = []
        for _, value in zip(self.choices, picked, strict=False):
            known = people_choice.known(session, value or [])
            changed: dict[str, Any] = {} if known == (value or []) else {"value": known}
            fresh.append(gr.CheckboxGroup(people_choice.choices(session), **changed))
        for place, value in zip(self.places, picked[len(self.choices) :], strict=True):
            options = place.options(session)
            here = {one for _, one in options}
            none = place.none[1] if place.none else None
            new: dict[str, Any] = {} if value in (none, *here) else {"value": none}
            fresh.append(gr.Dropdown(options, **new))
        return fresh

    def refresh_after(self, event: Any) -> None:
        """Show everybody anew after an event."""
        everything = self._everybody()
        last = event.then(self.refresh_all, everything, everything, **QUIET)
        for fields, saved in self.kept:
            last = self.save(last, fields, saved)

    def _connect_load(self) -> None:
        """One answer for all tabs: what is clicked before it comes is not undone by a later one."""
        places = {place.chosen: place for place in self.places}
        fields = [*self.choices, *places, *(one for load in self.loads for one in load.outputs)]

        def opened(request: gr.Request, *saved: Any) -> dict[Any, Any]:
            session = guarded(self.studio, request, lambda found: found)
            everybody = people_choice.choices(session)
            found: dict[Any, Any] = {one: gr.CheckboxGroup(everybody) for one in self.choices}
            found |= {one: gr.Dropdown(place.options(session)) for one, place in places.items()}
            for load, before in zip(self.loads, saved, strict=True):
                found |= load.run(session, before)
            return found

        states = [load.saved or gr.State(None) for load in self.loads]
        self.page.load(opened, states, list(dict.fromkeys(fields)), **QUIET)

    def remember(self, name: str, fields: list[Any]) -> gr.BrowserState:
        """Keep the values of fields in the browser, whenever one of them changes."""
        # Put into the page outside of the tabs: what lies in one is there only when it was opened.
        saved = gr.BrowserState([], storage_key=f"idpersona-{name}", secret="idpersona", render=False)
        changed = [one.change for one in fields]
        gr.on(changed, None, fields, saved, js=AS_LIST, trigger_mode="always_last", **QUIET)
        self.kept.append((fields, saved))
        return saved

    @staticmethod
    def save(event: Any, fields: list[Any], saved: gr.BrowserState) -> Any:
        """Keep the values of fields after an event that changed some of them."""
        return event.then(None, fields, saved, js=AS_LIST, **QUIET)

    def buttons(self, prefix: str, name: str) -> tuple[gr.Button, gr.Button, gr.HTML]:
        """Start, cancel, and where progress is told."""
        with gr.Row():
            start = gr.Button(name, variant="primary", elem_id=f"{prefix}-start")
            stop = gr.Button("Cancel", variant="stop", elem_id=f"{prefix}-cancel")
        status = gr.HTML(elem_id=f"{prefix}-status", elem_classes="idp-status")

        def cancel(request: gr.Request) -> Any:
            return gr.skip() if cancel_all(self.studio, request) else markup.hint("Nothing is running.")

        stop.click(cancel, None, status, **QUIET)
        return start, stop, status

    def connect(self) -> None:
        """What happens when the page is opened, and that a new photo is seen in all tabs."""
        for _, saved in self.kept:
            saved.render()
        self._connect_load()
        for change in self.changes:
            self.refresh_after(change)
        everything = self._everybody()
        for tab in self.tabs:
            # What is told to a tab while it opens is lost.
            tab.select(self.refresh_all, everything, everything, **QUIET)

    def _everybody(self) -> list[Any]:
        return [*self.choices, *(place.chosen for place in self.places)]

    def gallery(self, request: gr.Request, kinds: tuple[str, ...], empty: str) -> str:
        """The session's pictures of some kinds."""
        return markup.gallery(session_of(self.studio, request), kinds, empty)
