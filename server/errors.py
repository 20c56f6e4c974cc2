"""Exception -> (status, OpenAI error body), in one table. Nothing else answers with an error.

ApiError                  400 unless it says otherwise: the client's mistake, found by us
RequestValidationError    400: the body does not fit the wire format
StarletteHTTPException    404, 405, 413 and unreadable bodies, found by the framework
EngineDeadError           503 with the cause
ClientDisconnect          499, which nobody reads
Exception                 500: our bug
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route

from qoq.engine.protocol import EngineDeadError

RETRY_AFTER_S = 5

_log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer other than success. ``param`` is the path of the field that is to blame."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code
        self.headers = dict(headers or {})

    @property
    def _may_pass(self) -> bool:
        """Whether the same request may succeed later. Official clients retry what is not denied."""
        return self.status in (409, 429) or self.status > 500

    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> Response:
        if not self._may_pass:
            self.headers.setdefault("x-should-retry", "false")
        # ASCII, because a message may quote half a surrogate pair from the request.
        content = json.dumps(self.body())
        return Response(content, self.status, self.headers, media_type="application/json")


def unavailable(message: str, code: str) -> ApiError:
    return ApiError(message, status=503, code=code, headers={"retry-after": str(RETRY_AFTER_S)})


def install(app: FastAPI) -> None:
    app.add_exception_handler(ApiError, _handle)
    app.add_exception_handler(RequestValidationError, _handle)
    app.add_exception_handler(StarletteHTTPException, _handle)
    app.add_exception_handler(EngineDeadError, _handle)
    app.add_exception_handler(ClientDisconnect, _handle)
    app.add_exception_handler(Exception, _handle)


async def _handle(request: Request, error: Exception) -> Response:
    answer = as_api_error(error, request)
    if answer.status == 500:  # answered outside the middleware that would add it
        request_id = request.scope["state"]["request_id"]
        answer.headers["x-request-id"] = request_id
        _log.error("%s: %s %s failed: %r", request_id, request.method, request.url.path, error)
    return answer.response()


def as_api_error(error: Exception, request: Request | None = None) -> ApiError:
    match error:
        case ApiError():
            return error
        case RequestValidationError():
            return _from_validation(error)
        case StarletteHTTPException():
            return _from_framework(error, request)
        case EngineDeadError():
            return unavailable(str(error), "engine_dead")
        case ClientDisconnect():
            return ApiError("The client closed the connection.", status=499)
        case _:
            return ApiError(
                "The server failed on this request; its log has the cause, under the x-request-id "
                "or the answer's own id.",
                status=500,
                code="internal_error",
            )


def _from_framework(error: StarletteHTTPException, request: Request | None) -> ApiError:
    called = f"{request.method} {request.url.path}" if request else "this call"
    message, code = {
        400: ("The body is not JSON in UTF-8.", "invalid_json"),
        404: (f"There is no such URL: {called}.", "unknown_url"),
        405: (f"This URL does not take the method: {called}.", "method_not_supported"),
        413: (error.detail, "body_too_large"),
    }.get(error.status_code, (error.detail, None))
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    if request and error.status_code == 405:
        headers["allow"] = _allowed_methods(request)
    return ApiError(message, status=error.status_code, code=code, headers=headers)


def _allowed_methods(request: Request) -> str:
    """Of all routes with the URL's path; the framework names those of the first."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for route in matching for method in route.methods or ()}))


# Pydantic's error type -> OpenAI's code, tried in order.
_CODES = [
    (r"missing", "missing_required_parameter"),
    (r"extra_forbidden", "unknown_parameter"),
    (r"json_invalid", "invalid_json"),
    (r"unsupported_parameter", "unsupported_parameter"),
    (r"too_short", "empty_array"),
    (r"too_long", "array_above_max_length"),
    (r"string_too_short", "empty_string"),
    (r"string_too_long", "string_above_max_length"),
    (r"int_from_float|invalid_type|\w+_type", "invalid_type"),
]


def _from_validation(error: RequestValidationError) -> ApiError:
    """The first complaint alone: OpenAI's shape has room for one."""
    first = error.errors()[0]
    kind, param = first["type"], _path(first["loc"])
    message = {
        "missing": f"Missing required parameter: '{param}'.",
        "extra_forbidden": f"Unrecognized request argument supplied: {param}",
        "json_invalid": f"The body is not JSON: {first.get('ctx', {}).get('error')}.",
    }.get(kind, f"Invalid '{param or 'body'}': {_sentence(first['msg'])}.")
    if kind == "json_invalid":
        param = None
    if kind == "missing" and param is None:
        message = "The request has no JSON body."
    return ApiError(message, param=param, code=_code(kind, first.get("ctx", {})))


def _code(kind: str, context: Mapping[str, object]) -> str:
    """A field of decimals complains of decimals, also where it was given an integer."""
    bound = {"greater_than": "below_min_value", "less_than": "above_max_value"}
    for prefix, code in bound.items():
        if kind.startswith(prefix):
            is_integer = all(isinstance(limit, int) for limit in context.values())
            return f"{'integer' if is_integer else 'decimal'}_{code}"
    return next((code for pattern, code in _CODES if re.fullmatch(pattern, kind)), "invalid_value")


def _path(loc: Sequence[int | str]) -> str | None:
    """``("body", "messages", 0, "<parts>", "role")`` -> ``messages[0].role``."""
    path = ""
    for step in loc[1:]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith(("<", "[")):  # names a union's member or a key, not a field
            path += f".{step[:64]}" if path else step[:64]
    return path or None


def _sentence(message: str) -> str:
    return message[:1].lower() + message[1:].rstrip(".")
