"""A studio with a password: who has none sees nothing, who guesses waits, and nobody sends too much."""

from __future__ import annotations

import base64

import httpx
import pytest

from idpersona.app.guard import COOKIE, credentials
from idpersona.app.settings import Settings
from idpersona.app.studio import Studio
from tests.app.conftest import run_server

GOOD = {"prompt": "a photo of a woman", "steps": 1, "identity": {"sample": "astronaut"}}


@pytest.fixture(scope="module")
def locked():
    """A studio with a password, small limits, and few jobs."""
    settings = Settings(auth=("me", "wörd:2"), rate=4, max_upload=100_000, max_pixels=1_000_000)
    yield from run_server(Studio(settings))


def basic(text):
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("", None),
        ("Digest x", None),
        ("Basic bWU6d29yZA==", "me:word"),
        ("basic bWU6d29yZA==", "me:word"),
        ("Bearer me:word", "me:word"),
        ("Basic ???", ""),
        ("Basic /w==", ""),
    ],
)
def test_credentials(header, told):
    assert credentials(header) == told


@pytest.mark.parametrize(
    "path", ["/", "/config", "/gradio_api/info", "/v1/models", "/v1/docs", "/studio/pictures/a"]
)
def test_nothing_is_shown_without_the_password(locked, path):
    for headers in ({}, basic("me:wrong"), {"authorization": "Bearer x"}):
        answer = httpx.get(locked.address + path, headers=headers)
        assert answer.status_code in (401, 429)
        assert "set-cookie" not in answer.headers  # which would say that its owner had the password
        assert "Basic" in answer.headers["www-authenticate"] or answer.status_code == 429
    assert httpx.get(locked.address + path, headers=basic("me:wörd:2")).status_code in (200, 404)
    assert httpx.get(
        locked.address + path, headers={"authorization": "Bearer me:wörd:2".encode()}
    ).status_code in (200, 404)


@pytest.fixture
def guessed():
    """A studio with the same password, whose guesses nobody else has used up."""
    yield from run_server(Studio(Settings(auth=("me", "wörd:2"))))


def test_guessing_is_slowed_down(guessed):
    locked = guessed
    answers = [httpx.get(locked.address, headers=basic(f"me:{n}")).status_code for n in range(40)]
    assert answers[-1] == 429
    # Now not even the right one is told from others; who was here before goes on.
    assert httpx.get(locked.address, headers=basic("me:wörd:2")).status_code == 429
    cookies = {COOKIE: locked.studio.sessions.issue()}
    headers = basic("me:wörd:2")
    assert httpx.get(locked.address, headers=headers, cookies=cookies).status_code == 200
    assert httpx.get(locked.address, cookies=cookies).status_code == 401
    assert httpx.get(locked.address, headers=headers, cookies={COOKIE: "made.up"}).status_code == 429


def test_jobs_are_counted_for_each_client(locked):
    known = basic("me:wörd:2")
    answers = [
        httpx.post(f"{locked.address}/v1/images/generations", json=GOOD, headers=known, timeout=60)
        for _ in range(6)
    ]
    statuses = [answer.status_code for answer in answers]
    assert statuses[:3] == [200] * 3
    assert statuses[-1] == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"


def test_too_large_requests_are_refused_however_they_come(locked):
    known = basic("me:wörd:2")
    big = b"x" * 900_000
    told = httpx.post(f"{locked.address}/v1/images/generations", content=big, headers=known)
    assert told.status_code == 413

    def pieces():
        for _ in range(9):
            yield b"x" * 100_000

    untold = httpx.post(f"{locked.address}/v1/images/generations", content=pieces(), headers=known)
    assert untold.status_code == 413
    upload = httpx.post(
        f"{locked.address}/gradio_api/upload", files={"files": ("a.png", b"x" * 200_000)}, headers=known
    )
    assert upload.status_code == 413
    queue = httpx.post(f"{locked.address}/gradio_api/queue/join", content=b"x" * 5_000_000, headers=known)
    assert queue.status_code == 413
