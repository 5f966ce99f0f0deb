"""Calls of Gradio's functions, looked at before Gradio does, which takes some nonsense for its own defect."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from idpersona.app.answers import ApiError, error_body
from idpersona.app.asgi import ASGIApp, Message, Receive, Scope, Send

NAMED = ("/run/", "/api/", "/call/v2/", "/call/")
ANONYMOUS = ("/run/predict", "/api/predict")
"""Where the function is told by its number alone."""
CLOSED = ("/component_server", "/process_recording", "/stream/", "/vibe-", "/undo-vibe-edit", "/proxy=")
"""Routes of Gradio that nothing here uses."""
DEFECT = "A defect"
"""Title of a toast that tells of a mistake of ours."""
log = logging.getLogger(__name__)


class CheckedCalls:
    """ASGI middleware: a call is a JSON object, its function one that the page has, its files were uploaded.

    Args:
        app: what comes behind.
        functions: numbers of the page's functions.
        names: their names.
        uploads: folder of uploaded files; no other file may be named in a call.
    """

    def __init__(self, app: ASGIApp, functions: Iterable[int], names: Iterable[str], uploads: Path):
        self.app, self.functions, self.names = app, set(functions), set(names)
        self.uploads = uploads.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer what is wrong with it."""
        place = scope.get("path", "").removeprefix("/gradio_api")
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif place.startswith(CLOSED):
            await _answer(send, ApiError(404, "there is nothing here"))
        elif scope["method"] == "POST" and (place.startswith("/queue/join") or place.startswith(NAMED)):
            await self._call(place.rstrip("/"), scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _call(self, place: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        wrong = self._wrong(place, body)
        if wrong is not None:
            await _answer(send, wrong)
            return
        given, failed, told = False, False, b""

        async def again() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def sending(message: Message) -> None:
            nonlocal failed, told
            if message["type"] == "http.response.start" and message["status"] == 500:
                failed = True
            if not failed:
                await send(message)
            elif message["type"] == "http.response.body":
                told += message.get("body", b"")

        try:
            await self.app(scope, again, sending)
        except Exception:
            if not failed:
                raise
            log.warning("a call that Gradio cannot read: %s", place[:200], exc_info=True)
        if failed:
            await _answer_failed(send, told)

    def _wrong(self, place: str, body: bytes) -> ApiError | None:
        try:
            told: Any = json.loads(body)
        except (ValueError, RecursionError):
            return ApiError(400, "the request is no valid JSON")
        if not isinstance(told, dict):
            return ApiError(400, "the request is no JSON object")
        number = told.get("fn_index")
        if number is not None and (type(number) is not int or number not in self.functions):
            return ApiError(400, "there is no such function")
        by_name = next((place[len(start) :] for start in NAMED if place.startswith(start)), None)
        by_number = place in ANONYMOUS and number is not None
        if by_name is not None and not by_number and by_name not in self.names:
            return ApiError(404, "there is no such function")
        # The second form of calls by name takes names instead of a list.
        if not place.startswith("/call/v2/") and not isinstance(told.get("data", []), list):
            return ApiError(400, "data is a list")
        if not isinstance(told.get("session_hash") or "", str):
            return ApiError(400, "session_hash is a text")
        if not self._uploaded(told):
            return ApiError(400, "a call names a file that was not uploaded here")
        return None

    def _uploaded(self, told: Any) -> bool:
        """Whether every file that is named anywhere in a call lies among the uploads.

        Gradio copies each file that a call names, also in a field of text, before it calls the function.
        """
        left = [told]
        while left:
            one = left.pop()
            if isinstance(one, list):
                left += one
            elif isinstance(one, dict):
                left += one.values()
                if "path" in one and not self._is_upload(one["path"]):
                    return False
        return True

    def _is_upload(self, path: Any) -> bool:
        if not isinstance(path, str) or "\0" in path:
            return False
        try:
            real = Path(path).resolve()
        except (OSError, RuntimeError, ValueError):
            return False
        return Path(path).is_absolute() and real.is_relative_to(self.uploads) and real.is_file()


async def _answer_failed(send: Send, told: bytes) -> None:
    """What Gradio answers with 500: our own refusals, as toasts, and calls that it cannot read."""
    try:
        toast = json.loads(told)
    except ValueError:
        toast = None
    if not isinstance(toast, dict) or not isinstance(toast.get("error"), str):
        await _answer(send, ApiError(400, "the call does not fit the function: see /?view=api"))
        return
    await _send(send, 500 if toast.get("title") == DEFECT else 400, told)


async def _answer(send: Send, error: ApiError) -> None:
    await _send(send, error.status, error_body(error))


async def _send(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
