"""Gradio's own endpoints, for ``gradio_client``: ``/create``, ``/edit`` and ``/identify``.

Each call has a session of its own, which is removed with the answer; the files that the answer holds lie in
Gradio's folder for some minutes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from idpersona.app.asks import Create, Edit, Person
from idpersona.app.engine import Ticket
from idpersona.app.running import outcome, received, toast, value
from idpersona.app.sessions import Session
from idpersona.app.studio import Studio
from idpersona.errors import BadInput
from idpersona.images import SAMPLE_PREFIX
from idpersona.jobs import limits


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
        async with _guest(studio, request) as session:
            ask = Create(
                people=_person(studio, session, photos, sample),
                prompt=prompt,
                negative=value(negative),
                base=value(model),
                method=value(method),
                scale=scale,
                steps=int(steps) or None,
                guidance=None if guidance < 0 else guidance,
                seed=None if seed < 0 else int(seed),
                count=int(count),
                size=limits.size(size) if value(size) else None,
                consent=consent,
            )
            ticket = await _started(lambda: studio.create(session, ask))
            made = await outcome(studio, ticket)
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
        async with _guest(studio, request) as session:
            person = _person(studio, session, [photo] if photo else [], sample)[0]
            ask = Edit(
                photo=person.photos[0],
                prompt=prompt,
                source=value(source),
                method=value(method),
                strength=None if strength < 0 else strength,
                base=value(model),
                adapter=value(adapter),
                keep_background=keep_background,
                consent=consent,
            )
            ticket = await _started(lambda: studio.edit(session, ask))
            made = await outcome(studio, ticket)
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
        async with _guest(studio, request) as session:
            given = _person(studio, session, photos, sample)[0].photos
            ticket = await _started(
                lambda: studio.read(
                    session, given, "identity", base=value(model), method=value(method), consent=consent
                )
            )
            stored = await outcome(studio, ticket)
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
async def _guest(studio: Studio, request: gr.Request) -> AsyncIterator[Session]:
    """A session for one call; errors are told as on the page."""
    with studio.guest() as session:
        try:
            studio.rate.take(str(request.client.host) if request.client else "unknown")
            yield session
        except Exception as error:
            raise toast(error, session) from None


def _json(told: Any) -> str:
    # As text: gradio_client takes everything with a "path" for a file, and fetches it.
    return json.dumps(told, ensure_ascii=False)


async def _started(start: Any) -> Ticket[Any]:
    import asyncio

    return await asyncio.to_thread(start)


def _person(studio: Studio, session: Session, files: Any, sample: str) -> tuple[Person, ...]:
    given = [studio.add_photo(session, data, name).id for data, name in received(studio, files)]
    if value(sample):
        given.append(f"{SAMPLE_PREFIX}{sample}")
    if not given:
        raise BadInput("give photos, or the name of a sample")
    return (Person(photos=tuple(given)),)


def _handed_over(studio: Studio, path: Path, name: str) -> str:
    """A copy in Gradio's folder, which outlives the session by some minutes."""
    folder = studio.sessions.root / "gradio" / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    return str(shutil.copyfile(path, folder / name))
