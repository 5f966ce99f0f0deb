"""What a job tells, in the words of who asked: no folder of this machine, no option of a command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from idpersona.app.catalogue import Catalogue
from idpersona.app.sessions import Session
from idpersona.app.speech import hide_places, speak
from idpersona.errors import IdPersonaError
from idpersona.jobs.listener import Listener


class Words:
    """For one session: files are called as their owner does, weights as the catalogue does."""

    def __init__(self, session: Session, catalogue: Catalogue):
        self._session, self._catalogue = session, catalogue

    def name(self, text: str) -> str:
        """A few words, as what is being loaded."""
        return hide_places(self._catalogue.in_text(text), self._session.names())

    def say(self, text: str) -> str:
        """A message."""
        return speak(self._catalogue.in_text(text), self._session.names())

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Errors of the package that leave this scope say what they say in these words."""
        try:
            yield
        except IdPersonaError as error:
            if len(error.args) == 1:
                error.args = (self.say(str(error)),)
            raise


class Worded(Listener):
    """Passes on what a job tells, in words."""

    def __init__(self, listener: Listener, words: Words):
        self._listener, self._words = listener, words

    def note(self, text: str) -> None:
        self._listener.note(self._words.say(text))

    def loading(self, names: str) -> Any:
        return self._listener.loading(self._words.name(names))

    def loaded(self, names: str, device: str, seconds: float) -> None:
        self._listener.loaded(self._words.name(names), device, seconds)

    def started(self, steps: int, what: str) -> None:
        self._listener.started(steps, what)

    def step(self, where: str = "", pipe: Any = None, latents: Any = None) -> None:
        self._listener.step(where, pipe, latents)

    def finished(self) -> None:
        self._listener.finished()
