"""The API process that made a response keeps it, and others send on what is asked about it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from contextlib import aclosing, suppress

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qoq.server.errors import ApiError
from qoq.server.responses.store import not_found
from qoq.server.stream import until_client_goes

Headers = list[tuple[bytes, bytes]]

_ID = re.compile(r"resp_([0-9a-f]{4})[0-9a-f]{32}")
_NO_POOL = httpx.Limits(max_keepalive_connections=0)  # one kept may be closed when it is used
# Of one connection, or of one server: both processes write their own.
_NOT_PASSED_ON = frozenset(
    b"connection date expect keep-alive proxy-connection server te trailer "
    b"transfer-encoding upgrade".split()
)


class Owners:
    """``sockets`` are those of all API processes, ``own`` the place of this one among them."""

    def __init__(self, sockets: Sequence[str] = (), own: int = 0) -> None:
        self._own = own
        self._ways = {
            place: httpx.AsyncHTTPTransport(uds=path, verify=False, limits=_NO_POOL)
            for place, path in enumerate(sockets)
            if place != own
        }

    def new_id(self) -> str:
        return f"resp_{self._own:04x}{uuid.uuid4().hex}"

    async def forwarded(
        self, request: Request, response_id: str | None, param: str
    ) -> Response | None:
        """What the owner says to ``request``; None where that is this process, or nobody."""
        named = _ID.fullmatch(response_id or "")
        if named is None or (way := self._ways.get(int(named[1], 16))) is None:
            return None
        return _Forwarded(way, await _copy(request), not_found(named[0], param))


class _Forwarded(Response):
    """The owner's answer, as it comes. If the client goes, the owner sees its client go."""

    def __init__(
        self, way: httpx.AsyncBaseTransport, request: httpx.Request, no_owner: ApiError
    ) -> None:
        super().__init__()
        self._way = way
        self._request = request
        self._no_owner = no_owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            await until_client_goes(receive, self._pass_on(send))

    async def _pass_on(self, send: Send) -> None:
        async with aclosing(await self._ask()) as answer:
            headers = _passed_on(answer.headers.raw)
            start = {"type": "http.response.start", "status": answer.status_code}
            await send(start | {"headers": headers})
            async for part in answer.aiter_raw():
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _ask(self) -> httpx.Response:
        try:
            return await self._way.handle_async_request(self._request)
        except httpx.TransportError as error:
            raise self._no_owner from error


async def _copy(request: Request) -> httpx.Request:
    """Without httpx's own headers and timeouts, which its client would add."""
    return httpx.Request(
        request.method,
        "http://qoq",
        headers=_passed_on(request.headers.raw),
        content=await request.body(),
        extensions={"target": request["raw_path"] + b"?" + request["query_string"]},
    )


def _passed_on(headers: Headers) -> Headers:
    return [(name, value) for name, value in headers if name.lower() not in _NOT_PASSED_ON]
