"""What the API's document says of answers that every route may give: errors and event streams."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from qoq.server import answer

Responses = dict[int | str, dict[str, Any]]

TEXT = {"schema": {"type": "string"}}
EVENT_STREAM = {
    "text/event-stream": {
        "schema": {
            "type": "string",
            "description": "Where `stream` is true: events `data: {chunk}`, at last `data: [DONE]`;"
            ' an error on the way is an event `data: {"error": ...}`.',
        }
    }
}

_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_CHALLENGE = {"WWW-Authenticate": {"schema": {"type": "string"}}}
_ALLOW = {"Allow": {"description": "The methods it takes.", "schema": {"type": "string"}}}
_NO_RETRY = {
    "x-should-retry": {
        "description": "`false`: the same request will fail again.",
        "schema": {"type": "string"},
    }
}

_ERRORS: dict[int, tuple[str, dict[str, Any]]] = {
    400: ("A field is at fault; `param` names it and `code` says how.", _NO_RETRY),
    401: ("The API key is missing or not known.", _NO_RETRY | _CHALLENGE),
    404: ("There is no such model, URL or object.", _NO_RETRY),
    405: ("The URL does not take this method.", _NO_RETRY | _ALLOW),
    408: ("The answer took longer than the request's `timeout`.", _NO_RETRY),
    413: ("The body is larger than the server reads.", _NO_RETRY),
    415: ("The body is announced as something else than JSON.", _NO_RETRY),
    429: ("The server answers as many requests as it takes on.", _RETRY_AFTER),
    500: ("The server failed; its log has the cause under the x-request-id.", _NO_RETRY),
    503: ("The engine is loading, or failed and is being restarted.", _RETRY_AFTER),
}


def responses(**success: Any) -> Responses:
    """A route's answers; ``success`` describes the good one."""
    errors: Responses = {
        status: {"model": answer.ErrorBody, "description": description, "headers": headers}
        for status, (description, headers) in _ERRORS.items()
    }
    return {200: {"description": "Success", **success}, **errors}


class App(FastAPI):
    """Leaves out of the document what FastAPI assumes: mistakes get a 400, never a 422."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
        return document
