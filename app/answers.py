"""Errors as the interface answers them: in OpenAI's form, which its clients understand."""

from __future__ import annotations

import json

from idpersona.app.engine import Busy, Cancelled
from idpersona.app.limits import TooOften
from idpersona.app.speech import hide_places
from idpersona.errors import (
    ConsentRequired,
    IdPersonaError,
    LicenceRefused,
    MissingWeights,
    PersonRefused,
    UnknownName,
)

CODES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    413: "too_large",
    429: "rate_limit_exceeded",
    500: "internal_error",
    503: "busy",
}


class ApiError(Exception):
    """An answer other than the one that was asked for."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None):
        self.status, self.message, self.param = status, message, param
        self.code = code or CODES.get(status, "invalid_request")
        super().__init__(message)


def error_body(error: ApiError) -> bytes:
    """JSON of an error."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    told = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return json.dumps({"error": told}).encode()


def as_api_error(error: IdPersonaError) -> ApiError:
    """The answer to something that the package refuses."""
    status, code = 400, None
    if isinstance(error, TooOften):
        status = 429
    elif isinstance(error, (Busy, Cancelled)):
        status = 503
    elif isinstance(error, (PersonRefused, ConsentRequired, LicenceRefused)):
        status, code = 403, "refused"
    elif isinstance(error, UnknownName) and error.kind == "base":
        status, code = 404, "model_not_found"
    elif isinstance(error, MissingWeights):
        status, code = 503, "missing_weights"
    return ApiError(status, hide_places(str(error)), code)
