"""``/v1``: OpenAI's image interface, with whose picture it shall be.

Every request has a session of its own, which is removed with all its files when the answer is sent.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from idpersona.app.answers import ApiError, as_api_error, error_body
from idpersona.app.asks import Create, Edit, Person
from idpersona.app.engine import Ticket
from idpersona.app.guard import client_of
from idpersona.app.limits import TooOften
from idpersona.app.openai_schema import (
    EditRequestBody,
    ErrorAnswer,
    GenerationRequest,
    IdentityInput,
    ModelEntry,
    ModelsAnswer,
    PersonInput,
    PictureData,
    PictureIdentity,
    PicturesAnswer,
)
from idpersona.app.running import outcome
from idpersona.app.sessions import Session, StoredPicture
from idpersona.app.studio import Studio
from idpersona.errors import IdPersonaError
from idpersona.images import SAMPLE_PREFIX
from idpersona.jobs import limits

DESCRIPTION = """Pictures of a person, in the form of OpenAI's image interface.

`identity` says whose picture it shall be. With a password, the API key is `USER:PASSWORD`."""
_FIELD = re.compile(r"([a-z_]+)((?:\[[a-z_0-9]*\])*)")
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": what}
    for status, what in {
        400: "what was asked for is not possible; the message says how it is",
        401: "user and password are needed",
        403: "the person, the licence or the missing consent forbids it",
        404: "no such model",
        413: "the request is too large",
        429: "too many requests; Retry-After says when to come back",
        503: "too many jobs wait, or weights are missing",
    }.items()
}


def add_interface(app: FastAPI, studio: Studio) -> None:
    """Put the interface, its page and its errors into ``app``."""
    app.include_router(_router(studio))
    app.openapi_version = "3.0.3"
    _add_page(app)
    _add_errors(app)


def _router(studio: Studio) -> APIRouter:
    router = APIRouter(prefix="/v1", responses=_ERRORS)

    @router.get("/models")
    async def models() -> ModelsAnswer:  # pyright: ignore[reportUnusedFunction]
        """The models of this studio, and the methods that keep an identity on each."""
        offered = studio.catalogue
        return ModelsAnswer(
            data=[ModelEntry(id=label, methods=offered.methods(label)) for label in offered.bases]
        )

    @router.post("/images/generations")
    async def generations(  # pyright: ignore[reportUnusedFunction]
        body: GenerationRequest, request: Request
    ) -> PicturesAnswer:
        """Make pictures of the person that ``identity`` tells."""
        async with _own_session(studio, request) as session:

            def start() -> Ticket[list[StoredPicture]]:
                return studio.create(session, _create(studio, session, body))

            ticket = await run_in_threadpool(start)
            return _answer(await outcome(studio, ticket, request.is_disconnected), ticket)

    form = {"schema": _form_schema()}

    @router.post(
        "/images/edits",
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": form}}},
    )
    async def edits(request: Request) -> PicturesAnswer:  # pyright: ignore[reportUnusedFunction]
        """Change a photo by words, and keep its person.

        A form with the file ``image``; ``identity`` is JSON, or fields as ``identity[strength]``.
        """
        async with request.form(max_files=4, max_fields=200) as form:
            images = [value for key in ("image", "image[]") for value in form.getlist(key)]
            body = _edit_fields(form)
            if len(images) != 1 or not isinstance(images[0], UploadFile):
                raise ApiError(400, "give one file as 'image'", param="image")
            data, name = await images[0].read(), images[0].filename or "image"
        async with _own_session(studio, request) as session:

            def start() -> Ticket[StoredPicture]:
                photo = studio.add_photo(session, data, name)
                told = body.identity
                return studio.edit(
                    session,
                    Edit(
                        photo=photo.id,
                        prompt=body.prompt,
                        base=body.model,
                        source=told.source,
                        method=told.method,
                        strength=told.strength,
                        words=tuple(told.words),
                        keep_background=told.keep_background,
                        adapter=told.adapter,
                        scale=told.scale,
                        face=told.face,
                        consent=told.consent,
                        steps=body.steps,
                        guidance=body.guidance,
                    ),
                )

            ticket = await run_in_threadpool(start)
            return _answer([await outcome(studio, ticket, request.is_disconnected)], ticket)

    return router


@asynccontextmanager
async def _own_session(studio: Studio, request: Request) -> AsyncIterator[Session]:
    client = client_of(request.scope)
    studio.rate.take(client)
    with studio.guest(client) as session:
        yield session


def _create(studio: Studio, session: Session, body: GenerationRequest) -> Create:
    who = body.identity
    if who is None:
        raise ApiError(
            400,
            "whose picture? give identity.photos, identity.file, identity.sample or identity.people "
            "(with the OpenAI client: extra_body={'identity': {...}})",
            param="identity",
        )
    return Create(
        people=_people(studio, session, who),
        prompt=body.prompt,
        negative=body.negative_prompt,
        weighted=body.weighted,
        base=body.model,
        method=who.adapter,
        scale=who.scale,
        steps=body.steps,
        guidance=body.guidance,
        size=None if body.size in (None, "auto") else limits.size(body.size),
        seed=body.seed,
        count=body.n or 1,
        pose=None if who.pose is None else _photo(studio, session, who.pose, "identity.pose"),
        face=who.face,
        consent=who.consent,
    )


def _people(studio: Studio, session: Session, who: IdentityInput) -> tuple[Person, ...]:
    given = sum(map(bool, (who.photos, who.file, who.sample, who.people)))
    if given != 1:
        raise ApiError(400, "give one of photos, file, sample and people", param="identity")
    if who.people:
        return tuple(
            _member(studio, session, one, f"identity.people[{i}]") for i, one in enumerate(who.people)
        )
    if who.file:
        return (Person(identity=_identity(studio, session, who.file, "identity.file")),)
    if who.sample:
        return (Person(photos=(f"{SAMPLE_PREFIX}{who.sample}",)),)
    named = [
        _photo(studio, session, text, f"identity.photos[{number}]") for number, text in enumerate(who.photos)
    ]
    return (Person(photos=tuple(named)),)


def _member(studio: Studio, session: Session, one: PersonInput, where: str) -> Person:
    if sum(map(bool, (one.photo, one.file, one.sample))) != 1:
        raise ApiError(400, "give one of photo, file and sample", param=where)
    if one.file:
        return Person(identity=_identity(studio, session, one.file, f"{where}.file"), region=one.region)
    photo = f"{SAMPLE_PREFIX}{one.sample}" if one.sample else _photo(studio, session, one.photo or "", where)
    return Person(photos=(photo,), region=one.region)


def _photo(studio: Studio, session: Session, text: str, where: str) -> str:
    return studio.add_photo(session, _decoded(text, where), where).id


def _identity(studio: Studio, session: Session, text: str, where: str) -> str:
    return studio.add_identity(session, _decoded(text, where), where).id


def _decoded(text: str, where: str) -> bytes:
    _, comma, tail = text.partition(",") if text.startswith("data:") else ("", "", text)
    try:
        return base64.b64decode(tail if comma or not text.startswith("data:") else "!", validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{where} is not base64", param=where) from None


def _answer(pictures: list[StoredPicture], ticket: Ticket[Any]) -> PicturesAnswer:
    return PicturesAnswer(
        created=int(time.time()), data=[_data(picture) for picture in pictures], notes=list(ticket.notes)
    )


def _data(picture: StoredPicture) -> PictureData:
    told = picture.settings
    who = told.get("identity") or told.get("identity_of_edit") or {}
    edited = told.get("edited") or {}
    return PictureData(
        b64_json=base64.b64encode(picture.path.read_bytes()).decode("ascii"),
        identity=PictureIdentity(
            photos_sha256=who.get("photos_sha256") or [sha for sha in (edited.get("sha256"),) if sha],
            features_sha256=who.get("features_sha256"),
            consent=who.get("consent", told.get("photo_consent")),
            similarity=picture.similarity,
            similarity_encoder=picture.judge or None,
        ),
        settings=told,
    )


def _edit_fields(form: FormData) -> EditRequestBody:
    """The fields of a form, typed: ``identity`` as JSON, or ``identity[name]`` and ``identity[words][]``."""
    given: dict[str, Any] = {}
    for key, value in form.multi_items():
        if key in ("image", "image[]"):
            continue
        if isinstance(value, UploadFile):
            raise ApiError(
                400, f"'{key[:40]}' is a file: a mask is not taken, words say where", param=key[:40]
            )
        match = _FIELD.fullmatch(key)
        if match is None:
            raise ApiError(400, f"unknown field '{key[:40]}'", param=key[:40])
        path = [match[1], *re.findall(r"\[([a-z_0-9]*)\]", match[2])]
        if path == ["identity"]:
            given.setdefault("identity", {}).update(_json_object(value))
        elif len(path) == 1:
            given[path[0]] = value
        elif path[0] == "identity" and len(path) == 2:
            given.setdefault("identity", {})[path[1]] = value
        elif path[0] == "identity" and len(path) == 3 and (not path[2] or path[2].isdigit()):
            several = given.setdefault("identity", {}).setdefault(path[1], [])
            if not isinstance(several, list):
                raise ApiError(400, f"'{key[:40]}' is given in two ways", param=key[:40])
            several.append(value)
        else:
            raise ApiError(400, f"unknown field '{key[:40]}'", param=key[:40])
    try:
        return EditRequestBody.model_validate(given, strict=False)
    except ValidationError as error:
        raise _invalid(error.errors()) from None


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ApiError(400, "identity is a JSON object", param="identity")
    return found


def _invalid(errors: Any) -> ApiError:
    first = errors[0]
    if first["type"] in ("json_invalid", "model_attributes_type", "missing") and first["loc"] == ("body",):
        return ApiError(400, "the request is no JSON object of Content-Type application/json")
    if first["type"] == "json_invalid":
        return ApiError(400, f"the request is no valid JSON: {first.get('ctx', {}).get('error', 'damaged')}")
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return ApiError(400, f"{where}: {first['msg']}", param=where)


def _form_schema() -> dict[str, Any]:
    class EditForm(EditRequestBody):
        """The fields of the form."""

    schema = EditForm.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    schema["properties"]["identity"] = {"type": "string", "description": "JSON, see EditIdentity."}
    schema["properties"]["image"] = {"type": "string", "format": "binary"}
    schema["required"] = [*schema.get("required", ()), "image"]
    return schema


def _add_page(app: FastAPI) -> None:
    """The page about the interface, with everything that it needs from this server."""
    import swagger_ui_bundle

    app.mount("/v1/docs-assets", StaticFiles(directory=swagger_ui_bundle.swagger_ui_path))

    @app.get("/v1/docs", include_in_schema=False)
    async def page() -> HTMLResponse:  # pyright: ignore[reportUnusedFunction]
        return get_swagger_ui_html(
            openapi_url="/v1/openapi.json",
            title="idpersona studio: interface",
            swagger_js_url="/v1/docs-assets/swagger-ui-bundle.js",
            swagger_css_url="/v1/docs-assets/swagger-ui.css",
            swagger_favicon_url="/v1/docs-assets/favicon-32x32.png",
        )


def _add_errors(app: FastAPI) -> None:
    def answer(error: ApiError, headers: dict[str, str] | None = None) -> Response:
        return Response(error_body(error), error.status, headers, media_type="application/json")

    async def ours(_request: Request, error: Exception) -> Response:
        assert isinstance(error, IdPersonaError)
        headers = {"Retry-After": str(error.seconds)} if isinstance(error, TooOften) else None
        return answer(as_api_error(error), headers)

    async def api(_request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return answer(error)

    async def invalid(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return answer(_invalid(error.errors()))

    async def http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        told = str(error.detail)
        if error.status_code == 400 and "parsing the body" in told:
            told = "the request is no valid JSON, or no valid form"
        return answer(ApiError(error.status_code, told), dict(error.headers or {}))

    async def defect(_request: Request, _error: Exception) -> Response:
        # It is raised again, and logged by the guard.
        return answer(ApiError(500, "internal error; the studio's log says more"))

    app.add_exception_handler(Exception, defect)
    app.add_exception_handler(IdPersonaError, ours)
    app.add_exception_handler(ApiError, api)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
