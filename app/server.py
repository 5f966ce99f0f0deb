"""One server for the page, the interface and the pictures of each browser."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse

from idpersona.app.answers import ApiError
from idpersona.app.calls import CheckedCalls
from idpersona.app.guard import Guard, session_key
from idpersona.app.openai import DESCRIPTION, add_interface
from idpersona.app.settings import Settings
from idpersona.app.studio import Studio, uploads_of
from idpersona.errors import BadInput, OutputError

SWEEP = 30.0
"""Seconds between two looks for sessions and uploads that nobody uses any more."""
UPLOADS = 600
"""Seconds that a file lies in Gradio's own folder."""
GRACE = 3
"""Seconds that open answers have when the studio is stopped."""


def make_app(studio: Studio) -> Any:
    """The whole server as one ASGI application, the guard outermost."""
    from idpersona import __version__

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_sweeping(studio))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.to_thread(studio.close)

    app = FastAPI(
        title="idpersona studio",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        lifespan=lifespan,
    )
    add_interface(app, studio)
    _add_pictures(app, studio)
    page = _add_gradio(app, studio)
    names = (str(one.api_name) for one in page.fns.values() if one.api_name)
    calls = CheckedCalls(app, page.fns, names, uploads_of(studio))
    return Guard(calls, studio.settings, studio.sessions)


async def _sweeping(studio: Studio) -> None:
    while True:
        await asyncio.sleep(SWEEP)
        await asyncio.to_thread(studio.sessions.expire, studio.engine.owners())
        await asyncio.to_thread(sweep_uploads, uploads_of(studio))


def sweep_uploads(folder: Path, now: float | None = None) -> int:
    """Remove what has lain in Gradio's own folder for :data:`UPLOADS` seconds; how many files."""
    at = time.time() if now is None else now
    old = [file for file in folder.rglob("*") if file.is_file() and at - file.stat().st_mtime > UPLOADS]
    for file in old:
        file.unlink(missing_ok=True)
    for place in sorted(folder.rglob("*"), reverse=True):
        if place.is_dir() and at - place.stat().st_mtime > UPLOADS:
            with contextlib.suppress(OSError):  # not empty, or filled just now
                place.rmdir()
    return len(old)


def _add_pictures(app: FastAPI, studio: Studio) -> None:
    @app.get("/studio/pictures/{id}", include_in_schema=False)
    async def picture(id: str, request: Request, part: str = "after") -> FileResponse:  # pyright: ignore[reportUnusedFunction]
        """A picture of the browser that asks; nobody else finds it."""
        session = studio.sessions.find(session_key(request.cookies))
        stored = None if session is None else session.pictures.get(id)
        path = None if stored is None else stored.before if part == "before" else stored.path
        if path is None or not path.is_file():
            raise ApiError(404, "this picture is not here any more")
        return FileResponse(path, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/studio/identities/{id}", include_in_schema=False)
    async def identity(id: str, request: Request) -> FileResponse:  # pyright: ignore[reportUnusedFunction]
        """An identity file of the browser that asks."""
        session = studio.sessions.find(session_key(request.cookies))
        stored = None if session is None else session.identities.get(id)
        if stored is None or not stored.path.is_file():
            raise ApiError(404, "this identity is not here any more")
        return FileResponse(
            stored.path, media_type="application/octet-stream", filename=f"{stored.name}.safetensors"
        )


def _add_gradio(app: FastAPI, studio: Studio) -> Any:
    """Put the page in, and give it back."""
    # Before Gradio is imported, which reads both.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ["GRADIO_TEMP_DIR"] = str(uploads_of(studio))
    import gradio

    from idpersona.app.page import make_page, style

    page = make_page(studio)
    page.queue(default_concurrency_limit=None, max_size=None)
    gradio.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=studio.settings.max_upload,
        show_error=True,
        footer_links=["api", "settings"],
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,
        **style(),
    )
    # launch() would say so; until then Gradio opens every path that a client names.
    page.has_launched = True
    # Pages hold a connection for ever, unless they are told that the studio ends.
    for route in app.routes:
        inside: Any = getattr(route, "app", None)
        if hasattr(inside, "stop_event"):
            inside.stop_event = studio.stopping
    return page


def serve(settings: Settings) -> None:
    """Run a studio until it is interrupted.

    Raises:
        BadInput: a setting is out of range, or what was given is not there.
        OutputError: nobody can listen at that address.
    """
    import socket

    import uvicorn

    # Bound first: an address that is taken is said before anything is loaded.
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        reason = error.strerror or error
        raise OutputError(
            f"cannot listen at {settings.host}:{settings.port}: {reason}; give another --port"
        ) from error
    studio = Studio(settings)
    try:
        app = make_app(studio)
        port = listener.getsockname()[1]
        name = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
        address = f"http://{f'[{name}]' if ':' in name else name}:{port}"
        config = uvicorn.Config(
            app,
            log_level="warning",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE,
        )

        class Server(uvicorn.Server):
            async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
                studio.stopping.set()
                await super().shutdown(sockets)

        server = Server(config)
        config.load()
        print(f"the studio is at {address} (stop it with Ctrl-C)", file=sys.stderr, flush=True)
        if settings.share:
            print(f"and for others at {_share(settings.host, port)}", file=sys.stderr, flush=True)
        studio.warm_up()
        server.run(sockets=[listener])
    finally:
        studio.close()


def _share(host: str, port: int) -> str:
    """The public address that Gradio's relay gives, which fetches a program of its own first."""
    import secrets

    from gradio.networking import setup_tunnel

    try:
        return setup_tunnel(host, port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # whatever the network or the fetched program says
        raise BadInput(
            f"--share: Gradio's relay cannot be reached ({type(error).__name__}: {error})"
        ) from error
