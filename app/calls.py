"""Calls of Gradio's functions, looked at before Gradio does, which takes some nonsense for its own defect."""

from __future__ import annotations

import json
from typing import Any

from idpersona.app.answers import ApiError, error_body
from idpersona.app.asgi import ASGIApp, Message, Receive, Scope, Send

CALLS = ("/queue/join", "/run/", "/api/", "/call/")


class CheckedCalls:
    """ASGI middleware: the body of a call is a JSON object, and its function one that the page has.

    Args:
        app: what comes behind.
        functions: numbers of the page's functions.
    """

    def __init__(self, app: ASGIApp, functions: set[int]):
        self.app, self.functions = app, functions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer what is wrong with it."""
        path = scope.get("path", "")
        if scope["type"] != "http" or scope["method"] != "POST" or not _is_call(path):
            await self.app(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        wrong = self._wrong(body)
        if wrong is not None:
            answer = error_body(ApiError(400, wrong))
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            await send({"type": "http.response.body", "body": answer})
            return
        given = False

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)

    def _wrong(self, body: bytes) -> str | None:
        try:
            told: Any = json.loads(body)
        except (ValueError, RecursionError):
            return "the request is no valid JSON"
        if not isinstance(told, dict):
            return "the request is no JSON object"
        number = told.get("fn_index")
        if number is not None and (type(number) is not int or number not in self.functions):
            return "there is no such function"
        if not isinstance(told.get("data", []), list):
            return "data is a list"
        if not isinstance(told.get("session_hash") or "", str):
            return "session_hash is a text"
        return None


def _is_call(path: str) -> bool:
    place = path.removeprefix("/gradio_api")
    # The second form of calls takes names instead of a list.
    return any(place.startswith(call) for call in CALLS) and not place.startswith("/call/v2/")
