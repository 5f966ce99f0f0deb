"""A studio on the embedded model, and a server around it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from idpersona.app.settings import Settings
from idpersona.app.studio import Studio
from idpersona.images import open_photo
from tests.app.browser import open_chromium, pages_of


@dataclass(frozen=True)
class Server:
    """A running studio."""

    studio: Studio
    address: str
    app: Any


def run_server(studio: Studio) -> Iterator[Server]:
    """The whole server of a studio in a thread, at a free port of this machine."""
    import uvicorn

    from idpersona.app.server import make_app

    before = os.environ.get("GRADIO_TEMP_DIR")  # of the process, and so of the server that came last
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = make_app(studio)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="error", proxy_headers=False, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    end = time.monotonic() + 60
    while not server.started and time.monotonic() < end:
        time.sleep(0.02)
    assert server.started
    try:
        yield Server(studio, f"http://127.0.0.1:{listener.getsockname()[1]}", app)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        if before is not None:
            os.environ["GRADIO_TEMP_DIR"] = before


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One server for all tests that change nothing of it."""
    yield from run_server(Studio(Settings(rate=10_000)))


@pytest.fixture
def studio() -> Iterator[Studio]:
    """A studio of its own, without a server."""
    made = Studio(Settings(device="cpu"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A JPEG of the sample portrait."""
    path = tmp_path_factory.mktemp("photo") / "astronaut photo.jpg"
    open_photo("sample:astronaut").save(path, quality=95)
    return path


@pytest.fixture(scope="session")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG of some hundred kilobytes that unpacks to 400 megapixels."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    assert path.stat().st_size < 1_000_000
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A real browser."""
    yield from open_chromium()


@pytest.fixture
def browse(chromium: Any, server: Server) -> Iterator[Any]:
    """Open the page as somebody new."""
    yield from pages_of(chromium, server.address)


@pytest.fixture
def post(server: Server) -> Any:
    """POST something to the interface."""
    import httpx

    with httpx.Client(base_url=server.address, timeout=120) as client:
        yield client.post
