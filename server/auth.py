"""API keys: every route but the probes asks for one, where the server has any."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from qoq.server.errors import ApiError

PROBES = frozenset({"/health", "/ready"})


class ApiKeyMiddleware:
    """Compares digests, and all of them: the time says nothing of a key, nor of its length."""

    def __init__(self, app: ASGIApp, api_keys: Sequence[str]) -> None:
        self._app = app
        self._digests = [sha256(key.encode()).digest() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("authorization", "").encode("latin-1")  # as it came
        scheme, _, key = given.partition(b" ")
        if scheme.lower() == b"bearer" and self._is_known(key.strip()):
            return await self._app(scope, receive, send)
        refusal = _missing() if not given else _incorrect()
        await refusal.response()(scope, receive, send)

    def _is_known(self, key: bytes) -> bool:
        digest = sha256(key).digest()
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def _missing() -> ApiError:
    return _refusal("This server needs an API key: send 'Authorization: Bearer KEY'.")


def _incorrect() -> ApiError:
    return _refusal("The API key is not one of this server's.")


def _refusal(message: str) -> ApiError:
    return ApiError(
        message, status=401, code="invalid_api_key", headers={"www-authenticate": "Bearer"}
    )
