"""The work behind pictures: prepared, drawn, measured, written; all of one job or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from idpersona.app.sessions import Session, StoredPicture
from idpersona.app.settings import Settings
from idpersona.app.sources import SessionSources
from idpersona.jobs.listener import Listener
from idpersona.jobs.models import Models
from idpersona.jobs.prepare import Job, prepare
from idpersona.jobs.request import Request


@dataclass(frozen=True)
class Asked:
    """What was asked for, and what was made of it before anything is drawn."""

    request: Request
    job: Job


def prepare_all(
    requests: Sequence[Request],
    count: int,
    settings: Settings,
    sources: SessionSources,
    listener: Listener,
) -> list[Asked]:
    """Check and read everything, ``count`` pictures for each request, so that nothing is refused halfway."""
    return [
        Asked(
            request,
            prepare(
                request,
                count,
                sources,
                listener,
                commercial=settings.commercial,
                require_consent=settings.require_consent,
            ),
        )
        for request in requests
    ]


def draw_all(
    asked: Sequence[Asked],
    session: Session,
    kind: str,
    models: Models,
    listener: Listener,
    *,
    public: Any,
    commercial: bool,
) -> list[StoredPicture]:
    """The pictures of several requests; the session has them all when the last is done, or none.

    Args:
        public: what is told of settings.
    """
    from idpersona.app.likeness import judge_of
    from idpersona.jobs.draw import draw
    from idpersona.provenance import write_pngs

    drawn: list[tuple[Image.Image, StoredPicture]] = []
    for number, one in enumerate(asked):
        told = listener if len(asked) == 1 else _OneOf(listener, number, len(asked))
        judge = judge_of(one.request, one.job, commercial=commercial)
        for image, settings in draw(one.job, models, told):
            seen = None if judge is None else judge.look(image)
            id, path = session.new_path(".png")
            stored = StoredPicture(
                id,
                path,
                kind,
                public(settings),
                image.size,
                judge="" if judge is None else judge.encoder,
                similarity=None if seen is None else seen["similarity"],
                threshold=0.0 if seen is None else seen["threshold"],
            )
            drawn.append((image, stored))
    write_pngs([(image, stored.path, stored.settings) for image, stored in drawn])
    return [session.add_picture(stored) for _, stored in drawn]


class _OneOf(Listener):
    """One of several pictures of a job, of equal steps: its steps count towards all of them."""

    def __init__(self, listener: Listener, number: int, of: int):
        self._listener, self._number, self._of = listener, number, of

    def note(self, text: str) -> None:
        self._listener.note(text)

    def loading(self, names: str) -> Any:
        return self._listener.loading(names)

    def loaded(self, names: str, device: str, seconds: float) -> None:
        self._listener.loaded(names, device, seconds)

    def started(self, steps: int, what: str) -> None:
        if self._number == 0:
            self._listener.started(steps * self._of, what)

    def step(self, where: str = "", pipe: Any = None, latents: Any = None) -> None:
        self._listener.step(f"picture {self._number + 1} of {self._of}", pipe, latents)

    def finished(self) -> None:
        if self._number == self._of - 1:
            self._listener.finished()
