"""One HTTP request on a connection of its own. What comes back is kept, with its time, and read
later: at 20,000 events a second a client that parsed each would be what is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from urllib.parse import urlsplit

# Time and bytes of what was received; True closes the connection.
Take = Callable[[float, bytes], object]


async def exchange(method: str, url: str, headers: dict[str, str], body: bytes, take: Take) -> None:
    """Until the server closes, as it is asked to. Raises OSError.

    There is no pool: requests would wait for one another, and a connection that is used again may
    turn out closed, which would count as the server's error. Nor is there a proxy.
    """
    address = urlsplit(url)
    assert address.hostname is not None
    is_https = address.scheme == "https"
    transport, connection = await asyncio.get_running_loop().create_connection(
        lambda: _Connection(take),
        address.hostname,
        address.port or (443 if is_https else 80),
        ssl=is_https or None,
    )
    fields = {"host": address.netloc, "connection": "close", "content-length": len(body), **headers}
    lines = [f"{name}: {value}\r\n" for name, value in fields.items()]
    head = f"{method} {address.path} HTTP/1.1\r\n{''.join(lines)}\r\n"
    try:
        transport.write(head.encode() + body)
        await connection.closed
    finally:
        transport.close()


class _Connection(asyncio.Protocol):
    def __init__(self, take: Take) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._take = take

    def data_received(self, data: bytes) -> None:
        if not self.closed.done() and self._take(time.monotonic(), data) is True:
            self.closed.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.closed.done():
            return
        if exc is None:
            self.closed.set_result(None)
        else:
            self.closed.set_exception(exc)
