"""What stands before page and interface: who may ask, how much, how often, and from where.

Pure ASGI, so that streams pass through untouched.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import logging
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from idpersona.app.answers import ApiError, error_body
from idpersona.app.asgi import ASGIApp, Message, Receive, Scope, Send
from idpersona.app.limits import RateLimiter, TooOften
from idpersona.app.sessions import Sessions, disc_full
from idpersona.app.settings import LOOPBACK, Settings

COOKIE = "idpersona_session"
SMALL_BODY = 4 * 1024 * 1024
"""Bytes of a request that carries no photo."""
BYTES = 1024 * 1024 * 1024
"""Of uploads, per minute and client."""
AT_ONCE = 512 * 1024 * 1024
"""Bytes of all requests that are being read at a time."""
CHANGES = ("POST", "PUT", "PATCH", "DELETE")
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"x-frame-options", b"SAMEORIGIN"),
)
log = logging.getLogger(__name__)


class _Refused(Exception):
    def __init__(self, error: ApiError, headers: Iterable[tuple[bytes, bytes]] = ()):
        self.error, self.headers = error, list(headers)


class Guard:
    """ASGI middleware: host, password, origin, size and number of requests; gives each browser its cookie."""

    def __init__(self, app: ASGIApp, settings: Settings, sessions: Sessions):
        self.app, self.settings, self.sessions = app, settings, sessions
        self.open_bytes = 0
        self.requests = RateLimiter(20 * settings.rate)
        self.guesses = RateLimiter(20)
        self.mebibytes = RateLimiter(BYTES >> 20)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # nothing here speaks it
                await send({"type": "websocket.close", "code": 1008})
                return
            await self.app(scope, receive, send)
            return
        started = False
        # Behind this, a cookie of ours is one that was given to somebody who had the password.
        known = self._known(scope)
        fresh = not known and scope["method"] == "GET" and scope["path"] == "/"
        held = 0
        refusal: list[_Refused] = []

        async def sending(message: Message) -> None:
            nonlocal started
            if refusal and not started:
                return  # whoever was reading took the refusal for a broken body
            if message["type"] == "http.response.start":
                started = True
                headers = [*message.get("headers", []), *HEADERS]
                if fresh:
                    headers.append((b"set-cookie", _set_cookie(self.sessions.issue(), scope).encode()))
                message = {**message, "headers": headers}
            await send(message)

        try:
            size = self._check(scope, known=known)
            held = size if size > SMALL_BODY else 0
            if self.open_bytes + held > max(AT_ONCE, held):
                held = 0
                raise _Refused(ApiError(503, "very many photos are being read: try again in a minute"))
            self.open_bytes += held
            await self.app(scope, self._limited(scope, receive, refusal), sending)
        except _Refused as refused:
            refusal[:] = [refused]
        except Exception:  # nothing of the inside is shown
            log.exception("%s %s failed", scope["method"], scope["path"])
            refusal[:] = [_Refused(ApiError(500, "internal error; the studio's log says more"))]
        finally:
            self.open_bytes -= held
        if refusal and not started:
            fresh = False  # a cookie says that its owner was let in
            refused = refusal.pop()
            await _answer(sending, refused.error, refused.headers)

    def _known(self, scope: Scope) -> bool:
        """Whether a request has a cookie of this studio; others of its name are taken out of it."""
        cookie = _cookies(scope).get(COOKIE)
        if cookie is None:
            return False
        if self.sessions.issued(cookie):
            return True
        scope["headers"] = [one for one in scope["headers"] if one[0] != b"cookie"]
        return False

    def _check(self, scope: Scope, *, known: bool) -> int:
        """The bytes that a request may send; raises what refuses it."""
        headers = _headers(scope)
        client = client_of(scope)
        host = headers.get("host", "")
        if self.settings.auth is not None:
            self._authenticate(headers, client, known=known)
        elif not self.settings.public and _name(host) not in (*LOOPBACK, self.settings.host):
            # A page elsewhere can let its own name point here; without a password only the name tells.
            raise _Refused(ApiError(421, f"this studio is not called '{_name(host)[:80]}'"))
        size = 0
        if scope["method"] in CHANGES:
            origin = headers.get("origin")
            if origin and urlsplit(origin).netloc != host:
                raise _Refused(ApiError(403, "requests of other web pages are refused"))
            try:
                self.requests.take(client)
            except TooOften as error:
                raise _Refused(too_often(error), retry_after(error)) from None
            length = headers.get("content-length", "0")
            if not length.isdigit():
                raise _Refused(ApiError(400, "Content-Length is no number"))
            if int(length) > self._most(scope):
                raise _Refused(self._too_large(scope))
            # A body of unknown length counts as the largest that is taken.
            size = self._most(scope) if "transfer-encoding" in headers else int(length)
            try:
                self.mebibytes.take(client, size / 2**20)
            except TooOften as error:
                raise _Refused(too_often(error), retry_after(error)) from None
            if size > SMALL_BODY and disc_full(self.sessions.root):
                raise _Refused(ApiError(503, "the studio's disc is nearly full: try again later"))
        return size

    def _authenticate(self, headers: dict[str, str], client: str, *, known: bool) -> None:
        """Raise what refuses a request without the password.

        After many wrong ones, an address is not even told whether it has the right one; browsers that had it
        before go on.
        """
        assert self.settings.auth is not None
        given = credentials(headers.get("authorization", ""))
        if given is not None and not known:
            try:
                self.guesses.take(client, 0)
            except TooOften as error:
                raise _Refused(too_often(error), retry_after(error)) from None
        wanted = ":".join(self.settings.auth)
        if given is not None and hmac.compare_digest(given.encode(), wanted.encode()):
            return
        if given is not None:
            try:
                self.guesses.take(client)
            except TooOften as error:
                raise _Refused(too_often(error), retry_after(error)) from None
        raise _Refused(
            ApiError(
                401,
                "user and password are needed: HTTP Basic, or the API key USER:PASSWORD",
                "invalid_api_key",
            ),
            [(b"www-authenticate", b'Basic realm="idpersona", charset="UTF-8"')],
        )

    def _most(self, scope: Scope) -> int:
        path = scope["path"]
        if path.startswith("/v1/") or path.endswith("/upload"):
            return 4 * self.settings.max_upload
        return SMALL_BODY

    def _too_large(self, scope: Scope) -> ApiError:
        return ApiError(413, f"the request is larger than the {self._most(scope) >> 20} MiB allowed")

    def _limited(self, scope: Scope, receive: Receive, refusal: list[_Refused]) -> Receive:
        """Counts a body that does not say how long it is."""
        seen = 0

        async def receiving() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._most(scope):
                    refusal.append(_Refused(self._too_large(scope)))
                    raise refusal[-1]
            return message

        return receiving


def credentials(header: str) -> str | None:
    """``user:password`` of an Authorization header, Basic or Bearer; None where it holds neither."""
    kind, _, value = header.strip().partition(" ")
    if kind.lower() == "bearer":
        with contextlib.suppress(UnicodeError):  # headers are read as Latin-1
            return value.strip().encode("latin-1").decode("utf-8")
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return None


def client_of(scope: Scope) -> str:
    """Address of who asks."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def too_often(error: TooOften) -> ApiError:
    """The answer to a client that asks too often."""
    return ApiError(429, str(error), "rate_limit_exceeded")


def retry_after(error: TooOften) -> list[tuple[bytes, bytes]]:
    """When to come back, as a header."""
    return [(b"retry-after", str(error.seconds).encode())]


def session_key(cookies: Mapping[str, str]) -> str | None:
    """Key of the session of a browser: its cookie; None where it has none."""
    return cookies.get(COOKIE)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _cookies(scope: Scope) -> dict[str, str]:
    from http.cookies import CookieError, SimpleCookie

    try:
        return {
            name: morsel.value for name, morsel in SimpleCookie(_headers(scope).get("cookie", "")).items()
        }
    except CookieError:
        return {}


def _set_cookie(key: str, scope: Scope) -> str:
    secure = scope.get("scheme") == "https" or _headers(scope).get("x-forwarded-proto") == "https"
    return f"{COOKIE}={key}; Path=/; HttpOnly; SameSite=Lax{'; Secure' if secure else ''}"


def _name(host: str) -> str:
    return host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]


async def _answer(send: Send, error: ApiError, headers: Iterable[tuple[bytes, bytes]]) -> None:
    body = error_body(error)
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": error.status, "headers": start})
    await send({"type": "http.response.body", "body": body})
