"""Gradio's own endpoints, for ``gradio_client``: ``/create``, ``/edit`` and ``/identify``.

Each call has a session of its own, which is removed with the answer; the files that the answer holds lie in
Gradio's folder for some minutes.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.context import LocalContext

from idpersona.app.asks import Create, Edit, Person
from idpersona.app.engine import Ticket
from idpersona.app.running import client, outcome, received, toast, value
from idpersona.app.sessions import Session, StoredIdentity, StoredPicture
from idpersona.app.studio import Studio, uploads_of
from idpersona.errors import BadInput, IdPersonaError
from idpersona.images import SAMPLE_PREFIX
from idpersona.jobs import limits

T = TypeVar("T")
N = TypeVar("N", int, float)


def add_endpoints(studio: Studio) -> None:
    """Put them into the page that is being made, invisibly."""
    with gr.Group(visible=False):
        _create(studio)
        _edit(studio)
        _identify(studio)


def _create(studio: Studio) -> None:
    async def create(
        request: gr.Request,
        photos: Any = None,
        sample: str = "",
        prompt: str = "",
        negative: str = "",
        model: str = "",
        method: str = "",
        scale: float = 1.0,
        steps: float = 0,
        guidance: float = -1,
        seed: float = -1,
        count: float = 1,
        size: str = "",
        consent: bool = False,
    ) -> tuple[list[str], str]:
        def start(session: Session) -> Ticket[list[StoredPicture]]:
            ask = Create(
                people=_person(studio, session, photos, sample),
                prompt=prompt,
                negative=value(negative),
                base=value(model),
                method=value(method),
                scale=_number(scale, "scale"),
                steps=_whole(steps, "steps") or None,
                guidance=_or_none(_number(guidance, "guidance")),
                seed=_or_none(_whole(seed, "seed")),
                count=_whole(count, "count"),
                size=limits.size(size) if value(size) else None,
                consent=consent,
            )
            return studio.create(session, ask)

        async with _called(studio, request, start) as (ticket, made):
            told = {"pictures": [one.settings for one in made], "notes": ticket.notes}
            return [_handed_over(studio, one.path, f"idpersona-{one.id}.png") for one in made], _json(told)

    photos = gr.File(file_count="multiple", label="photos")
    sample = gr.Textbox("", label="sample")
    inputs = [
        photos,
        sample,
        gr.Textbox("", label="prompt"),
        gr.Textbox("", label="negative"),
        gr.Textbox("", label="model"),
        gr.Textbox("", label="method"),
        gr.Number(1.0, label="scale"),
        gr.Number(0, label="steps"),
        gr.Number(-1, label="guidance"),
        gr.Number(-1, label="seed"),
        gr.Number(1, label="count"),
        gr.Textbox("", label="size"),
        gr.Checkbox(False, label="consent"),
    ]
    gr.Button().click(
        create,
        inputs,
        [gr.File(file_count="multiple", label="pictures"), gr.Textbox(label="settings")],
        api_name="create",
        api_description="Pictures of the person in the photos, or in a sample. Empty texts, 0 steps, and a "
        "guidance and seed of -1 leave it to the model. Gives PNG files with their settings, also as JSON.",
        concurrency_limit=None,
    )


def _edit(studio: Studio) -> None:
    async def edit(
        request: gr.Request,
        photo: Any = None,
        sample: str = "",
        source: str = "",
        prompt: str = "",
        method: str = "",
        strength: float = -1,
        model: str = "",
        adapter: str = "",
        keep_background: bool = False,
        consent: bool = False,
    ) -> tuple[str, str]:
        def start(session: Session) -> Ticket[StoredPicture]:
            person = _person(studio, session, [photo] if photo else [], sample)[0]
            ask = Edit(
                photo=person.photos[0],
                prompt=prompt,
                source=value(source),
                method=value(method),
                strength=_or_none(_number(strength, "strength")),
                base=value(model),
                adapter=value(adapter),
                keep_background=keep_background,
                consent=consent,
            )
            return studio.edit(session, ask)

        async with _called(studio, request, start) as (ticket, made):
            told = {"settings": made.settings, "notes": ticket.notes}
            return _handed_over(studio, made.path, f"idpersona-{made.id}.png"), _json(told)

    inputs = [
        gr.File(label="photo"),
        gr.Textbox("", label="sample"),
        gr.Textbox("", label="source"),
        gr.Textbox("", label="prompt"),
        gr.Textbox("", label="method"),
        gr.Number(-1, label="strength"),
        gr.Textbox("", label="model"),
        gr.Textbox("", label="adapter"),
        gr.Checkbox(False, label="keep_background"),
        gr.Checkbox(False, label="consent"),
    ]
    gr.Button().click(
        edit,
        inputs,
        [gr.File(label="picture"), gr.Textbox(label="settings")],
        api_name="edit",
        api_description="A photo, or a sample, with what the prompt says instead of what it shows "
        "(source). A strength of -1 leaves it to the model. Gives a PNG, and its settings as JSON.",
        concurrency_limit=None,
    )


def _identify(studio: Studio) -> None:
    async def identify(
        request: gr.Request,
        photos: Any = None,
        sample: str = "",
        method: str = "",
        model: str = "",
        consent: bool = False,
    ) -> tuple[str, str]:
        def start(session: Session) -> Ticket[StoredIdentity]:
            given = _person(studio, session, photos, sample)[0].photos
            base, how = value(model), value(method)
            return studio.read(session, given, "identity", base=base, method=how, consent=consent)

        async with _called(studio, request, start) as (_, stored):
            return _handed_over(studio, stored.path, "identity.safetensors"), _json(
                stored.identity.describe()
            )

    inputs = [
        gr.File(file_count="multiple", label="photos"),
        gr.Textbox("", label="sample"),
        gr.Textbox("", label="method"),
        gr.Textbox("", label="model"),
        gr.Checkbox(False, label="consent"),
    ]
    gr.Button().click(
        identify,
        inputs,
        [gr.File(label="identity"), gr.Textbox(label="description")],
        api_name="identify",
        api_description="Who is in the photos, or in a sample, as an identity file for a method.",
        concurrency_limit=None,
    )


@asynccontextmanager
async def _called(
    studio: Studio, request: gr.Request, start: Callable[[Session], Ticket[T]]
) -> AsyncIterator[tuple[Ticket[T], T]]:
    """A job in a session of its own, and its result; errors are told as on the page.

    ``start`` reads photos, which takes time: it runs in a thread of its own.
    """
    try:
        studio.rate.take(client(request))
        with studio.guest(client(request)) as session:
            try:
                ticket = await asyncio.to_thread(start, session)
                yield ticket, await outcome(studio, ticket, _gone(request))
            except Exception as error:
                raise toast(error, session) from None
    except IdPersonaError as error:
        raise toast(error) from None


def _gone(request: gr.Request) -> Callable[[], Awaitable[bool]]:
    """Whether the client has gone that waits for this call: Gradio knows, and does not end the call."""
    page: Any = LocalContext.blocks.get()
    event: Any = LocalContext.event_id.get(None)

    async def gone() -> bool:
        # Private to Gradio, and tested: without it nobody could call off what was left behind.
        jobs = [one for some in page._queue.active_jobs for one in some or ()]
        mine = [one for one in jobs if one._id == event]
        return bool(mine) and not any(one.alive for one in mine)

    return gone


def _number(given: Any, label: str) -> float:
    if not isinstance(given, (int, float)) or not math.isfinite(given):
        raise BadInput(f"{label} is a number")
    return float(given)


def _whole(given: Any, label: str) -> int:
    number = _number(given, label)
    if number != int(number):
        raise BadInput(f"{label} is a whole number, got {number:g}")
    return int(number)


def _or_none(number: N) -> N | None:
    """Numbers below 0 leave it to the model."""
    return None if number < 0 else number


def _json(told: Any) -> str:
    # As text: gradio_client takes everything with a "path" for a file, and fetches it.
    return json.dumps(told, ensure_ascii=False)


def _person(studio: Studio, session: Session, files: Any, sample: str) -> tuple[Person, ...]:
    given = [studio.add_photo(session, data, name).id for data, name in received(studio, files)]
    if value(sample):
        given.append(f"{SAMPLE_PREFIX}{sample}")
    if not given:
        raise BadInput("give photos, or the name of a sample")
    return (Person(photos=tuple(given)),)


def _handed_over(studio: Studio, path: Path, name: str) -> str:
    """A copy in Gradio's folder, which outlives the session by some minutes."""
    folder = uploads_of(studio) / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    return str(shutil.copyfile(path, folder / name))
