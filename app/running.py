"""From a button to a job and back: progress while it runs, a readable toast when it cannot."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from idpersona.app import markup
from idpersona.app.calls import DEFECT
from idpersona.app.engine import Cancelled, Ticket
from idpersona.app.guard import session_key
from idpersona.app.sessions import Session
from idpersona.app.speech import speak
from idpersona.app.studio import Studio, uploads_of
from idpersona.app.uploads import safe_name
from idpersona.errors import BadInput, IdPersonaError

T = TypeVar("T")
POLL = 0.15
log = logging.getLogger(__name__)


def session_of(studio: Studio, request: gr.Request) -> Session:
    """The session of the browser that asks.

    Raises:
        BadInput: the browser keeps no cookies, or the studio was started anew, or there are too many people.
    """
    key = session_key(dict(request.cookies or {}))
    if key is None:
        raise BadInput("this page does not know you any more: load it again, and allow its cookie")
    return studio.sessions.get(key, client(request))


def client(request: gr.Request) -> str:
    """Address of who asks."""
    return str(request.client.host) if request.client else "unknown"


def toast(error: Exception, session: Session | None = None) -> gr.Error:
    """An error as people read it; what is our own defect stays in the log."""
    if isinstance(error, IdPersonaError):
        told = speak(str(error), None if session is None else session.names())
        return gr.Error(told, duration=20, title="That did not work", print_exception=False)
    log.error("the studio failed", exc_info=error)
    return gr.Error(
        f"Something went wrong inside ({type(error).__name__}); the studio's log says more.",
        duration=20,
        title=DEFECT,
        print_exception=False,
    )


async def follow(
    studio: Studio, request: gr.Request, start: Callable[[Session], Ticket[T]]
) -> AsyncIterator[tuple[str, Ticket[T] | None]]:
    """Run a job and tell how far it is.

    Yields (HTML of the progress, None) while it runs, and ("", ticket) when its result is there. A job that
    nobody watches any more is called off.

    Raises:
        gr.Error: a toast with what went wrong; none for a job that was called off, which ends quietly.
    """
    session: Session | None = None
    ticket: Ticket[T] | None = None
    shown = ""
    try:
        session = session_of(studio, request)
        studio.rate.take(client(request))
        ticket = await asyncio.to_thread(start, session)
        while not ticket.ended.is_set():
            told = markup.progress(ticket, studio.engine.position(ticket))
            if told != shown:
                shown = told
                yield told, None
            await asyncio.sleep(POLL)
        ticket.wait(0)
    except Cancelled:
        yield markup.hint("Cancelled."), None
        return
    except Exception as error:
        yield "", None
        raise toast(error, session) from None
    finally:
        if ticket is not None and not ticket.ended.is_set():
            studio.engine.cancel(ticket.owner, ticket)
    yield "", ticket


async def outcome(studio: Studio, ticket: Ticket[T], gone: Callable[[], Awaitable[bool]] | None = None) -> T:
    """The result of a job; it is called off when ``gone`` says that nobody waits for it any more."""
    while not ticket.ended.is_set():
        if gone is not None and await gone():
            studio.engine.cancel(ticket.owner, ticket)
            raise Cancelled("nobody waits for the answer")
        await asyncio.sleep(0.05)
    return ticket.wait(0)


def guarded(studio: Studio, request: gr.Request, work: Callable[[Session], T]) -> T:
    """The result of something short; errors become toasts."""
    session: Session | None = None
    try:
        session = session_of(studio, request)
        return work(session)
    except Exception as error:
        raise toast(error, session) from None


def cancel_all(studio: Studio, request: gr.Request) -> int:
    """Call off what this browser has in the line; how many jobs that were."""
    return guarded(studio, request, lambda session: studio.engine.cancel(session.key))


def value(given: Any) -> Any:
    """None for what was left empty."""
    return None if given in ("", []) else given


def whole(given: str | None, label: str) -> int | None:
    """A whole number that was typed, None for nothing.

    Gradio's own field for numbers cannot be empty: it shows 0.

    Raises:
        BadInput: it is none.
    """
    text = (given or "").strip()
    if not text:
        return None
    if not text.isdecimal() or len(text) > 19:
        raise BadInput(f"{label} is a whole number, 0 or more; got '{text[:20]}'")
    return int(text)


def decimal(given: str | None, label: str) -> float | None:
    """A number that was typed, None for nothing.

    Raises:
        BadInput: it is none.
    """
    text = (given or "").strip()
    if not text:
        return None
    try:
        found = float(text.replace(",", "."))
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise BadInput(f"{label} is a number, as 2.5; got '{text[:20]}'")
    return found


def received(studio: Studio, files: Any) -> list[tuple[bytes, str]]:
    """Bytes and names of files that Gradio has taken.

    Its copies go with time: two people who give the same photo share one. That they lie in its folder
    :class:`~idpersona.app.calls.CheckedCalls` has seen; it is looked at again where they are opened.

    Raises:
        BadInput: a file is not there any more, or never was.
    """
    root = uploads_of(studio).resolve()
    found: list[tuple[bytes, str]] = []
    for file in files if isinstance(files, list) else [files] if files else []:
        path = Path(file)
        inside = path.resolve()
        if path.is_symlink() or not inside.is_relative_to(root) or not inside.is_file():
            raise BadInput("this file is not here any more: give it again")
        size, most = inside.stat().st_size, studio.settings.max_upload
        if size > most:
            raise BadInput(
                f"{safe_name(path.name)} has {size >> 20} MiB, more than the {most >> 20} MiB allowed"
            )
        found.append((inside.read_bytes(), path.name))
    return found
