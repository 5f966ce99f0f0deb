"""One worker for one device: jobs wait in a line, tell how far they are, and can be called off.

A job is a function of (models, listener). Short tasks, as looking for a face in a photo that was just given,
do not wait for a picture that takes minutes: they are run by the same thread between two of its steps.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from idpersona.app.preview import Preview
from idpersona.errors import BadInput, IdPersonaError
from idpersona.jobs.listener import Listener
from idpersona.jobs.models import Models

T = TypeVar("T")
State = Literal["waiting", "running", "done", "failed", "cancelled"]
SHORT = 0.5
log = logging.getLogger(__name__)


class Cancelled(IdPersonaError):
    """The job was called off."""


class TooLong(IdPersonaError):
    """The job took longer than it may while others wait."""


class Busy(IdPersonaError):
    """Too many jobs are waiting already; the message says when to come back."""


@dataclass
class Ticket(Generic[T]):
    """One job in the line. Read by any thread, written by the worker.

    Attributes:
        owner: whose it is; jobs of others cannot be called off.
        client: the address that it was asked from.
        state: where it is in its life.
        step, steps: how far it is; 0 of 0 before it draws.
        where: what it does now, for people.
        preview: what is drawn so far, as JPEG; changes ``version`` each time.
        notes: what the user should know.
        result, error: how it ended.
    """

    owner: str
    client: str
    work: Callable[[Models, Listener], T]
    number: int
    state: State = "waiting"
    step: int = 0
    steps: int = 0
    where: str = ""
    preview: bytes | None = None
    version: int = 0
    notes: list[str] = field(default_factory=list[str])
    result: T | None = None
    error: Exception | None = None
    started: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def wait(self, seconds: float | None = None) -> T:
        """The result, once it is there.

        Raises:
            Cancelled: the job was called off.
            TimeoutError: not within ``seconds``.
            Exception: whatever ended the job.
        """
        if not self.ended.wait(seconds):
            raise TimeoutError(f"the job takes longer than {seconds:g} s")
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


class _Report(Listener):
    """Puts what a job tells into its ticket, and ends it when it was called off or takes too long.

    ``between`` does the short tasks of others; ``late`` says after so many seconds that it has to end.
    """

    def __init__(self, ticket: Ticket[Any], between: Callable[[], None], late: Callable[[float], str | None]):
        self.ticket, self.between, self.late = ticket, between, late
        self.sight = Preview()

    def note(self, text: str) -> None:
        self.ticket.notes.append(text)

    @contextmanager
    def loading(self, names: str) -> Any:
        self._check()
        self.ticket.where = f"loading {names}"
        yield
        self.ticket.where = ""
        self._check()

    def started(self, steps: int, what: str) -> None:
        self._check()
        self.ticket.step, self.ticket.steps, self.ticket.where = 0, steps, what

    def step(self, where: str = "", pipe: Any = None, latents: Any = None) -> None:
        self.ticket.step = min(self.ticket.step + 1, self.ticket.steps)
        if where:
            self.ticket.where = where
        self._check()
        if pipe is not None and latents is not None:
            seen = self.sight.look(pipe, latents)
            if seen is not None:
                self.ticket.preview, self.ticket.version = seen, self.ticket.version + 1
        self.between()

    def _check(self) -> None:
        if self.ticket.stop.is_set():
            raise Cancelled("cancelled")
        told = self.late(time.monotonic() - self.ticket.started)
        if told is not None:
            raise TooLong(told)


class Engine:
    """The line and its worker. ``close`` ends both.

    Args:
        waiting: jobs that may wait at once.
        each: jobs that one owner may have in the line at once, the running one included. One address may
            have half of the line.
        seconds: how long a job may take while others wait.
    """

    def __init__(self, *, waiting: int = 32, each: int = 4, seconds: float = 1800.0):
        self.models = Models()
        self._waiting, self._each, self._seconds = waiting, each, seconds
        self._line: deque[Ticket[Any]] = deque()
        self._short: deque[Ticket[Any]] = deque()
        self._running: Ticket[Any] | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._numbers = itertools.count(1)
        self._thread = threading.Thread(target=self._work, name="idpersona-engine", daemon=True)
        self._thread.start()

    def submit(self, owner: str, work: Callable[[Models, Listener], T], client: str = "") -> Ticket[T]:
        """Put a job into the line.

        Raises:
            Busy: the line is full, or the owner, or all owners at the address, have enough jobs in it.
        """
        with self._changed:
            self._open()
            mine = sum(ticket.owner == owner for ticket in self._all())
            if mine >= self._each:
                raise Busy(f"you have {mine} jobs in the line already: wait for one, or cancel it")
            here = sum(ticket.client == client for ticket in self._line)
            if len(self._line) >= self._waiting or (client and here >= max(1, self._waiting // 2)):
                raise Busy(f"{len(self._line)} jobs are waiting already: try again in a minute")
            ticket = Ticket(owner=owner, client=client, work=work, number=next(self._numbers))
            self._line.append(ticket)
            self._changed.notify_all()
            return ticket

    def soon(self, owner: str, work: Callable[[Models, Listener], T]) -> Ticket[T]:
        """A task of a second or so, which does not wait for the jobs and touches no model of theirs.

        Raises:
            Busy: very many such tasks wait already, or some of the owner.
        """
        with self._changed:
            self._open()
            mine = sum(ticket.owner == owner for ticket in self._short)
            if mine >= 2 * self._each or len(self._short) >= 4 * self._waiting:
                raise Busy("very many photos are being read: try again in a minute")
            ticket = Ticket(owner=owner, client="", work=work, number=next(self._numbers))
            self._short.append(ticket)
            self._changed.notify_all()
            return ticket

    def cancel(self, owner: str, ticket: Ticket[Any] | None = None) -> int:
        """Call off one job, or all jobs, of an owner; how many there were."""
        with self._changed:
            found = [t for t in self._all() if t.owner == owner and ticket in (None, t)]
            for each in found:
                each.stop.set()
                if each in self._line:
                    self._line.remove(each)
                    self._end(each, "cancelled", Cancelled("cancelled"))
            return len(found)

    def position(self, ticket: Ticket[Any]) -> int:
        """Jobs that come before this one, the running one included; 0 when it runs or has ended."""
        with self._changed:
            if ticket not in self._line:
                return 0
            return self._line.index(ticket) + (self._running is not None)

    def owners(self) -> set[str]:
        """Who has a job that runs or waits."""
        with self._changed:
            return {ticket.owner for ticket in [*self._all(), *self._short]}

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        with self._changed:
            return bool(self._line) or self._running is not None

    def close(self) -> None:
        """Call everything off, give the memory of the models back, and end the worker."""
        with self._changed:
            self._closed = True
            for ticket in [*self._line, *self._short]:
                self._end(ticket, "cancelled", Cancelled("the studio was closed"))
            self._line.clear()
            self._short.clear()
            if self._running is not None:
                self._running.stop.set()
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=60)

    def _open(self) -> None:
        if self._closed:
            raise Busy("the studio is being closed")

    def _all(self) -> list[Ticket[Any]]:
        return [*self._line, *([self._running] if self._running is not None else [])]

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._line or self._short)
                if self._closed:
                    break
            self._between()
            with self._changed:
                if self._closed or not self._line:
                    continue
                ticket = self._running = self._line.popleft()
            self._run(ticket, _Report(ticket, self._between, self._late))
            with self._changed:
                self._running = None
        self.models.clear()

    def _between(self) -> None:
        """Work off short tasks that wait, for :data:`SHORT` seconds, so that no picture waits for ever."""
        begin = time.monotonic()
        while time.monotonic() - begin < SHORT:
            with self._changed:
                if self._closed or not self._short:
                    return
                ticket = self._short.popleft()
            self._run(ticket, _Report(ticket, _nothing_between, _never_late))

    def _late(self, seconds: float) -> str | None:
        if seconds <= self._seconds or not self._line:
            return None
        return (
            f"this job took longer than {self._seconds / 60:g} minutes while others wait: ask for less "
            "steps, a smaller size or less pictures"
        )

    def _run(self, ticket: Ticket[Any], report: _Report) -> None:
        ticket.state, ticket.started = "running", time.monotonic()
        try:
            ticket.result = ticket.work(self.models, report)
        except Cancelled as error:
            self._end(ticket, "cancelled", error)
        except BaseException as error:  # the worker outlives every job, also a panic of a foreign library
            if not isinstance(error, IdPersonaError):
                log.exception("job %d failed", ticket.number)
            self._end(ticket, "failed", self._readable(error))
        else:
            self._end(ticket, "done", None)

    def _readable(self, error: BaseException) -> Exception:
        """What became of a job, as its owner can be told."""
        if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
            self.models.clear()
            return BadInput(
                "the memory of this device is not enough: ask for a smaller size or less pictures, or take a "
                "smaller model"
            )
        return error if isinstance(error, Exception) else RuntimeError(type(error).__name__)

    @staticmethod
    def _end(ticket: Ticket[Any], state: State, error: Exception | None) -> None:
        # What the job held (photos, identities) is let go of with it.
        ticket.work = _nothing
        ticket.error = None if error is None else error.with_traceback(None)
        ticket.state = state
        ticket.ended.set()


def _nothing_between() -> None:
    pass


def _never_late(_seconds: float) -> None:
    return None


def _nothing(_models: Models, _listener: Listener) -> Any:
    raise RuntimeError("this job has ended")
