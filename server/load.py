"""How many requests are being answered, and a refusal of those that are too many."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from qoq.server.errors import RETRY_AFTER_S, ApiError


class Load:
    """``num_requests`` are being answered, from their first byte to the last of their streams."""

    def __init__(self, max_requests: int) -> None:
        self.max_requests = max_requests
        self.num_requests = 0


class LoadMiddleware:
    """Counts POSTs, which are what makes work; probes and metrics are answered always."""

    def __init__(self, app: ASGIApp, load: Load) -> None:
        self._app = app
        self._load = load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        if self._load.num_requests >= self._load.max_requests:
            return await self._refusal().response()(scope, receive, send)
        self._load.num_requests += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._load.num_requests -= 1

    def _refusal(self) -> ApiError:
        return ApiError(
            f"The server is answering {self._load.max_requests} requests, as many as it takes on.",
            status=429,
            code="rate_limit_exceeded",
            headers={"retry-after": str(RETRY_AFTER_S)},
        )
