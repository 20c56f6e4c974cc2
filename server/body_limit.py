"""Refuses a body that is too large: by its announced length, or as soon as too much has come."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qoq.server.errors import ApiError


class BodyLimitMiddleware:
    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            refusal = ApiError(self._message(), status=413, code="body_too_large")
            return await refusal.response()(scope, receive, send)
        num_bytes = 0

        async def receive_within_limit() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                # The one class of exception that FastAPI lets through while it reads a body.
                raise HTTPException(413, self._message())
            return message

        await self._app(scope, receive_within_limit, send)

    def _message(self) -> str:
        return f"The body is larger than the {self._max_bytes} bytes that this server reads."
