"""What the commands print: results on stdout, notes and progress on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any

from idpersona.jobs.listener import Listener


def note(message: str) -> None:
    """One line on stderr that is no error."""
    print(f"note: {' '.join(message.split())}", file=sys.stderr)


def result(data: Mapping[str, Any] | Sequence[Any], lines: Iterable[str], *, as_json: bool) -> None:
    """Print a result: as JSON, or as lines for people."""
    if as_json:
        print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        for line in lines:
            print(line)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns lined up by spaces; the last column is not padded."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return lines


def megabytes(size: int | None) -> str:
    """Bytes for people."""
    if size is None:
        return "?"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """Say on a terminal what is waited for, until it is done. Elsewhere nothing: a refusal is one line."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield


class Progress:
    """A bar on a terminal; elsewhere plain lines, about five for a whole job.

    Used as a context manager; ``advance(text)`` counts one step.
    """

    def __init__(self, total: int, what: str):
        self.total, self.what, self.done = max(total, 1), what, 0
        self.started = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bar

            self._bar = Bar(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self.what, total=self.total)
            self._bar.start()
        else:
            print(f"{self.what}: {self.total} steps", file=sys.stderr)
        return self

    def advance(self, text: str = "") -> None:
        """One step is done; ``text`` says where in the job this is."""
        self.done += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=f"{self.what} {text}".strip())
            return
        fifths = 5 * self.done // self.total
        if fifths != 5 * (self.done - 1) // self.total:
            seconds = time.monotonic() - self.started
            tail = f", {text}" if text else ""
            print(f"{self.what}: {self.done}/{self.total}{tail}, {seconds:.0f} s", file=sys.stderr)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def reading(photos: int) -> Iterator[Callable[[], None] | None]:
    """What to call after each photo that was read; None for a few, which take no time worth showing."""
    if photos <= 8:
        yield None
        return
    with Progress(photos, "reading photos") as progress:
        yield progress.advance


class Printed(Listener):
    """A job's notes and progress, on stderr."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def note(self, text: str) -> None:
        """One line."""
        note(text)

    def loading(self, names: str) -> AbstractContextManager[None]:
        """On a terminal, what is waited for."""
        return spinner(f"loading {names}")

    def loaded(self, names: str, device: str, seconds: float) -> None:
        """One line."""
        print(f"loaded {names} on {device}, {seconds:.0f} s", file=sys.stderr)

    def started(self, steps: int, what: str) -> None:
        """A bar, or the first of some lines."""
        self._progress = Progress(steps, what)
        self._progress.__enter__()

    def step(self, where: str = "", pipe: Any = None, latents: Any = None) -> None:
        """The bar goes on."""
        if self._progress is not None:
            self._progress.advance(where)

    def finished(self) -> None:
        """The bar goes away."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None
