"""Gradio's own endpoints, called by its client, as the README shows it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from idpersona.app.server import UPLOADS, sweep_uploads
from idpersona.identity import Identity
from idpersona.provenance import is_marked, read_settings

gradio_client = pytest.importorskip("gradio_client")


@pytest.fixture
def client(server, tmp_path):
    return gradio_client.Client(server.address, verbose=False, download_files=str(tmp_path))


def test_create(client, server, photo):
    files, told = client.predict(
        photos=[gradio_client.handle_file(str(photo))],
        prompt="a photo of a smiling woman",
        seed=3,
        steps=2,
        count=2,
        consent=True,
        api_name="/create",
    )
    assert [read_settings(file)["seed"] for file in files] == [3, 4]
    assert all(is_marked(file) for file in files)
    settings = json.loads(told)["pictures"]
    assert settings[0]["identity"]["consent"] is True
    assert settings[0]["identity"]["sources"][0]["path"] == "astronaut photo.jpg"
    assert len(server.studio.sessions) == 0


def test_edit(client, photo):
    file, told = client.predict(
        photo=gradio_client.handle_file(str(photo)),
        source="a photo of a woman",
        prompt="a photo of a woman with eyeglasses",
        strength=0.5,
        api_name="/edit",
    )
    assert read_settings(file)["control"]["strength"] == 0.5
    assert json.loads(told)["settings"]["source"] == "a photo of a woman"


def test_identify(client):
    file, told = client.predict(sample="astronaut", method="instantid", api_name="/identify")
    assert Identity.load(file).kind == "face"
    assert json.loads(told)["encoders"].keys() == {"dlib"}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"prompt": "a photo"}, "Give photos"),
        ({"prompt": "a photo", "sample": "../../etc/passwd"}, "sample"),
        ({"prompt": "", "sample": "astronaut"}, "“Prompt”"),
        (
            {"prompt": "a photo", "sample": "astronaut", "scale": 9},
            "must lie between 0 and 2",
        ),
        ({"prompt": "a photo", "sample": "astronaut", "model": "/etc"}, "Unknown base"),
    ],
)
def test_what_is_wrong_is_said_in_words(client, server, asked, says):
    with pytest.raises(gradio_client.exceptions.AppError, match=says):
        client.predict(**asked, api_name="/create")
    assert len(server.studio.sessions) == 0


def test_no_image_is_no_image(client, tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(gradio_client.exceptions.AppError, match=r"A\.png is not an image"):
        client.predict(
            photos=[gradio_client.handle_file(str(tmp_path / "a.png"))], prompt="x", api_name="/create"
        )


def test_a_call_that_was_left_behind_ends(server, photo):
    """Nobody could call it off any more."""
    import threading
    import time

    import httpx

    data = [[], "astronaut", "a photo", "", "", "", 1, 1000, -1, 1, 8, "", False]
    begun = httpx.post(f"{server.address}/gradio_api/call/create", json={"data": data}, timeout=30)
    heard = threading.Event()

    def listen():
        url = f"{server.address}/gradio_api/call/create/{begun.json()['event_id']}"
        with contextlib.suppress(httpx.ReadTimeout), httpx.stream("GET", url, timeout=2) as answer:
            heard.set()
            for _ in answer.iter_lines():
                pass

    listening = threading.Thread(target=listen)
    listening.start()
    assert heard.wait(20)
    end = time.monotonic() + 20
    while not server.studio.engine.busy and time.monotonic() < end:
        time.sleep(0.02)
    assert server.studio.engine.busy
    listening.join(20)
    end = time.monotonic() + 30
    while server.studio.engine.busy and time.monotonic() < end:
        time.sleep(0.1)
    assert not server.studio.engine.busy
    assert len(server.studio.sessions) == 0


def test_only_the_documented_endpoints_are_there(client):
    assert set(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == {
        "/create",
        "/edit",
        "/identify",
    }


def test_what_gradio_keeps_is_swept_up(tmp_path: Path):
    for name in ("a/old.png", "b/new.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    import os
    import time

    past = time.time() - UPLOADS - 1
    for place in (tmp_path / "a/old.png", tmp_path / "a"):
        os.utime(place, (past, past))
    assert sweep_uploads(tmp_path) == 1
    assert [path.name for path in tmp_path.rglob("*.png")] == ["new.png"]
