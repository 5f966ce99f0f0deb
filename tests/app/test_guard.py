"""What stands before the studio: password, origin, host, sizes, rates, cookies; and Gradio's own routes."""

from __future__ import annotations

import base64
import json

import httpx
import pytest

from idpersona.app.guard import COOKIE, credentials
from idpersona.app.limits import RateLimiter, TooOften
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


def test_buckets_fill_evenly():
    now = [0.0]
    limiter = RateLimiter(2, clock=lambda: now[0])
    limiter.take("a")
    limiter.take("a")
    with pytest.raises(TooOften) as refused:
        limiter.take("a")
    assert refused.value.seconds == 30
    limiter.take("b")
    now[0] = 30.0
    limiter.take("a")
    with pytest.raises(TooOften):
        limiter.take("a")


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
        assert "Basic" in answer.headers["www-authenticate"] or answer.status_code == 429
    assert httpx.get(locked.address + path, headers=basic("me:wörd:2")).status_code in (200, 404)
    assert httpx.get(
        locked.address + path, headers={"authorization": "Bearer me:wörd:2".encode()}
    ).status_code in (200, 404)


def test_guessing_is_slowed_down(locked):
    answers = [httpx.get(locked.address, headers=basic(f"me:{n}")).status_code for n in range(40)]
    assert 429 in answers
    assert httpx.get(locked.address, headers=basic("me:wörd:2")).status_code == 200


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


def test_other_pages_and_other_names_are_refused(server):
    url = f"{server.address}/v1/images/generations"
    assert httpx.post(url, json=GOOD, headers={"origin": "https://evil.example"}).status_code == 403
    assert httpx.post(url, json=GOOD, headers={"origin": "null"}).status_code == 403
    assert httpx.post(url, json=GOOD, headers={"origin": server.address}, timeout=60).status_code == 200
    assert httpx.get(server.address, headers={"host": "evil.example"}).status_code == 421
    assert (
        httpx.get(
            server.address, headers={"host": f"localhost:{server.address.rpartition(':')[2]}"}
        ).status_code
        == 200
    )


def test_a_browser_gets_one_cookie_that_scripts_cannot_read(server):
    first = httpx.get(server.address)
    cookie = first.headers["set-cookie"]
    assert cookie.startswith(COOKIE)
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert first.headers["x-content-type-options"] == "nosniff"
    again = httpx.get(server.address, cookies=dict(first.cookies))
    assert "set-cookie" not in again.headers
    assert httpx.get(server.address).cookies[COOKIE] != first.cookies[COOKIE]


def test_pictures_are_for_their_own_browser(server):
    from idpersona.app.guard import session_key
    from idpersona.app.sessions import StoredPicture

    mine = server.studio.sessions.get(session_key({COOKIE: "mine"}, None))
    id, path = mine.new_path(".png")
    path.write_bytes(b"png")
    mine.add_picture(StoredPicture(id, path, "create", {}, (1, 1)))
    url = f"{server.address}/studio/pictures/{id}"
    assert httpx.get(url, cookies={COOKIE: "mine"}).content == b"png"
    assert httpx.get(url, cookies={COOKIE: "other"}).status_code == 404
    assert httpx.get(url).status_code == 404
    server.studio.sessions.remove(mine.key)
    assert httpx.get(url, cookies={COOKIE: "mine"}).status_code == 404


PATHS = [
    "/studio/pictures/..%2f..%2f..%2fetc%2fpasswd",
    "/studio/identities/..%2f..%2fetc%2fpasswd",
    "/v1/docs-assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
    "/v1/docs-assets/../../../../etc/passwd",
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=../../../../etc/passwd",
    "/gradio_api/file=%2fetc%2fpasswd",
    "/gradio_api/file/etc/passwd",
    "/file=/etc/passwd",
    "/static/../../../../etc/passwd",
    "/assets/..%2f..%2f..%2fetc%2fpasswd",
    "/custom_component/../../../etc/passwd",
    "/gradio_api/custom_component/x/client/component/..%2f..%2fetc%2fpasswd",
    "/gradio_api/upload_progress?upload_id=../../x",
    "/gradio_api/stream/x/y/z/playlist.m3u8",
    "/gradio_api/heartbeat",
    "/../../etc/passwd",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_file_of_this_machine_is_given_out(server, path):
    import socket

    # By hand: a client would tidy the path up.
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    status = int(answer.split(b" ")[1])
    assert 200 <= status < 500, answer[:500]
    assert b"root:" not in answer


BODIES = {
    "malformed": b'{"data": [',
    "no JSON": b"\xff\xfe",
    "empty": b"",
    "a list": b"[]",
    "no function": b'{"data": [], "fn_index": 99999, "session_hash": "x"}',
    "a word for a function": b'{"data": [], "fn_index": "x", "session_hash": "x"}',
    "no data": b'{"fn_index": 0, "session_hash": "x"}',
    "deep": b'{"data": ' + b"[" * 50_000,
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize(
    "path",
    ["/gradio_api/queue/join", "/gradio_api/call/create", "/gradio_api/run/create", "/gradio_api/upload"],
)
def test_gradios_routes_take_no_nonsense(server, path, body):
    answer = httpx.post(
        server.address + path, content=BODIES[body], headers={"content-type": "application/json"}, timeout=30
    )
    assert answer.status_code < 500, f"{answer.status_code} {answer.text[:300]}"
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../../etc/passwd", "http://127.0.0.1:1/x", "file:///etc/passwd", "sample:astronaut"],
)
def test_gradio_opens_no_path_of_a_client(server, path):
    """What a client says it has uploaded, and has not."""
    given = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [[given], "", "a photo", "", "", "", 1, 1, -1, 1, 1, "", False]
    begun = httpx.post(f"{server.address}/gradio_api/call/create", json={"data": data}, timeout=30)
    assert begun.status_code < 500, begun.text[:300]
    if begun.status_code == 200:
        event = begun.json()["event_id"]
        answer = httpx.get(f"{server.address}/gradio_api/call/create/{event}", timeout=60).text
        assert "event: error" in answer
        assert "root:" not in answer
        assert "Traceback" not in answer
        assert json.dumps(path) not in answer or "not" in answer


@pytest.mark.parametrize(
    "path",
    [
        "runs",
        "gradio_api/runs",
        "gradio_api/run-history/records",
        "gradio_api/run-history/buckets",
        "monitoring",
    ],
)
def test_nobody_sees_what_others_asked(server, path):
    """Gradio can keep a history of all calls, and show it."""
    answer = httpx.get(f"{server.address}/{path}")
    assert answer.status_code in (403, 404) or "a photo" not in answer.text
    assert answer.status_code < 500


def test_websockets_are_closed(server):
    import socket

    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.sendall(
            f"GET /queue HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert int(line.recv(4096).split(b" ")[1]) in (400, 403, 404, 426)
