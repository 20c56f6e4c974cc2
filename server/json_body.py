"""Refuses a body that is announced as something else than JSON; one not announced may be it."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from qoq.server.errors import ApiError


class JsonBodyMiddleware:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or _is_json(Headers(scope=scope)):
            return await self._app(scope, receive, send)
        refusal = ApiError(
            "The body must be JSON: send 'Content-Type: application/json'.",
            status=415,
            code="unsupported_media_type",
        )
        await refusal.response()(scope, receive, send)


def _is_json(headers: Headers) -> bool:
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type in ("", "application/json") or media_type.endswith("+json")
