"""What stands before the studio: origin, host, cookies, files; and Gradio's own routes."""

from __future__ import annotations

import json

import httpx
import pytest

from idpersona.app.guard import COOKIE
from idpersona.app.limits import RateLimiter, TooOften
from idpersona.app.studio import Studio

GOOD = {"prompt": "a photo of a woman", "steps": 1, "identity": {"sample": "astronaut"}}


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
    from idpersona.app.sessions import StoredPicture

    key, other = server.studio.sessions.issue(), server.studio.sessions.issue()
    mine = server.studio.sessions.get(key)
    id, path = mine.new_path(".png")
    path.write_bytes(b"png")
    mine.add_picture(StoredPicture(id, path, "create", {}, (1, 1)))
    url = f"{server.address}/studio/pictures/{id}"
    assert httpx.get(url, cookies={COOKIE: key}).content == b"png"
    assert httpx.get(url, cookies={COOKIE: other}).status_code == 404
    assert httpx.get(url, cookies={COOKIE: f"{key}x"}).status_code == 404
    assert httpx.get(url).status_code == 404
    server.studio.sessions.remove(mine.key)
    assert httpx.get(url, cookies={COOKIE: key}).status_code == 404


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


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """A photo on the server's machine that nobody uploaded."""
    from idpersona.images import open_photo

    path = tmp_path_factory.mktemp("private") / "private.png"
    open_photo("sample:person-1").save(path)
    return path


def call(server, name, data):
    """Status and answer of a function of Gradio, called by name."""
    begun = httpx.post(f"{server.address}/gradio_api/call/{name}", json={"data": data}, timeout=30)
    if begun.status_code != 200:
        return begun.status_code, begun.text
    event = begun.json()["event_id"]
    return 200, httpx.get(f"{server.address}/gradio_api/call/{name}/{event}", timeout=60).text


def upload(server, name, data):
    """Where Gradio keeps an upload."""
    [path] = httpx.post(f"{server.address}/gradio_api/upload", files={"files": (name, data)}).json()
    return path


def create_data(photos, prompt="a photo", sample=""):
    return [photos, sample, prompt, "", "", "", 1, 1, -1, 1, 1, "", False]


@pytest.mark.parametrize(
    "kind", ["absolute", "relative", "link", "address", "file address", "sample", "none"]
)
@pytest.mark.parametrize("field", ["photo", "text", "nested"])
def test_gradio_opens_no_path_of_a_client(server, private, kind, field, tmp_path):
    """What a client says it has uploaded, and has not: Gradio would copy it before any function runs."""
    from idpersona.app.studio import uploads_of

    uploads = uploads_of(server.studio)
    uploads.mkdir(exist_ok=True)
    path = {
        "absolute": str(private),
        "relative": f"{uploads}/../../{private.relative_to('/')}",
        "link": str(uploads / "link.png"),
        "address": f"{server.address}/v1/models",
        "file address": f"file://{private}",
        "sample": "sample:astronaut",
        "none": None,
    }[kind]
    if kind == "link":
        (uploads / "link.png").symlink_to(private)
    given = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = {
        "photo": create_data([given]),
        "text": create_data([], given, "astronaut"),
        "nested": create_data([], {"a": [{"b": given}]}, "astronaut"),
    }[field]
    try:
        before = {file for file in uploads.rglob("*") if file.is_file()}
        for body in ({"data": data}, {"data": data, "event_data": given}):
            answer = httpx.post(f"{server.address}/gradio_api/call/create", json=body, timeout=30)
            assert answer.status_code == 400
            assert "was not uploaded here" in answer.text
        fields = {"photos": [given], "prompt": "a photo"}
        answer = httpx.post(f"{server.address}/gradio_api/call/v2/create", json=fields, timeout=30)
        assert answer.status_code == 400
        assert {file for file in uploads.rglob("*") if file.is_file()} == before
    finally:
        (uploads / "link.png").unlink(missing_ok=True)


def test_gradio_itself_opens_no_path_either(server, private):
    """The second lock: without ours, Gradio knows that it runs, and refuses what nobody uploaded."""
    from gradio import processing_utils
    from gradio.context import LocalContext
    from gradio.exceptions import InvalidPathError

    inside = (getattr(route, "app", None) for route in server.app.app.app.routes)
    page = next(one.get_blocks() for one in inside if hasattr(one, "get_blocks"))
    token = LocalContext.blocks.set(page)
    try:
        with pytest.raises(InvalidPathError):
            processing_utils._check_allowed(str(private), True)
    finally:
        LocalContext.blocks.reset(token)


def test_a_photo_that_two_people_give_is_there_for_both(server, photo):
    data = photo.read_bytes()
    paths = [upload(server, "same.jpg", data) for _ in range(2)]
    for path in paths:
        given = {"path": path, "meta": {"_type": "gradio.FileData"}}
        status, answer = call(server, "create", create_data([given]))
        assert status == 200
        assert "event: complete" in answer, answer[:500]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("call/nothing", {"data": []}, 404),
        ("call/v2/nothing", {"prompt": "x"}, 404),
        ("call/v2/create", {"nothing": "x"}, 400),
        ("run/nothing", {"data": []}, 404),
        ("run/create", {"data": [1]}, 400),
        ("component_server", {"data": [], "component_id": 99999, "fn_name": "x"}, 404),
        ("process_recording", {}, 404),
        ("vibe-edit/", {}, 404),
        ("cancel", {"session_hash": "x", "fn_index": 0, "event_id": "y"}, None),
        ("reset", {"event_id": "x"}, None),
    ],
)
def test_calls_that_do_not_fit_are_no_defect(server, path, body, status):
    answer = httpx.post(f"{server.address}/gradio_api/{path}", json=body, timeout=30)
    assert answer.status_code < 500, answer.text[:300]
    assert status in (None, answer.status_code)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "null", "1.5", "-1", '"x"'])
def test_numbers_that_are_none_are_said(server, number):
    data = json.dumps(create_data([], "a photo", "astronaut")).replace('1, "", false', f'{number}, "", false')
    assert number in data
    begun = httpx.post(
        f"{server.address}/gradio_api/call/create",
        content=f'{{"data": {data}}}',
        headers={"content-type": "application/json"},
    )
    if begun.status_code == 200:
        event = begun.json()["event_id"]
        answer = httpx.get(f"{server.address}/gradio_api/call/create/{event}", timeout=60).text
        assert "event: error" in answer
        assert "defect" not in answer.lower()
    else:
        assert begun.status_code == 400


def test_the_server_answers_while_a_call_reads_photos(server, photo, monkeypatch):
    """Reading takes time, and everybody else waits for nothing."""
    import threading

    entered, leave = threading.Event(), threading.Event()
    real = Studio.add_photo

    def slow(self, *given):
        entered.set()
        leave.wait(20)
        return real(self, *given)

    monkeypatch.setattr(Studio, "add_photo", slow)
    given = {"path": upload(server, "slow.jpg", photo.read_bytes()), "meta": {"_type": "gradio.FileData"}}
    waiting = threading.Thread(target=call, args=(server, "create", create_data([given])))
    waiting.start()
    try:
        assert entered.wait(20)
        assert httpx.get(f"{server.address}/v1/models", timeout=5).status_code == 200
    finally:
        leave.set()
        waiting.join(60)


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
