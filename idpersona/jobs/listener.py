"""What a job tells while it is prepared and drawn."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any


class Listener:
    """Hears of a job, and may end it by raising an error; this one keeps quiet.

    Whatever is raised in :meth:`step` ends the job within that step, and the pipeline is left as it was.
    """

    def note(self, text: str) -> None:
        """Something that the user should know, and that is no error."""

    def loading(self, names: str) -> AbstractContextManager[Any]:
        """The scope in which models are loaded."""
        return nullcontext()

    def loaded(self, names: str, device: str, seconds: float) -> None:
        """The models are there."""

    def started(self, steps: int, what: str) -> None:
        """From now on :meth:`step` is called, ``steps`` times if nothing goes wrong."""

    def step(self, where: str = "", pipe: Any = None, latents: Any = None) -> None:
        """A step is done.

        Args:
            where: in the job, for people; may be empty.
            pipe: the pipeline that draws, where a picture can be seen already.
            latents: what it has drawn so far, [1, channels, height, width]; not to be changed.
        """

    def finished(self) -> None:
        """No further steps; also after an error."""
